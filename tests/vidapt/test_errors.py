"""Exit codes of the typed errors."""

import pytest

from vidapt.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    Interrupted,
    StorageError,
    TrainingError,
    UserError,
    VidaptError,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (VidaptError, 1),
        (UserError, 2),
        (ConfigError, 2),
        (InputError, 2),
        (CheckpointError, 2),
        (StorageError, 1),
        (TrainingError, 1),
    ],
)
def test_exit_code(kind: type[VidaptError], code: int) -> None:
    assert kind("what was given, what is allowed").exit_code == code


@pytest.mark.parametrize(("signal_number", "code"), [(2, 130), (15, 143)])
def test_interrupted_leaves_as_the_shell_does(signal_number: int, code: int) -> None:
    error = Interrupted("resume with --resume runs/demo", signal_number)
    assert error.exit_code == code
    assert str(error) == "resume with --resume runs/demo"


def test_bad_input_is_told_from_our_own_failures() -> None:
    assert not issubclass(StorageError, UserError)
    assert not issubclass(Interrupted, UserError)
    assert VidaptError("x").exit_code == 1, "an interruption must not change the class's own code"

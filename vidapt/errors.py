"""Typed errors: what a caller may catch, and which exit code the command line gives them."""


class VidaptError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


class UserError(VidaptError):
    """Bad input or configuration: the message says what was given, what is allowed and what to do (exit code 2)."""

    exit_code = 2


class ConfigError(UserError):
    """A recipe, a ``--set`` value or a class table that does not fit its schema."""


class InputError(UserError):
    """A video, image, folder or label file that cannot be read as what it should be."""


class SingleImagesError(InputError):
    """Clips of several frames were asked of footage that consists of single images."""


class CheckpointError(UserError):
    """A checkpoint that is missing, truncated or belongs to another architecture or label space."""


class StorageError(VidaptError):
    """Writing failed, for example on a full disk; what was written before is intact (exit code 1)."""


class TrainingError(VidaptError):
    """Training cannot go on, for example after several non-finite steps in a row (exit code 1)."""


class Interrupted(VidaptError):  # noqa: N818 - an outcome, not a failure
    """A signal ended the run after its state was saved.

    Args:
        message: One line that says how to resume.
        signal_number: 2 (Ctrl-C) gives exit code 130, 15 (SIGTERM) gives 143.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number

"""What holds for every test: one thread per worker, no network, the same examples in every run."""

import os
import socket
from typing import Any

import pytest
from hypothesis import settings

# Must be set before torch, OpenCV or numpy are imported: the workers of pytest-xdist share the machine's cores.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The terminal of whoever runs the tests must not change what the command line prints.
os.environ["COLUMNS"] = "120"
os.environ["NO_COLOR"] = "1"

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

_LOCAL = ("127.", "::1", "localhost", "0.0.0.0")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave this machine."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(_LOCAL):
            raise AssertionError(f"a test tried to reach {address}; tests use no network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)

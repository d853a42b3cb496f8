"""Stop requests: the first SIGTERM or Ctrl-C is noted and honoured after the step, the second ends the process."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """Context that notes stop signals instead of letting them end the process.

    Handlers can only be set in the main thread; elsewhere the context notes nothing. The previous handlers are back
    in place afterwards. SIGUSR1 (which clusters send before a job's time is up) asks for a checkpoint without stopping.

    Attributes:
        received: Number of the stop signal that arrived, 0 = none.
        save: True once SIGUSR1 has arrived; the owner sets it back after saving.
    """

    def __init__(self) -> None:
        self.received = 0
        self.save = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._previous[number] = signal.signal(number, self._note_stop)
            self._previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._note_save)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None means that the handler was not set from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _note_stop(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = number

    def _note_save(self, number: int, frame: FrameType | None) -> None:
        self.save = True

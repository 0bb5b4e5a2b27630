"""Graceful stopping: SIGTERM and Ctrl-C, noticed between two steps of a stage."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from noisy_student_jax.core.errors import Interrupted

Handler = Callable[[int, FrameType | None], Any] | int | None

EXIT_STATUS = 75
"""Exit status of a command that saved its state and stopped on a signal
(``EX_TEMPFAIL``: try again)."""


class Interruption:
    """Records that a signal arrived; long loops call `check`.

    As a context manager it restores the earlier handlers on exit. The first signal
    restores them too, so a second one stops the process at once.
    """

    def __init__(self):
        """Starts without a signal."""
        self.signal: int | None = None
        self._earlier: dict[int, Handler] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def check(self) -> None:
        """Raises Interrupted if a signal has arrived."""
        if self.signal is not None:
            raise Interrupted(f"stopped by {signal.Signals(self.signal).name}")

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            # None: the handler was not installed by Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._earlier = {}

"""Being asked to stop: SIGTERM or Ctrl-C, noticed between two steps of any stage."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from noisy_student_jax.core.errors import Interrupted

Handler = Callable[[int, FrameType | None], Any] | int | None

EXIT_STATUS = 75
"""Of a command that was asked to stop, saved and left (``EX_TEMPFAIL``: try again)."""


class Interruption:
    """Remembers that a signal arrived; long loops call `check`.

    Used as a context manager, which puts the earlier handlers back. A second
    signal stops at once, as it would without us.
    """

    def __init__(self):
        """Makes one that has heard nothing yet."""
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
            # None stands for a handler that was not Python's, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._earlier = {}

"""Graceful stopping: SIGTERM and Ctrl-C, noticed between two steps of a stage.

Python runs its signal handlers in the main thread, between two of its own operations:
not while XLA compiles. A process that belongs to one command (`Interruption` with
``alone``) therefore has a watcher, a thread that the system wakes for each signal. It
ends the process where the main thread does not come to a `check` and has nothing to
save. Ending there is as harmless as SIGKILL: every file is complete or absent.
"""

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from noisy_student_jax.core.errors import Interrupted

Handler = Callable[[int, FrameType | None], Any] | int | None

EXIT_STATUS = 75
"""Exit status of a command that saved its state and stopped on a signal
(``EX_TEMPFAIL``: try again)."""
SAVED = "saved; the same command resumes from here"
AT_ONCE = "stopped at once; the same command resumes from the last save"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 3.0
"""Seconds that the main thread has to come to a `check`."""
_POLL = 0.05


class Interruption:
    """Records that a signal arrived; long loops call `check`.

    As a context manager it restores the earlier handlers on exit. Unless the process is
    its own (`alone`), the first signal restores them too, so that a second one does
    what it did before.
    """

    def __init__(self, *, alone: bool = False):
        """Starts without a signal.

        Args:
          alone: whether the process exists for one command, so that it may be ended. A
            signal ends it at once until `begin`, later if no `check` follows within
            `GRACE` and nothing is `unsaved`; a second signal ends it in any case.
        """
        self.signal: int | None = None
        self._alone = alone
        self._begun = self._noticed = False
        self._unsaved = 0
        self._status: int | None = None
        self._earlier: dict[int, Handler] = {}
        self._heard, self._output = -1, 2

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            if self._alone:
                self._watched()
            for number in SIGNALS:
                self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._alone:
            self._restore()

    def begin(self, *, output: int = 1) -> None:
        """Says that the command begins: from now on it is given time to stop.

        Args:
          output: file descriptor of messages for people.
        """
        self._begun, self._output = True, output

    def end(self, status: int) -> None:
        """Says that the command has ended, with the exit status of the process.

        A signal then ends the process with this status. After a stop the process ends
        here: threads that compile cannot be stopped, and would be waited for.
        """
        self._status = status
        if self._alone:
            atexit.register(_ignore)
        if self._alone and status == EXIT_STATUS:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def check(self) -> None:
        """Raises Interrupted if a signal has arrived."""
        if self.requested:
            assert self.signal is not None
            raise Interrupted(f"stopped by {signal.Signals(self.signal).name}")

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived; who asks has noticed it, and will stop."""
        self._noticed = self.signal is not None
        return self._noticed

    @contextlib.contextmanager
    def unsaved(self) -> Iterator[None]:
        """Keeps a first signal from ending the process: there is work to save."""
        self._unsaved += 1
        try:
            yield
        finally:
            self._unsaved -= 1

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if not self._alone:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            # None: the handler was not installed by Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._earlier = {}

    def _watched(self) -> None:
        """Starts the watcher, to which the system writes the number of each signal."""
        self._heard, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def _watch(self) -> None:
        number = self._next()
        assert number is not None
        self.signal = number
        until = time.monotonic() + GRACE * self._begun
        while not self._noticed and self._status is None:
            if self._unsaved:
                until = time.monotonic() + GRACE
            elif time.monotonic() >= until:
                name = signal.Signals(number).name
                what = SAVED if self._begun else "nothing was begun"
                self._leave(f"stopped by {name}; {what}")
            if self._next(_POLL) is not None:
                self._leave(AT_ONCE)
        if self._status is None:
            self._next()
        self._leave(AT_ONCE)

    def _next(self, seconds: float | None = None) -> int | None:
        """Waits for a signal; returns its number, or None if none came in time."""
        while True:
            ready, _, _ = select.select([self._heard], [], [], seconds)
            if not ready:
                return None
            # Libraries may have handlers for other signals.
            if (number := os.read(self._heard, 1)[0]) in SIGNALS:
                return number

    def _leave(self, line: str) -> None:
        """Ends the process, with a line where the command has not ended."""
        if self._status is not None:
            os._exit(self._status)
        with contextlib.suppress(OSError, ValueError):
            if os.isatty(2):
                os.write(2, b"\r\x1b[K")  # over a line of progress
            # Not through `sys.stdout`, whose lock the main thread may hold; and not
            # into a pipe that nobody reads.
            _, ready, _ = select.select([], [self._output], [], 0)
            if ready:
                os.write(self._output, f"{line}\n".encode())
        os._exit(EXIT_STATUS)


def _ignore() -> None:
    """Ignores signals for the last moments, in which Python puts handlers back."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

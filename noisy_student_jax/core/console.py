"""Console output: messages, warnings and progress."""

import json
import sys
import time
from typing import Any

_last_is_progress = False
_lines_to_stderr = False
_said: set[str] = set()


def leave_stdout_to_machines(machines: bool) -> None:
    """Begins a command: with `machines`, messages for people go to standard error."""
    global _lines_to_stderr
    _lines_to_stderr = machines
    _said.clear()


def output() -> int:
    """Returns the file descriptor of messages for people."""
    return 2 if _lines_to_stderr else 1


def say(line: str = "", *, error: bool = False) -> None:
    """Prints one line, clearing any progress line first."""
    global _last_is_progress
    if _last_is_progress:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
        _last_is_progress = False
    stream = sys.stderr if error or _lines_to_stderr else sys.stdout
    print(line, file=stream, flush=True)


def say_once(line: str) -> None:
    """Prints a line unless the command has printed it before."""
    if line not in _said:
        _said.add(line)
        say(line)


def warn(line: str) -> None:
    """Prints a line marked as a warning."""
    say(f"WARNING: {line}")


def print_json(value: Any) -> None:
    """Prints one JSON object on one line of standard output."""
    print(json.dumps(value), flush=True)


def printable(text: str) -> str:
    """Escapes control characters, for instance in file and class names."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def duration(seconds: float) -> str:
    """Formats 3725 seconds as ``1 h 02 min``, 65 as ``1 min 05 s``, 5 as ``5 s``."""
    seconds = round(seconds)
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Progress:
    """Reports the rate and the time left of a stage and of the whole run.

    A terminal gets one line that is rewritten, a log gets plain lines at intervals.
    Work is counted in any unit proportional to time (multiply–adds here), so the speed
    so far predicts the time left for the run.
    """

    def __init__(self, *, total_work: float = 0.0, every_seconds: float = 10.0):
        """Starts the clock; `total_work` is the work that remains in the run."""
        self.total_work = total_work
        self.every_seconds = every_seconds
        self._done_work = 0.0
        # The speed comes from work whose time was measured.
        self._timed_work = 0.0
        self._spent = 0.0
        self.begin("", work=0.0)

    def begin(self, title: str, *, work: float) -> None:
        """Starts a stage that accounts for `work` of the run's work."""
        self._title, self._work = title, work
        self.start(1, "")

    def start(self, size: int, unit: str, *, at: int = 0) -> None:
        """Sets the size of the stage, its unit, and how much is already done."""
        self._size, self._unit = size, unit
        self._from = self._at = at
        self._started = self._printed = time.monotonic()
        self._compiling = True

    def update(self, at: int, note: str = "") -> None:
        """Records how far the stage is, and prints a line when one is due."""
        global _last_is_progress
        self._at = at
        now = time.monotonic()
        if self._compiling:
            # The first step includes compilation and says nothing about the rate.
            self._compiling = False
            self._from, self._started = at, now
        terminal = sys.stderr.isatty()
        wait = 0.2 if terminal else self.every_seconds
        if now - self._printed < wait:
            return
        self._printed = now
        line = f"{self._title}: {self._line(now)}{note}"
        if terminal:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
            _last_is_progress = True
        else:
            say(line)

    def finish(self) -> None:
        """Ends the stage; its speed contributes to the estimate for the run."""
        self._done_work += self._work
        if self._at > self._from:
            self._timed_work += self._work * (self._at - self._from) / self._size
            self._spent += time.monotonic() - self._started

    def _line(self, now: float) -> str:
        elapsed = max(now - self._started, 1e-9)
        done = self._at - self._from
        rate = done / elapsed
        text = f"{self._at:,}/{self._size:,} {self._unit}"
        if done <= 0:
            return text
        left = (self._size - self._at) / rate
        pace = f"{rate:,.0f}/s" if rate >= 1 else f"{duration(1 / rate)} each"
        text += f", {pace}, {duration(left)} left"
        timed = self._timed_work + self._work * done / self._size
        if self.total_work > 0 and timed > 0:
            speed = timed / (self._spent + elapsed)
            finished = self._done_work + self._work * self._at / self._size
            run_left = max(left, (self.total_work - finished) / speed)
            text += f", run {duration(run_left)} left"
        return text

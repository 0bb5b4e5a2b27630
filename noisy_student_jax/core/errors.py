"""Errors with messages for users, and helpers to word them."""

import json
import struct


class UserError(Exception):
    """A user's mistake, explained in one sentence: what, where, what to do.

    The command line prints the message alone, without a traceback, and exits with
    `status`.
    """

    status = 2


class DamagedFileError(UserError):
    """A file exists but cannot be read; `reason` gives the cause in a few words."""

    def __init__(self, message: str, reason: str = ""):
        """Takes the message for the user and the cause that it contains."""
        super().__init__(message)
        self.reason = reason


class FullDiskError(UserError):
    """A file could not be written as there was no room for it."""

    status = 1


class NothingSelectedError(UserError):
    """No pseudo-label is confident enough, so that a student has nothing to learn."""


class TrainingDivergedError(Exception):
    """Training diverged: the loss is not finite; the last good checkpoint is kept."""


class NotSavedError(OSError):
    """A checkpoint could not be written; earlier ones are kept."""


class Interrupted(Exception):  # noqa: N818 - not an error: asked to stop, saved, leaving
    """SIGTERM or Ctrl-C arrived; everything finished so far is on disk."""


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the known name nearest to `name`, or ''."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


_IN_PLAIN_WORDS: tuple[tuple[type[BaseException] | tuple, str], ...] = (
    (UnicodeError, "it is not UTF-8 text"),
    (json.JSONDecodeError, "it is not JSON"),
    (RecursionError, "it is nested too deeply"),
    (MemoryError, "it takes more memory than there is"),
    (EOFError, "it is cut short"),
    (
        (struct.error, LookupError, TypeError, AttributeError),
        "its structure is damaged",
    ),
    (ArithmeticError, "it has impossible numbers"),
)


def cause(error: BaseException) -> str:
    """Returns why foreign bytes could not be read, in a few plain words.

    Python describes its exceptions to programmers, such as ``'utf-8' codec can't
    decode byte 0xff``; a user is told what that means for the file. Messages of
    `DamagedFileError`, of the system and of libraries are kept, on one line.
    """
    if isinstance(error, DamagedFileError):
        text = error.reason
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        plain = (words for kind, words in _IN_PLAIN_WORDS if isinstance(error, kind))
        text = next(plain, str(error))
    lines = text.strip().splitlines()
    return " ".join(lines[0].split()) if lines else "it is damaged"


def one_line(error: BaseException) -> str:
    """Returns the type and message of an error, without line breaks."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

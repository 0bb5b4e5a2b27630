"""Walks folders for image files, which are found without being opened."""

import collections
import os
import pathlib
import re
import stat
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError

# The suffix makes a file a candidate; its content decides the format later.
SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif"),
    *(".tiff", ".gif", ".heic", ".heif", ".avif", ".ppm", ".pgm"),
}
# Files and folders of systems, network and cloud drives, archivers and tools, besides
# names that begin with a dot.
_LEFT_BEHIND = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler"),
    *("system volume information", "lost+found", "lost.dir", "found.000", "icon\r"),
    *("temporary items", "network trash folder", "__macosx", "@eadir", "@tmp"),
    *("#recycle", "@recycle", "#snapshot", "~snapshot", "onedrivetemp"),
    *("__pycache__", "node_modules"),
}

_OTHER_KINDS = "other kinds of file"
_HIDDEN = "hidden files and folders"
_LINKS = "links that lead nowhere or back"
_NOT_REGULAR = "not regular files"
_RUNS = "folders of runs, of prepared images, or given for another use"
_VANISHED = "files that vanished meanwhile"
# Control characters, line separators, lone surrogates (bytes that are not UTF-8), and
# the backslash, so that escapes cannot be confused with literal names.
_UNSAFE = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_OF_A_RUN = ("config.json", "ledger")


class File(NamedTuple):
    """A file's identity: path, size in bytes and modification time in ns."""

    path: str
    size: int
    modified: int


def safe_text(path: str) -> str:
    r"""Escapes a path so that it can be printed and stored; distinct paths stay so.

    Control characters, bytes that are not UTF-8 and backslashes become escapes such
    as ``\n`` and ``\udcff``; everything else is unchanged.
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), path)


def is_left_behind(name: str) -> bool:
    """Whether a file or folder of this name is a system's or a tool's."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


class Walk:
    """Finds the images below folders, visiting each real folder once.

    Attributes:
      files: the images found.
      left_out: number of skipped entries by first folder and reason.
    """

    def __init__(
        self,
        root: pathlib.Path,
        apart: Sequence[pathlib.Path],
        *,
        passed_over: Collection[str] = (),
    ):
        """Opens no folder yet.

        Args:
          root: the folder that paths are relative to.
          apart: folders that are left out wherever they lie.
          passed_over: suffixes of files that are neither images nor counted.
        """
        self.root, self._passed_over = root, passed_over
        self.files: list[File] = []
        self.left_out: collections.Counter[tuple[str, str]] = collections.Counter()
        self._other_kinds: collections.Counter[tuple[str, str]] = collections.Counter()
        self._first = ""
        self._apart = {_identity(folder) for folder in apart if folder.is_dir()}
        # A link to a parent folder would bring in everything beside the root.
        around = (root, *root.resolve().parents)
        self._seen = {_identity(folder) for folder in around}

    def through(self, folders: Iterable[str], links: Iterable[str]) -> None:
        """Walks folders below the root recursively.

        Follows links last, so that a folder is found under its own name if it has one,
        and in sorted order, so that the result is the same on every system.
        """
        folders, links = list(folders), list(links)
        while folders or links:
            if folders:
                folder = folders.pop()
            else:
                links.sort(reverse=True)
                folder = links.pop()
            identity = _identity(self.root / folder)
            if identity in self._seen:
                self._skip(_LINKS, folder)
                continue
            self._seen.add(identity)
            files, below, links_below = self.scan(folder)
            self.files += files
            folders += below
            links += links_below

    def scan(self, folder: str) -> tuple[list[File], list[str], list[str]]:
        """Returns a folder's images, sub-folders and links to folders.

        Raises:
          UserError: the folder cannot be read.
        """
        files, folders, links = [], [], []
        self._first = folder.partition("/")[0]
        try:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if is_left_behind(entry.name):
                        self._skip(_HIDDEN)
                    elif entry.is_dir(follow_symlinks=False):
                        if not self._is_of_a_run(path):
                            folders.append(path)
                    elif (kind := self._look(entry)) is None:
                        continue
                    elif stat.S_ISDIR(kind.st_mode):
                        if not self._is_of_a_run(path):
                            links.append(path)
                    else:
                        files.append(File(path, kind.st_size, modified_at(kind)))
        except OSError as error:
            raise _unreadable(self.root / folder, error) from error
        return files, folders, links

    def _skip(self, why: str, folder: str | None = None) -> None:
        first = self._first if folder is None else folder.partition("/")[0]
        self.left_out[first, why] += 1

    def _is_of_a_run(self, path: str) -> bool:
        """Whether a folder is a run's, or to be left out; it is counted."""
        folder = os.fspath(self.root / path)
        ours = bool(self._apart) and _identity(self.root / path) in self._apart
        if ours or _is_run(folder) or _is_cache(folder):
            self._skip(_RUNS)
            return True
        return False

    def _look(self, entry: os.DirEntry) -> os.stat_result | None:
        """Returns the status of an entry that is no folder; None if it is skipped."""
        link = entry.is_symlink()
        if not link:
            if not entry.is_file(follow_symlinks=False):
                self._skip(_NOT_REGULAR)
                return None
            if not self._may_be_image(entry.name):
                return None
        try:
            found = entry.stat()
        except FileNotFoundError:
            self._skip(_LINKS if link else _VANISHED)
            return None
        except OSError:
            if not link:
                raise
            self._skip(_LINKS)
            return None
        if stat.S_ISDIR(found.st_mode):
            return found
        if not stat.S_ISREG(found.st_mode):
            self._skip(_NOT_REGULAR)
            return None
        return found if not link or self._may_be_image(entry.name) else None

    def _may_be_image(self, name: str) -> bool:
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a path is slow
        if suffix not in SUFFIXES and suffix not in self._passed_over:
            self._other_kinds[self._first, suffix or "no suffix"] += 1
        return suffix in SUFFIXES

    def counts(self, *, first: str | None = None) -> dict[str, int]:
        """Returns the number of skipped entries by reason, of one folder or of all."""
        found: collections.Counter[str] = collections.Counter()
        kinds: collections.Counter[str] = collections.Counter()
        for counter, whole in ((found, self.left_out), (kinds, self._other_kinds)):
            for (folder, what), count in whole.items():
                if first in (None, folder):
                    counter[what] += count
        if kinds:
            most = sorted(kinds.items(), key=lambda kind: (-kind[1], kind))
            named = [f"{printable(suffix)} {count}" for suffix, count in most[:5]]
            named += ["…"] if len(most) > 5 else []
            found[f"{_OTHER_KINDS} ({', '.join(named)})"] = kinds.total()
        return {why: count for why, count in sorted(found.items()) if count}


def _is_run(folder: str) -> bool:
    # Path.exists raises where a folder may not be entered.
    return all(os.path.exists(f"{folder}/{name}") for name in _OF_A_RUN)  # noqa: PTH110


def _is_cache(folder: str) -> bool:
    """Whether a folder holds prepared images, which are no image files."""
    if not os.path.exists(f"{folder}/.lock"):  # noqa: PTH110 - as in `_is_run`
        return False
    return any(name.startswith("side_") for name in os.listdir(folder))  # noqa: PTH208


def skipped(left_out: dict[str, int]) -> str:
    """Returns counts in parentheses, for a message; "" if nothing was skipped."""
    told = ", ".join(f"{count} {why}" for why, count in left_out.items())
    return f" (left out: {told})" if told else ""


def modified_at(found: os.stat_result) -> int:
    """Returns the time of change in ns; of the year 2262 and later, modulo 2**64."""
    return (found.st_mtime_ns + 2**63) % 2**64 - 2**63


def _identity(folder: pathlib.Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise _unreadable(folder, error) from error
    return found.st_dev, found.st_ino


def _unreadable(place: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"cannot read '{shown(place)}' ({error.strerror or error}): grant access to"
        " it, or move it away"
    )


def shown(path: str | os.PathLike) -> str:
    """Returns a path as a message shows it."""
    return printable(os.fspath(path))

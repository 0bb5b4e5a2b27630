"""Listings of a user's image files, labeled or not.

Files are found here without being opened; `prepare` reads them.
"""

import collections
import csv
import dataclasses
import io
import itertools
import os
import pathlib
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from noisy_student_jax.core import console
from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError, nearest
from noisy_student_jax.core.files import read_foreign_text

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
MISSING = -1
"""The size of a file that a CSV file names and that is not there."""
_GONE = (MISSING, 0)
NOT_REGULAR = -2
"""The size of a folder, pipe or device that a CSV file names."""

_OTHER_KINDS = "other kinds of file"
_HIDDEN = "hidden files and folders"
_LINKS = "links that lead nowhere or back"
_NOT_REGULAR = "not regular files"
_RUNS = "folders of runs and prepared images"
_IN_NO_CLASS = "images in no class folder"
_VANISHED = "files that vanished meanwhile"

# Folders with such names are splits rather than classes.
_LEARNED = {"train", "training", "labeled", "labelled"}
_JUDGED = {"val", "valid", "validation", "dev", "test", "testing", "eval"}
_POOLS = {"unlabeled", "unlabelled", "pool", "extra"}
_BESIDE = {"set", "data", "dataset", "split", "images", "image", "img", "imgs"}
# Control characters, line separators, lone surrogates (bytes that are not UTF-8), and
# the backslash, so that escapes cannot be confused with literal names.
_UNSAFE = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


# Characters without a shape of their own: format characters and variation selectors.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_NUMBER = re.compile(r"\d+(\.0*)?", re.ASCII)
_OF_A_RUN = ("config.json", "ledger")
_NAMED = 5


class File(NamedTuple):
    """A file's identity: path, size in bytes and modification time in ns."""

    path: str
    size: int
    modified: int


@dataclasses.dataclass(frozen=True)
class Listing:
    """Image files, sorted by path.

    Attributes:
      root: folder that the paths are relative to.
      paths: file paths with ``/`` as separator; absolute if a CSV file has them so.
      sizes: int64 ``[files]``, in bytes; `MISSING` or `NOT_REGULAR` for entries of a
        CSV file that cannot be read.
      modified: int64 ``[files]``, modification times in ns.
      labels: int64 ``[files]``, indices into `classes`; None without labels.
      classes: class names in index order; empty without labels.
      left_out: number of skipped entries by reason.
    """

    root: pathlib.Path
    paths: tuple[str, ...]
    sizes: np.ndarray
    modified: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.paths)


def safe_text(path: str) -> str:
    r"""Escapes a path so that it can be printed and stored; distinct paths stay so.

    Control characters, bytes that are not UTF-8 and backslashes become escapes such
    as ``\n`` and ``\udcff``; everything else is unchanged.
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), path)


def is_left_behind(name: str) -> bool:
    """Whether a file or folder of this name is a system's or a tool's."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def list_classes(
    place: str | os.PathLike,
    *,
    classes: Sequence[str] | None = None,
    apart: Sequence[pathlib.Path] = (),
) -> Listing:
    """Lists labeled images.

    Args:
      place: a folder with one sub-folder per class, which may be nested further; or a
        CSV file with the columns ``path`` and ``label``.
      classes: known class names in index order, as for a test set; some may have no
        images. None for the names found, sorted.
      apart: folders that are left out wherever they lie.

    Raises:
      UserError: the place does not exist, or its classes are ambiguous.
    """
    place = _existing(place)
    if place.is_dir():
        return _of_class_folders(place, classes, apart)
    if place.suffix.lower() != ".csv":
        raise UserError(
            f"'{_shown(place)}' is a file: give a folder with one sub-folder per class,"
            " or a .csv file with the columns path and label"
        )
    return _of_csv(place, classes)


def list_images(
    place: str | os.PathLike, *, apart: Sequence[pathlib.Path] = ()
) -> Listing:
    """Lists unlabeled images below a folder, at any depth.

    Args:
      place: the folder.
      apart: folders that are left out wherever they lie.

    Raises:
      UserError: the folder does not exist, or holds no images.
    """
    place = _existing(place)
    if not place.is_dir():
        raise UserError(f"'{_shown(place)}' is a file: give a folder of images")
    walk = _Walk(place, apart)
    files, folders, links = walk.scan("")
    walk.files += files
    walk.through(folders, links)
    if not walk.files:
        raise UserError(
            f"'{_shown(place)}' holds no images{_told(walk.counts())}: give a folder"
            " with images in it"
        )
    return _listing(place, walk.files, walk.counts())


def _of_class_folders(
    place: pathlib.Path, classes: Sequence[str] | None, apart: Sequence[pathlib.Path]
) -> Listing:
    walk = _Walk(place, apart)
    files, folders, links = walk.scan("")
    class_folders = sorted(folders + links)
    if not class_folders:
        there = f"{len(files)} images but " if files else ""
        raise UserError(
            f"'{_shown(place)}' holds {there}no class folders{_told(walk.counts())}:"
            " put the images of each class into a sub-folder named like the class, or"
            " give a .csv file with the columns path and label"
        )
    _check_apart(place, class_folders)
    walk.left_out["", _IN_NO_CLASS] += len(files)
    walk.through(class_folders, [])
    _check_no_splits(place, class_folders, walk.files)
    names = {folder: _class_name(folder) for folder in class_folders}
    found = [(file, names[file.path.partition("/")[0]]) for file in walk.files]
    _check_spelling(place, names.values())
    if classes is None:
        _check_filled(place, walk, class_folders)
        _check_several(place, [label for _, label in found], walk.files)
    return _labeled(place, found, classes, place, walk.counts())


def _labeled(
    root: pathlib.Path,
    found: list[tuple[File, str]],
    classes: Sequence[str] | None,
    place: pathlib.Path,
    left_out: dict[str, int],
) -> Listing:
    """Builds the listing of files paired with their class names."""
    if not found:
        raise UserError(
            f"'{_shown(place)}' holds no images{_told(left_out)}: put some in"
        )
    if classes is None:
        classes = sorted({label for _, label in found})
    index = {name: number for number, name in enumerate(classes)}
    unknown: dict[str, File] = {}
    for file, label in found:
        if label not in index:
            unknown.setdefault(label, file)
    if unknown:
        label, *others = sorted(unknown)
        more = ", ".join(f"'{printable(name)}'" for name in others[: _NAMED - 1])
        more += ", …" if len(others) >= _NAMED else ""
        also = f" (and {len(others)} more are not: {more})" if more else ""
        raise UserError(
            f"'{_shown(unknown[label].path)}' in '{_shown(place)}' is of the class"
            f" '{printable(label)}', which is not among the {len(index)} known"
            f" classes{_nearest_class(label, list(index))}{also}"
        )
    files = [file for file, _ in found]
    labels = [index[label] for _, label in found]
    return _listing(root, files, left_out, labels, tuple(classes))


def _listing(
    root: pathlib.Path,
    files: list[File],
    left_out: dict[str, int],
    labels: list[int] | None = None,
    classes: tuple[str, ...] = (),
) -> Listing:
    order = sorted(range(len(files)), key=lambda number: files[number].path)
    paths, sizes, modified = zip(*(files[number] for number in order), strict=True)
    return Listing(
        root=root,
        paths=paths,
        sizes=np.array(sizes, np.int64),
        modified=np.array(modified, np.int64),
        labels=None if labels is None else np.array(labels, np.int64)[order],
        classes=classes,
        left_out=left_out,
    )


class _Walk:
    """Finds the images below folders, visiting each real folder once.

    Attributes:
      files: the images found.
      left_out: number of skipped entries by first folder and reason.
    """

    def __init__(self, root: pathlib.Path, apart: Sequence[pathlib.Path]):
        self.root = root
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
                        files.append(File(path, kind.st_size, _time(kind)))
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
        if suffix not in SUFFIXES:
            self._other_kinds[self._first, suffix or "no suffix"] += 1
        return suffix in SUFFIXES

    def counts(self, first: str | None = None) -> dict[str, int]:
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


def _told(left_out: dict[str, int]) -> str:
    """Returns counts in parentheses, for a message; "" if nothing was skipped."""
    told = ", ".join(f"{count} {why}" for why, count in left_out.items())
    return f" (left out: {told})" if told else ""


def _of_csv(place: pathlib.Path, classes: Sequence[str] | None) -> Listing:
    label_of: dict[str, str] = {}
    line_of: dict[str, int] = {}
    for line, written, label in _csv_rows(place):
        if not written.strip() or not label:
            raise UserError(
                f"line {line} of '{_shown(place)}' has no"
                f" {'label' if written.strip() else 'path'}: fill it in, or remove the"
                " line"
            )
        path = _tidy(written, place.parent)
        if written != written.strip() and _size_and_time(place.parent / path) == _GONE:
            path = _tidy(written.strip(), place.parent)
        line_of.setdefault(path, line)
        if label_of.setdefault(path, label) != label:
            raise UserError(
                f"'{_shown(place)}' gives '{_shown(path)}' two labels, up to line"
                f" {line}, '{printable(label_of[path])}' and '{printable(label)}':"
                " keep one"
            )
    if not label_of:
        raise UserError(f"'{_shown(place)}' names no images: add lines of path,label")
    names = sorted(set(label_of.values()))
    _check_spelling(place, names)
    if classes is None:
        _check_several(place, names)
    found = [
        (File(path, *_size_and_time(place.parent / path)), label)
        for path, label in label_of.items()
    ]
    listing = _labeled(place.parent, found, classes, place, {})
    _tell_missing(place, [file for file, _ in found], line_of)
    return listing


def _tell_missing(
    place: pathlib.Path, files: list[File], line_of: dict[str, int]
) -> None:
    """Names the first path that leads nowhere; raises if all of them do."""
    missing = [file.path for file in files if file.size == MISSING]
    if not missing:
        return
    path = missing[0]
    told = (
        f"{len(missing):,} of {len(files):,} paths in '{_shown(place)}' lead to no"
        f" file, the first being '{_shown(path)}' in line {line_of[path]}, looked for"
        f" at '{_shown(place.parent / path)}'"
    )
    hint = _where_else(path, place.parent)
    if len(missing) == len(files):
        advice = "give paths that are relative to the folder of the .csv file"
        raise UserError(f"{told}: {hint or advice}")
    console.say_once(f"WARNING: {told}{f' ({hint})' if hint else ''}")


def _where_else(path: str, folder: pathlib.Path) -> str:
    """Says how a path that leads nowhere would lead to a file; "" if it is unknown."""

    def there(other: str) -> bool:
        return _size_and_time(folder / other)[0] >= 0

    if "\\" in path and there(path.replace("\\", "/")):
        return "\\ separates no folders here, so write /"
    steps = pathlib.PurePath(path).parts
    for dropped in range(1, len(steps)):
        if there(pathlib.PurePath(*steps[dropped:]).as_posix()):
            extra = pathlib.PurePath(*steps[:dropped])
            return f"it is there without '{_shown(extra)}', so write it without"
    if there(os.fspath(pathlib.Path(path).absolute())):
        return (
            "it is there below the current folder, but paths are relative to the .csv"
            " file's: move that, or write whole paths"
        )
    wanted = folder / path
    try:
        beside = sorted(os.listdir(wanted.parent))  # noqa: PTH208 - names alone
    except (OSError, ValueError):
        return ""
    for name in beside:
        if _plain(name) == _plain(wanted.name):
            return f"'{_shown(name)}' is there: write names as they are stored"
    for name in beside:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a path is slow
        if stem == wanted.name and suffix.lower() in SUFFIXES:
            return f"'{_shown(name)}' is there: write names with their suffix"
    return ""


def _csv_rows(place: pathlib.Path) -> Iterator[tuple[int, str, str]]:
    """Yields the line number, path and label of each row."""
    text = io.StringIO(read_foreign_text(place), newline="")
    rows = csv.reader(text, skipinitialspace=True)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        if "path" not in header or "label" not in header:
            raise UserError(
                f"'{_shown(place)}' needs a first line that names the columns path and"
                f" label, separated by commas, and has '{printable(','.join(header))}'"
            )
        columns = header.index("path"), header.index("label")
        for row in rows:
            if row:
                row += [""] * (len(header) - len(row))
                yield rows.line_num, row[columns[0]], row[columns[1]].strip()
    except csv.Error:
        raise UserError(
            f"line {rows.line_num} of '{_shown(place)}' is not CSV (a quotation mark"
            " before it may not be closed): repair it"
        ) from None


def _tidy(path: str, folder: pathlib.Path) -> str:
    """Normalizes a path: no ``./`` or ``//``, and relative if below `folder`."""
    whole = pathlib.PurePath(path)
    if whole.is_relative_to(folder):
        whole = whole.relative_to(folder)
    return whole.as_posix()


def _size_and_time(path: pathlib.Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return MISSING, 0  # a ValueError: the name has a null character
    except OSError:
        return 0, 0  # reading it will report the error
    if not stat.S_ISREG(found.st_mode):
        return NOT_REGULAR, 0
    return found.st_size, _time(found)


def _time(found: os.stat_result) -> int:
    """Returns the time of change in ns; of the year 2262 and later, modulo 2**64."""
    return (found.st_mtime_ns + 2**63) % 2**64 - 2**63


def _class_name(folder: str) -> str:
    """Returns the folder's name, escaped if it is not UTF-8."""
    try:
        folder.encode()
    except UnicodeEncodeError:
        return safe_text(folder)
    return folder


def _check_apart(place: pathlib.Path, folders: list[str]) -> None:
    """Checks that no class folder equals or contains another through a link."""
    real = sorted(((place / name).resolve().parts, name) for name in folders)
    for (outer, first), (inner, second) in itertools.pairwise(real):
        if inner[: len(outer)] == outer:
            what = "is the same folder as" if inner == outer else "lies in"
            raise UserError(
                f"the class folder '{_shown(second)}' of '{_shown(place)}' {what}"
                f" '{_shown(first)}', so that images would be of two classes: remove"
                " one, or the link"
            )


def _check_no_splits(
    place: pathlib.Path, folders: list[str], files: list[File]
) -> None:
    """Checks that the folders are classes and not splits of a dataset."""
    below: dict[str, set[str | None]] = {folder: set() for folder in folders}
    for file in files:
        folder, name, *rest = file.path.split("/", 2)
        below[folder].add(name if rest else None)
    found = list(below.values())
    kinds = {folder: _kind_of_split(folder) for folder in folders}
    named = all(kinds.values()) or {"learned", "judged"} <= set(kinds.values())
    alike = len(found[0]) > 1 and all(names == found[0] for names in found)
    if len(folders) < 2 or not (named or (alike and None not in found[0])):
        return
    some = ", ".join(f"'{_shown(folder)}'" for folder in folders[:3])
    why = "" if named else " with the same sub-folders in each"
    inside = [name for name in folders if below[name] - {None}]
    advice = [
        f"--config.{flag}={_shown(place / folder)}"
        for flag, kind in (("labeled", "learned"), ("test", "judged"))
        for folder in [name for name in inside if kinds[name] == kind][:1]
    ]
    give = f"give {' and '.join(advice)}" if advice else "give one of them"
    if not inside:
        give = "sort the images in them into one folder per class"
    raise UserError(
        f"'{_shown(place)}' looks like a folder of splits ({some}){why}: {give}, or"
        " give a .csv file with the columns path and label if they are classes"
    )


def _kind_of_split(folder: str) -> str | None:
    """Returns what images a folder of this name is for, if it is no class's."""
    words = set(re.findall("[a-z]+", folder.lower())) - _BESIDE
    names = {"learned": _LEARNED, "judged": _JUDGED, "pool": _POOLS}
    found = (kind for kind, known in names.items() if words and words <= known)
    return next(found, None)


def _check_spelling(place: pathlib.Path, names: Iterable[str]) -> None:
    """Checks that no two class names differ only in what can hardly be seen."""
    alike: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for name in names:
        other = alike.setdefault(_plain(name), name)
        if other != name:
            pairs.append((other, name))
    if not pairs:
        return
    told = [
        f"'{printable(one)}' and '{printable(other)}' of '{_shown(place)}' differ only"
        f" in {_difference(one, other)}"
        for one, other in pairs[:_NAMED]
    ]
    more = f", and {len(pairs) - _NAMED} more pairs" if len(pairs) > _NAMED else ""
    raise UserError(f"the classes {', '.join(told)}{more}: merge them, or rename one")


def _plain(name: str) -> str:
    """Returns a form that names share which look the same."""
    name = unicodedata.normalize("NFC", name)
    name = " ".join(_INVISIBLE.sub("", name).split()).casefold()
    return str(int(name.split(".")[0])) if _NUMBER.fullmatch(name) else name


def _difference(one: str, other: str) -> str:
    """Says in what two names differ that have the same plain form."""
    forms: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("how an accent is stored", lambda name: unicodedata.normalize("NFC", name)),
        ("upper and lower case", str.casefold),
        ("spaces", lambda name: " ".join(name.split())),
        ("characters that cannot be seen", lambda name: _INVISIBLE.sub("", name)),
    )
    for what, form in forms:
        if form(one) == form(other):
            return what
    numbers = all(_NUMBER.fullmatch(name.strip()) for name in (one, other))
    return "how a number is written" if numbers else "signs that look the same"


def _check_filled(place: pathlib.Path, walk: _Walk, folders: list[str]) -> None:
    """Checks that each class folder has images."""
    filled = {file.path.partition("/")[0] for file in walk.files}
    if not (empty := [folder for folder in folders if folder not in filled]):
        return
    told = [
        f"'{_shown(folder)}'{_told(walk.counts(folder))}" for folder in empty[:_NAMED]
    ]
    more = f" and {len(empty) - _NAMED} more" if len(empty) > _NAMED else ""
    which, them = "class folder", "it"
    if len(empty) > 1:
        which, them = f"{len(empty)} class folders", "them"
    raise UserError(
        f"no image is in the {which} {', '.join(told)}{more} of '{_shown(place)}':"
        f" put some in, or remove {them}"
    )


def _check_several(
    place: pathlib.Path, labels: Sequence[str], files: Sequence[File] = ()
) -> None:
    """Checks that there are two or more classes."""
    if len(set(labels)) != 1:
        return
    deep = [file.path.split("/") for file in files if file.path.count("/") > 1]
    below = {(first, second) for first, second, *_ in deep}
    inside = ""
    if len(below) > 1:
        (folder,) = {first for first, _ in below}
        inside = (
            f" (if the {len(below)} sub-folders in it are the classes, give"
            f" --config.labeled={_shown(place / folder)})"
        )
    raise UserError(
        f"'{_shown(place)}' has one class, '{printable(labels[0])}': at least two are"
        f" needed{inside}"
    )


def _nearest_class(label: str, classes: list[str]) -> str:
    """Names the known class that is meant, if there is one."""
    for name in classes:
        if _plain(name) == _plain(label):
            in_what = _difference(name, label)
            return f"; it differs from '{printable(name)}' in {in_what}"
    return nearest(label, classes)


def _existing(place: str | os.PathLike) -> pathlib.Path:
    place = pathlib.Path(place).absolute()
    try:
        place.stat()
    except OSError as error:
        why = (
            "does not exist" if isinstance(error, FileNotFoundError) else error.strerror
        )
        raise UserError(
            f"'{_shown(place)}' {why}: give a folder of images that can be read"
        ) from error
    return place


def _identity(folder: pathlib.Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise _unreadable(folder, error) from error
    return found.st_dev, found.st_ino


def _unreadable(place: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"cannot read '{_shown(place)}' ({error.strerror or error}): grant access to"
        " it, or move it away"
    )


def _shown(path: str | os.PathLike) -> str:
    return printable(os.fspath(path))

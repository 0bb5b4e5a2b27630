"""Listings of a user's image files, labeled or not.

Files are found here without being opened; `prepare` reads them.
"""

import csv
import dataclasses
import io
import os
import pathlib
import stat
from collections.abc import Iterator, Sequence

import numpy as np

from noisy_student_jax.core import console
from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.files import read_foreign_text
from noisy_student_jax.data.cache.class_names import (
    NAMED,
    check_apart,
    check_filled,
    check_no_splits,
    check_several,
    check_spelling,
    class_name,
    nearest_class,
    plain,
)
from noisy_student_jax.data.cache.walk import (
    SUFFIXES,
    File,
    Walk,
    modified_at,
    shown,
    skipped,
)

MISSING = -1
"""The size of a file that a CSV file names and that is not there."""
_GONE = (MISSING, 0)
NOT_REGULAR = -2
"""The size of a folder, pipe or device that a CSV file names."""
_IN_NO_CLASS = "images in no class folder"


@dataclasses.dataclass(frozen=True)
class Listing:
    """Image files, sorted by path.

    Attributes:
      root: folder that the paths are relative to.
      paths: file paths with ``/`` as separator; absolute if a CSV file has them so.
      sizes: int64 ``[files]``, in bytes; `MISSING` or `NOT_REGULAR` for entries of a
        CSV file that cannot be read.
      modified: int64 ``[files]``, modification times in ns.
      labels: of the files, ``[files, …]``: indices into `classes`, or boxes (see
        `data.labels`); None without labels.
      classes: class names in index order; empty without labels.
      left_out: number of skipped entries by reason.
      parts: the part of the dataset that each file is for, ``[files]``, if the files
        come with splits; None otherwise.
      told: lines about the labels, for people.
      facts: what is counted about the labels.
    """

    root: pathlib.Path
    paths: tuple[str, ...]
    sizes: np.ndarray
    modified: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    left_out: dict[str, int]
    parts: np.ndarray | None = None
    told: tuple[str, ...] = ()
    facts: dict[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)


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
    place = existing(place)
    if place.is_dir():
        return _of_class_folders(place, classes, apart)
    if place.suffix.lower() != ".csv":
        raise UserError(
            f"'{shown(place)}' is a file: give a folder with one sub-folder per class,"
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
    place = existing(place)
    if not place.is_dir():
        raise UserError(f"'{shown(place)}' is a file: give a folder of images")
    walk = Walk(place, apart)
    files, folders, links = walk.scan("")
    walk.files += files
    walk.through(folders, links)
    if not walk.files:
        raise UserError(
            f"'{shown(place)}' holds no images{skipped(walk.counts())}: give a folder"
            " with images in it"
        )
    return _listing(place, walk.files, walk.counts())


def _of_class_folders(
    place: pathlib.Path, classes: Sequence[str] | None, apart: Sequence[pathlib.Path]
) -> Listing:
    walk = Walk(place, apart)
    files, folders, links = walk.scan("")
    class_folders = sorted(folders + links)
    if not class_folders:
        there = f"{len(files)} images but " if files else ""
        raise UserError(
            f"'{shown(place)}' holds {there}no class folders{skipped(walk.counts())}:"
            " put the images of each class into a sub-folder named like the class, or"
            " give a .csv file with the columns path and label"
        )
    check_apart(place, class_folders)
    walk.left_out["", _IN_NO_CLASS] += len(files)
    walk.through(class_folders, [])
    check_no_splits(place, class_folders, walk.files)
    names = {folder: class_name(folder) for folder in class_folders}
    found = [(file, names[file.path.partition("/")[0]]) for file in walk.files]
    check_spelling(place, names.values())
    if classes is None:
        check_filled(place, walk, class_folders)
        check_several(place, [label for _, label in found], files=walk.files)
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
            f"'{shown(place)}' holds no images{skipped(left_out)}: put some in"
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
        more = ", ".join(f"'{printable(name)}'" for name in others[: NAMED - 1])
        more += ", …" if len(others) >= NAMED else ""
        also = f" (and {len(others)} more are not: {more})" if more else ""
        raise UserError(
            f"'{shown(unknown[label].path)}' in '{shown(place)}' is of the class"
            f" '{printable(label)}', which is not among the {len(index)} known"
            f" classes{nearest_class(label, list(index))}{also}"
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


def _of_csv(place: pathlib.Path, classes: Sequence[str] | None) -> Listing:
    label_of: dict[str, str] = {}
    line_of: dict[str, int] = {}
    for line, written, label in _csv_rows(place):
        if not written.strip() or not label:
            raise UserError(
                f"line {line} of '{shown(place)}' has no"
                f" {'label' if written.strip() else 'path'}: fill it in, or remove the"
                " line"
            )
        path = _tidy(written, place.parent)
        if written != written.strip() and _size_and_time(place.parent / path) == _GONE:
            path = _tidy(written.strip(), place.parent)
        line_of.setdefault(path, line)
        if label_of.setdefault(path, label) != label:
            raise UserError(
                f"'{shown(place)}' gives '{shown(path)}' two labels, up to line"
                f" {line}, '{printable(label_of[path])}' and '{printable(label)}':"
                " keep one"
            )
    if not label_of:
        raise UserError(f"'{shown(place)}' names no images: add lines of path,label")
    names = sorted(set(label_of.values()))
    check_spelling(place, names)
    if classes is None:
        check_several(place, names)
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
        f"{len(missing):,} of {len(files):,} paths in '{shown(place)}' lead to no"
        f" file, the first being '{shown(path)}' in line {line_of[path]}, looked for"
        f" at '{shown(place.parent / path)}'"
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
            return f"it is there without '{shown(extra)}', so write it without"
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
        if plain(name) == plain(wanted.name):
            return f"'{shown(name)}' is there: write names as they are stored"
    for name in beside:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a path is slow
        if stem == wanted.name and suffix.lower() in SUFFIXES:
            return f"'{shown(name)}' is there: write names with their suffix"
    return ""


def _csv_rows(place: pathlib.Path) -> Iterator[tuple[int, str, str]]:
    """Yields the line number, path and label of each row."""
    text = io.StringIO(read_foreign_text(place), newline="")
    rows = csv.reader(text, skipinitialspace=True)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        if "path" not in header or "label" not in header:
            raise UserError(
                f"'{shown(place)}' needs a first line that names the columns path and"
                f" label, separated by commas, and has '{printable(','.join(header))}'"
            )
        columns = header.index("path"), header.index("label")
        for row in rows:
            if row:
                row += [""] * (len(header) - len(row))
                yield rows.line_num, row[columns[0]], row[columns[1]].strip()
    except csv.Error:
        raise UserError(
            f"line {rows.line_num} of '{shown(place)}' is not CSV (a quotation mark"
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
    return found.st_size, modified_at(found)


def existing(place: str | os.PathLike) -> pathlib.Path:
    """Returns a place as an absolute path.

    Raises:
      UserError: there is nothing, or it cannot be reached.
    """
    place = pathlib.Path(place).absolute()
    try:
        place.stat()
    except OSError as error:
        why = (
            "does not exist" if isinstance(error, FileNotFoundError) else error.strerror
        )
        raise UserError(
            f"'{shown(place)}' {why}: give a folder of images that can be read"
        ) from error
    return place

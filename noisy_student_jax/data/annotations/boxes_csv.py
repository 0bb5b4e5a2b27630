"""A CSV of boxes, whose columns are found by their names; Open Images' too."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.annotations.folder import Folder, split_of, split_of_path
from noisy_student_jax.data.annotations.structure import Notes, Raw, RawBox, RawImage

FORM = "CSV of boxes"
_IMAGE = (
    "filename",
    "image",
    "imagepath",
    "path",
    "file",
    "imageid",
    "imagename",
    "img",
)
_LABEL = ("class", "label", "labelname", "classname", "category", "name")
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
_EXTENTS = (("x", "y", "w", "h"), ("bboxx", "bboxy", "bboxwidth", "bboxheight"))
_IGNORED = ("iscrowd", "difficult", "ignore", "isgroupof")
_SPLIT = ("split", "subset", "set", "partition")


class _Columns:
    """Where a table has what."""

    def __init__(self, header: Sequence[str]):
        plain = [re.sub("[^a-z0-9]", "", name.lower()) for name in header]
        at = {name: number for number, name in reversed(list(enumerate(plain)))}

        def first(names: Sequence[str]) -> int | None:
            return next((at[name] for name in names if name in at), None)

        self.image, self.label = first(_IMAGE), first(_LABEL)
        self.split, self.ignored = first(_SPLIT), first(_IGNORED)
        self.box, self.extents = None, False
        for names in (*_CORNERS, *_EXTENTS):
            if self.box is None and set(names) <= set(at):
                self.box = [at[name] for name in names]
                self.extents = names in _EXTENTS
        sizes = [at.get("width"), at.get("height")]
        self.size = None if None in sizes else sizes

    @property
    def whole(self) -> bool:
        """Whether there is all that is needed."""
        return None not in (self.image, self.label, self.box)


def tables(folder: Folder) -> dict[str, str]:
    """Returns the text of each CSV file that has columns of boxes, by path."""
    found = {}
    for path in folder.ending(".csv"):
        text = folder.text(path)
        try:
            header = next(csv.reader(text.splitlines()[:1]), [])
        except csv.Error:
            continue
        if _Columns(header).whole:
            found[path] = text
    return found


def read(folder: Folder, texts: Mapping[str, str], notes: Notes) -> Raw:
    """Reads tables; a line without a box lists an image without objects.

    Raises:
      UserError: a line cannot be understood.
    """
    images: dict[tuple[str, str], RawImage] = {}
    extents = False
    for path, text in texts.items():
        own = split_of(path.rpartition("/")[2]) or split_of_path(path)
        rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
        try:
            header = next(rows)
            columns = _Columns(header)
            extents |= columns.extents
            for row in rows:
                if any(row):
                    row += [""] * (len(header) - len(row))
                    _add(folder, images, path, rows.line_num, row, columns, own)
        except csv.Error:
            raise UserError(
                f"line {rows.line_num} of '{printable(path)}' is not CSV (a quotation"
                " mark before it may not be closed): repair it"
            ) from None
    return Raw(FORM, list(images.values()), folder.names(notes), False, extents, notes)


def _add(
    folder: Folder,
    images: dict[tuple[str, str], RawImage],
    path: str,
    line: int,
    row: Sequence[str],
    columns: _Columns,
    split: str | None,
) -> None:
    """Adds a line's image, if it is new, and its box, if it has one."""
    assert columns.image is not None and columns.label is not None and columns.box
    where = f"line {line} of '{printable(path)}'"
    name = row[columns.image].strip()
    if not name:
        raise UserError(f"{where} names no image: fill it in, or remove the line")
    if (path, name) not in images:
        if columns.split is not None:
            split = split_of(row[columns.split]) or split
        near = path.rpartition("/")[0]
        found = folder.locate(name, near=near, split=split)
        size = None
        if columns.size:
            words = [row[at].strip() for at in columns.size if at is not None]
            if all(word.isdecimal() and 0 < len(word) < 10 for word in words):
                sides = int(words[0]), int(words[1])
                size = sides if all(sides) else None
        split = split or split_of_path(found)
        images[path, name] = RawImage(found, path, size=size, split=split)
    words = [row[at].strip() for at in columns.box]
    label = row[columns.label].strip()
    if not any(words):
        return
    try:
        corners = [float(word) for word in words]
    except ValueError:
        corners = [math.nan]
    if not label or not all(map(math.isfinite, corners)):
        lacks = "no class" if not label else f"'{printable(' '.join(words))}' for a box"
        raise UserError(
            f"{where} has {lacks}: fill it in, or leave class and box empty for an"
            " image without objects"
        )
    left, top, right, bottom = corners
    if columns.extents:
        right, bottom = left + right, top + bottom
    ignored = False
    if columns.ignored is not None:
        ignored = row[columns.ignored].strip().lower() in ("1", "true", "yes")
    box = RawBox((left, top, right, bottom), label, ignored, f"line {line}")
    images[path, name].boxes.append(box)

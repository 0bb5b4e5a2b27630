"""Pascal VOC: one XML file for each image (http://host.robots.ox.ac.uk/pascal/VOC/).

Coordinates are taken as edges in pixels, as today's labeling tools write them.
"""

import math
import pathlib
import xml.etree.ElementTree as ET
import xml.parsers.expat
from collections.abc import Sequence

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.annotations.folder import Folder, split_of, split_of_path
from noisy_student_jax.data.annotations.structure import Notes, Raw, RawBox, RawImage

FORM = "Pascal VOC XML"
_LINE = ":line"
"""An attribute, impossible in XML, that holds the line of an element."""
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def parsed(text: str, path: str) -> ET.Element:
    """Parses XML; each element has its line in an attribute.

    Raises:
      UserError: the text is not XML, or declares entities.
    """
    builder = ET.TreeBuilder()
    parser = xml.parsers.expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, attributes | {_LINE: str(parser.CurrentLineNumber)})

    def declared(*_: object) -> None:
        # Entities may expand to gigabytes.
        raise UserError(
            f"line {parser.CurrentLineNumber} of '{printable(path)}' declares an"
            " entity, which no annotation needs: remove the declaration"
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = declared
    try:
        parser.Parse(text, True)
        return builder.close()
    except xml.parsers.expat.ExpatError as error:
        raise UserError(
            f"line {error.lineno} of '{printable(path)}' is not XML: repair it, or"
            " export it again"
        ) from None


def read(folder: Folder, trees: dict[str, ET.Element], notes: Notes) -> Raw:
    """Reads XML trees, by path.

    Raises:
      UserError: an object lacks a name or a box.
    """
    splits = _splits(folder)
    images = []
    for path, tree in trees.items():
        near, _, own = path.rpartition("/")
        stem = own.rpartition(".")[0]
        split = splits.get(stem) or split_of_path(path)
        # Some tools keep the name of a file that was renamed since.
        written = (tree.findtext("filename") or "").strip()
        names = [written, stem] if written else [stem]
        places = [near, f"{near}/../JPEGImages"]
        found = [
            folder.locate(name, near=place, split=split)
            for name in names
            for place in places
        ]
        there = [one for one in found if one in folder.images]
        images.append(
            RawImage(
                path=there[0] if there else found[0],
                file=path,
                boxes=_boxes(tree, path, notes),
                size=_size(tree),
                split=split,
            )
        )
    return Raw(FORM, images, folder.names(notes), False, False, notes)


def _boxes(tree: ET.Element, path: str, notes: Notes) -> list[RawBox]:
    found = []
    for one in tree.findall("object"):
        where = f"line {one.get(_LINE)}"
        label = (one.findtext("name") or "").strip()
        if not label:
            raise UserError(
                f"the object in {where} of '{printable(path)}' has no name: give it one"
            )
        corners = _corners(one)
        if corners is None:
            notes.add(
                "objects without a box of four numbers are left out",
                f"{where} of '{path}'",
            )
            continue
        difficult = (one.findtext("difficult") or "0").strip() not in ("0", "")
        found.append(RawBox(corners, label, difficult, where))
    return found


def _corners(one: ET.Element) -> tuple[float, float, float, float] | None:
    try:
        left, top, right, bottom = (
            float(one.findtext(f"bndbox/{name}") or "nan") for name in _CORNERS
        )
    except ValueError:
        return None
    if not all(math.isfinite(edge) for edge in (left, top, right, bottom)):
        return None
    return left, top, right, bottom


def _size(tree: ET.Element) -> tuple[int, int] | None:
    """Returns width and height; None where they are missing or zero."""
    try:
        width, height = (
            int(float(tree.findtext(f"size/{name}") or 0))
            for name in ("width", "height")
        )
    except (ValueError, OverflowError):
        return None
    possible = 0 < min(width, height) <= max(width, height) < 2**31
    return (width, height) if possible else None


def _splits(folder: Folder) -> dict[str, str]:
    """Reads which part each image is for from ``ImageSets/Main``."""
    found: dict[str, str] = {}
    for path in folder.ending(".txt"):
        steps: Sequence[str] = path.split("/")
        name = pathlib.PurePosixPath(path).stem
        part = split_of(name, strict=True)
        if steps[-3:-1] != ["ImageSets", "Main"] or part is None:
            continue
        for line in folder.text(path).splitlines():
            if words := line.split():
                stem = words[0].rpartition("/")[2]
                found.setdefault(stem.removesuffix(".jpg"), part)
    return found

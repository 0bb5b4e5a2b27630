"""Finds out the format of a folder's annotations and reads them."""

import dataclasses
import json
import pathlib
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.annotations import boxes_csv, coco, voc, yolo
from noisy_student_jax.data.annotations.checks import checked
from noisy_student_jax.data.annotations.folder import Folder
from noisy_student_jax.data.annotations.orientation import Keep
from noisy_student_jax.data.annotations.structure import Annotated, Notes, Raw, RawImage
from noisy_student_jax.data.cache.walk import shown

_TRIED = 50
"""JSON files that are tried, where many are of another form."""
_FORMS = (
    "COCO JSON, Pascal VOC XML, YOLO text with its data.yaml, or a CSV with the columns"
    " filename, class, xmin, ymin, xmax and ymax"
)


def read(
    place: pathlib.Path,
    *,
    classes: Sequence[str] | None = None,
    apart: Sequence[pathlib.Path] = (),
    keep: Keep | None = None,
) -> tuple[Annotated, Folder]:
    """Reads and checks the boxes of a folder.

    Args:
      place: the folder, or one of its annotation files, such as a COCO JSON.
      classes: known class names in index order, as for a test set.
      apart: folders that are left out wherever they lie.
      keep: see `orientation.all_measured`.

    Returns:
      The annotations; images that none is of count as unlabeled. And the folder.

    Raises:
      UserError: the format is unknown, or the annotations are unusable.
    """
    root, only = place, None
    if place.is_file():
        root = (
            place.parent.parent
            if place.parent.name == "annotations"
            else (place.parent)
        )
        only = place.relative_to(root).as_posix()
    folder = Folder(root, apart)
    if only is not None:
        kept = {path for path in folder.files if not path.lower().endswith(".json")}
        folder.files = sorted(kept | {only})
    raw = _raw(folder)
    told = {image.path for image in raw.images}
    for path in sorted(folder.images.keys() - told):
        raw.images.append(RawImage(path, "", annotated=False))
        raw.notes.add(
            "images are in no annotation file and count as unlabeled", f"'{path}'"
        )
    return checked(raw, folder, classes=classes, keep=keep), folder


def _raw(folder: Folder) -> Raw:
    """Reads a folder by the first format that is found in it; names others."""
    notes = Notes()
    documents, faults = _json_documents(folder)
    trees = _xml_trees(folder)
    found = {
        coco.FORM: bool(documents),
        voc.FORM: bool(trees),
        yolo.FORM: bool(yolo.label_files(folder)),
        boxes_csv.FORM: False,
    }
    tables = boxes_csv.tables(folder)
    found[boxes_csv.FORM] = bool(tables)
    forms = [form for form, there in found.items() if there]
    if not forms:
        raise UserError(_nothing(folder, faults))
    if forms[0] == coco.FORM:
        raw, files = coco.read(folder, documents, notes), len(documents)
    elif forms[0] == voc.FORM:
        raw, files = voc.read(folder, trees, notes), len(trees)
    elif forms[0] == yolo.FORM:
        raw, files = yolo.read(folder, notes), len(yolo.label_files(folder))
    else:
        raw, files = boxes_csv.read(folder, tables, notes), len(tables)
    told = f"{raw.form} ({files:,} {'file' if files == 1 else 'files'})"
    if forms[1:]:
        told += f"; there is {' and '.join(forms[1:])} too, which is not read"
    return dataclasses.replace(raw, told=told)


def _json_documents(folder: Folder) -> tuple[dict[str, Any], list[str]]:
    """Returns COCO documents by path, and why other JSON files are none."""
    found: dict[str, Any] = {}
    faults: list[str] = []
    for path in folder.ending(".json"):
        if len(faults) >= _TRIED:
            break
        try:
            document = json.loads(folder.text(path))
        except json.JSONDecodeError as error:
            faults.append(f"line {error.lineno} of '{printable(path)}' is not JSON")
            continue
        except (ValueError, RecursionError):
            faults.append(f"'{printable(path)}' is not JSON")
            continue
        if coco.is_coco(document):
            found[path] = document
        else:
            faults.append(f"'{printable(path)}' is JSON of another form than COCO's")
    return found, faults


def _xml_trees(folder: Folder) -> dict[str, ET.Element]:
    found = {}
    for path in folder.ending(".xml"):
        tree = voc.parsed(folder.text(path), path)
        if tree.tag == "annotation":
            found[path] = tree
        elif tree.tag == "annotations" and tree.find("image") is not None:
            raise UserError(
                f"'{printable(path)}' is CVAT's own XML: export the boxes as COCO,"
                " Pascal VOC or YOLO instead"
            )
    return found


def _nothing(folder: Folder, faults: Sequence[str]) -> str:
    text = f"'{shown(folder.root)}' holds {len(folder.images):,} images and no boxes"
    if faults:
        text += f" ({faults[0]})"
    if tables := folder.ending(".csv"):
        header = folder.text(tables[0]).partition("\n")[0].strip()[:80]
        text += f" (the columns of '{printable(tables[0])}' are '{printable(header)}')"
    return f"{text}: boxes are read from {_FORMS}"

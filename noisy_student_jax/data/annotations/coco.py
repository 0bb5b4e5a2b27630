"""COCO JSON (https://cocodataset.org/#format-data), whichever program made it."""

from collections.abc import Mapping
from typing import Any

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.annotations.folder import Folder, split_of, split_of_path
from noisy_student_jax.data.annotations.structure import Notes, Raw, RawBox, RawImage

FORM = "COCO JSON"
_LISTS = ("images", "annotations", "categories")
_FAR = 2**31
"""No image has so many pixels on a side."""
POLYGONS = "polygons were reduced to the boxes around them"


def is_coco(document: Any) -> bool:
    """Whether a JSON document has images, boxes and classes in COCO's form."""
    return isinstance(document, dict) and all(
        isinstance(document.get(name), list) for name in _LISTS
    )


def read(folder: Folder, documents: Mapping[str, dict[str, Any]], notes: Notes) -> Raw:
    """Reads documents, by path; classes are those of all, matched by name.

    Raises:
      UserError: an image or class lacks a field, or two documents have other classes.
    """
    instances = {
        path: one
        for path, one in documents.items()
        if path.rpartition("/")[2].startswith("instances")
    }
    images: list[RawImage] = []
    names: list[str] | None = None
    for path, document in (instances or documents).items():
        classes = _classes(path, document, notes)
        listed = list(classes.values())
        if names is None:
            names, first = listed, path
        elif set(listed) - set(names):
            other = sorted(set(listed) - set(names))[0]
            raise UserError(
                f"'{printable(path)}' has a class '{printable(other)}' that"
                f" '{printable(first)}' has not: give both the same categories"
            )
        images += _images(folder, path, document, classes, notes)
    return Raw(FORM, images, tuple(names or ()), False, True, notes)


def _classes(path: str, document: dict[str, Any], notes: Notes) -> dict[Any, str]:
    """Returns class names by id, in the order of the ids."""
    found: dict[Any, dict[str, Any]] = {}
    for one in document["categories"]:
        key = _id(one, "id")
        if key is None or not one.get("name"):
            raise UserError(
                f"a category of '{printable(path)}' has no id or no name: give it both"
            )
        if key in found:
            raise UserError(
                f"'{printable(path)}' has two categories with the id"
                f" {printable(str(key))}: give each its own"
            )
        found[key] = one
    used = {_id(one, "category_id") for one in document["annotations"]}
    # An exporter puts a class above all others that no box is of.
    above = {_id(one, "supercategory") for one in found.values()}
    for key, one in list(found.items()):
        if key not in used and _id(one, "name") in above and len(found) > 1:
            notes.add("categories only name a group of others", f"'{one['name']}'")
            del found[key]
    try:
        order = sorted(found)
    except TypeError:  # ids of several types
        order = list(found)
    return {key: str(found[key]["name"]) for key in order}


def _images(
    folder: Folder,
    path: str,
    document: dict[str, Any],
    classes: Mapping[Any, str],
    notes: Notes,
) -> list[RawImage]:
    near = path.rpartition("/")[0]
    split = split_of(path.rpartition("/")[2]) or split_of_path(path)
    by_id: dict[Any, RawImage] = {}
    for number, one in enumerate(document["images"]):
        key = _id(one, "id")
        if key is None or not one.get("file_name"):
            raise UserError(
                f"image {number + 1} of '{printable(path)}' has no id or no file_name:"
                " give it both"
            )
        name = str(one["file_name"])
        found = folder.locate(name, near=near, split=split)
        size = (one.get("width"), one.get("height"))
        whole = all(isinstance(side, int) and 0 < side < _FAR for side in size)
        if key in by_id:
            notes.add(
                "images have the id of another and are left out",
                f"id {key} of '{path}'",
            )
            continue
        by_id[key] = RawImage(
            path=found,
            file=path,
            size=(int(size[0] or 0), int(size[1] or 0)) if whole else None,
            split=split or split_of_path(found),
        )
    for number, one in enumerate(document["annotations"]):
        own = _id(one, "id")
        where = f"annotation {number + 1 if own is None else own}"
        image = by_id.get(_id(one, "image_id"))
        if image is None:
            notes.add(
                "annotations are of images that the file does not list",
                f"{where} of '{path}'",
            )
            continue
        corners = _corners(one, where, path, notes)
        if corners is None:
            notes.add(
                "annotations without a box of four numbers are left out",
                f"{where} of '{path}'",
            )
            continue
        category = _id(one, "category_id")
        image.boxes.append(
            RawBox(
                corners,
                classes.get(category, f"category {category}"),
                bool(one.get("iscrowd") or one.get("ignore")),
                where,
            )
        )
    return list(by_id.values())


def _corners(
    one: dict[str, Any], where: str, path: str, notes: Notes
) -> tuple[float, float, float, float] | None:
    box = _numbers(one.get("bbox"))
    if box is not None and len(box) == 4:
        left, top, width, height = box
        return left, top, left + width, top + height
    polygons = one.get("segmentation")
    if isinstance(polygons, list) and polygons:
        points = [_numbers(polygon) for polygon in polygons]
        flat = [value for polygon in points if polygon for value in polygon]
        if all(points) and len(flat) >= 6 and len(flat) % 2 == 0:
            notes.add(POLYGONS, f"{where} of '{path}'")
            xs, ys = flat[::2], flat[1::2]
            return min(xs), min(ys), max(xs), max(ys)
    return None


def _id(one: Any, field: str) -> int | float | str | None:
    """Returns a number or text in a field of an object; None without one."""
    value = one.get(field) if isinstance(one, dict) else None
    return value if isinstance(value, int | float | str) else None


def _numbers(values: Any) -> list[float] | None:
    """Returns values as floats; None unless all are numbers of a possible size."""
    if not isinstance(values, list):
        return None
    good = all(isinstance(value, int | float) and abs(value) < _FAR for value in values)
    return [float(value) for value in values] if good else None

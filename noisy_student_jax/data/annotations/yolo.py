"""YOLO: a text file for each image, a line ``class x y width height`` for each box.

Coordinates are fractions of the image's width and height; x and y are of the box's
center. Polygons (``class x1 y1 x2 y2 x3 y3 …``) are reduced to the boxes around them.
"""

import math
import pathlib
from collections.abc import Iterator
from typing import Any

import yaml

from noisy_student_jax.core import files
from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.annotations.coco import POLYGONS
from noisy_student_jax.data.annotations.folder import Folder, split_of, split_of_path
from noisy_student_jax.data.annotations.structure import Notes, Raw, RawBox, RawImage
from noisy_student_jax.data.cache.walk import shown

FORM = "YOLO text"
MOST_CLASSES = 10_000
"""Largest number of classes without names."""
_BESIDE = "../data.yaml"
NO_FILE = "images have no label file and count as unlabeled"


def settings(folder: Folder) -> tuple[str, dict[str, Any]] | None:
    """Returns path and contents of the yaml file that lists class names, if any.

    That of a dataset lies beside the folder of one of its splits.

    Raises:
      UserError: two files do, or one is not YAML.
    """
    found = []
    paths = folder.ending(".yaml", ".yml")
    is_split = split_of(folder.root.name, strict=True) is not None
    if not paths and is_split and files.is_file(folder.root / _BESIDE):
        paths = [_BESIDE]
    for path in paths:
        try:
            document = yaml.safe_load(folder.text(path))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f"line {mark.line + 1} of " if mark else ""
            raise UserError(
                f"{line}'{printable(path)}' is not YAML: repair it"
            ) from None
        except (ValueError, RecursionError):  # an impossible date, endless nesting
            raise UserError(f"'{printable(path)}' is not YAML: repair it") from None
        if isinstance(document, dict) and "names" in document:
            found.append((path, document))
    if len(found) > 1:
        told = " and ".join(f"'{printable(path)}'" for path, _ in found[:2])
        raise UserError(
            f"{told} both list class names: give the folder of one of these datasets,"
            " or remove one of the files"
        )
    return found[0] if found else None


def label_files(folder: Folder) -> dict[str, str]:
    """Returns the label file of each image that has one, by the image's path."""
    texts = set(folder.ending(".txt"))
    found = {}
    for path in folder.images:
        stem = path.rpartition(".")[0]
        steps = stem.split("/")
        places = [stem]
        for number in [n for n, step in enumerate(steps[:-1]) if step == "images"]:
            places.insert(
                0, "/".join([*steps[:number], "labels", *steps[number + 1 :]])
            )
        places += [f"labels/{stem}", f"labels/{steps[-1]}"]
        for place in places:
            if f"{place}.txt" in texts:
                found[path] = f"{place}.txt"
                break
    return found


def read(folder: Folder, notes: Notes) -> Raw:
    """Reads the label files of a folder.

    Raises:
      UserError: the names or a line cannot be understood.
    """
    listed = settings(folder)
    names = None if listed is None else _names(*listed, notes)
    names = folder.names(notes, first=names)
    pose = bool(listed and listed[1].get("kpt_shape"))
    splits = {} if listed is None else _splits(folder, *listed)
    own = label_files(folder)
    images, most = [], -1
    for path in sorted(folder.images):
        split = splits.get(path) or split_of_path(path)
        if path not in own:
            images.append(RawImage(path, "", split=split, annotated=False))
            notes.add(NO_FILE, f"'{path}'")
            continue
        boxes = []
        for number, label, corners in _lines(folder, own[path], notes, pose=pose):
            most = max(most, label)
            known = names is None or label < len(names)
            name = str(label) if names is None else f"number {label}"
            if names is not None and known:
                name = names[label]
            boxes.append(RawBox(corners, name, False, f"line {number}"))
        images.append(RawImage(path, own[path], boxes, split=split))
    for path in _without_image(folder, own):
        notes.add("label files have no image and are left out", f"'{path}'")
    if names is None and most >= MOST_CLASSES:
        raise UserError(
            f"'{shown(folder.root)}' has boxes of class number {most} and no list of"
            " class names: give a data.yaml or classes.txt"
        )
    if names is None and most >= 0:
        names = tuple(map(str, range(most + 1)))
        notes.add(
            "classes have no names, as no data.yaml or classes.txt lists them",
            "",
            count=most + 1,
        )
    return Raw(FORM, images, names, True, True, notes)


def _names(path: str, document: dict[str, Any], notes: Notes) -> tuple[str, ...]:
    names = document["names"]
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise UserError(
                f"the class numbers under 'names' in '{printable(path)}' are not 0 to"
                f" {len(names) - 1}: number the classes without gaps"
            )
        by_number = {int(number): name for number, name in names.items()}
        names = [by_number[number] for number in range(len(names))]
    good = (str, int, float)
    if not isinstance(names, list) or not all(isinstance(one, good) for one in names):
        raise UserError(
            f"'names' in '{printable(path)}' is no list of class names: write it as"
            " names: [first, second]"
        )
    count = document.get("nc")
    if isinstance(count, int) and count != len(names):
        notes.add(
            f"classes have names, but nc in '{path}' is {count}; the names count",
            "",
            count=len(names),
        )
    return tuple(map(str, names))


def _splits(folder: Folder, path: str, document: dict[str, Any]) -> dict[str, str]:
    """Returns the part of each image that the yaml file gives for one."""
    base = pathlib.PurePosixPath(path).parent
    found: dict[str, str] = {}
    for key in ("train", "val", "test", "valid"):
        part = split_of(key)
        given = document.get(key)
        for place in given if isinstance(given, list) else [given]:
            if isinstance(place, str) and part:
                inner = document.get("path")
                for image in _images(folder, base, inner, place, part):
                    found.setdefault(image, part)
    return found


def _images(
    folder: Folder, base: pathlib.PurePosixPath, inner: Any, place: str, part: str
) -> Iterator[str]:
    """Yields the images in a folder or list that a yaml file names for a part.

    Its path is often relative to another folder, or led there on another computer: of
    its ends, the longest that exists here is taken, if it still names the part.
    """
    steps = [
        step
        for step in place.replace("\\", "/").split("/")
        if step not in ("", ".", "..")
    ]
    prefixes = [base]
    if isinstance(inner, str) and not inner.startswith("/"):
        prefixes.insert(0, base / inner)
    for start in range(len(steps)):
        if start and part not in map(split_of, steps[start:]):
            break
        for prefix in prefixes:
            path = (prefix / "/".join(steps[start:])).as_posix()
            if path in folder.files:
                for line in folder.text(path).split("\n"):
                    if line.strip():
                        yield folder.locate(line.strip())
                return
            inside = [one for one in folder.images if one.startswith(f"{path}/")]
            if inside:
                yield from inside
                return


def _lines(
    folder: Folder, path: str, notes: Notes, *, pose: bool
) -> Iterator[tuple[int, int, tuple[float, float, float, float]]]:
    """Yields the line number, class number and corners of each box."""
    for number, line in enumerate(folder.text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"line {number} of '{printable(path)}'"
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = [math.nan]
        if not all(map(math.isfinite, values)) or values[0] % 1 or values[0] < 0:
            raise UserError(
                f"{where} is '{printable(line[:60])}', but a class number and numbers"
                " of a box are needed: correct or remove the line"
            )
        label, rest = int(values[0]), values[1:]
        if len(rest) == 4 or (pose and len(rest) > 4):
            x, y, width, height = rest[:4]
            left, top = x - width / 2, y - height / 2
            yield number, label, (left, top, left + width, top + height)
        elif len(rest) >= 6 and len(rest) % 2 == 0:
            notes.add(POLYGONS, where)
            xs, ys = rest[::2], rest[1::2]
            yield number, label, (min(xs), min(ys), max(xs), max(ys))
        else:
            raise UserError(
                f"{where} has {len(words)} numbers, but a box has 5 (class, x, y, width"
                " and height) and a polygon 7 or more, an odd number: correct or"
                " remove the line"
            )


def _without_image(folder: Folder, own: dict[str, str]) -> list[str]:
    """Returns files in ``labels`` folders that are no image's."""
    used = set(own.values())
    return [
        path
        for path in folder.ending(".txt")
        if path not in used
        and "labels" in path.split("/")[:-1]
        and path.rpartition("/")[2].lower() != "classes.txt"
    ]

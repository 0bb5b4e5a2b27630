"""Writes boxes for other programs: COCO JSON, YOLO text, Pascal VOC XML and CSV.

Coordinates are those of the original image as people see it. Each function writes into
a folder, in which `formats.read` finds the same boxes again once the images lie there
under their paths.
"""

import csv
import io
import json
import pathlib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from noisy_student_jax.core import files
from noisy_student_jax.data.annotations.structure import AnnotatedImage
from noisy_student_jax.data.labels import IGNORE, OBJECT
from noisy_student_jax.data.splits import LABELED, TEST, VALIDATION

SPLITS = {LABELED: "train", VALIDATION: "val", TEST: "test"}
"""Other programs' names of the parts of a dataset."""
_NO_SPLIT = "default"
Row = tuple[list[float], int, bool, float | None]
"""Corners, class, whether it is to be ignored, and score."""


def coco(
    folder: pathlib.Path, images: Sequence[AnnotatedImage], names: Sequence[str]
) -> None:
    """Writes ``annotations/instances_SPLIT.json``, with scores if boxes have them.

    Images are numbered from 1 in their order, classes from 1. Images whose boxes are
    not known are left out.
    """
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    documents: dict[str, dict[str, Any]] = {}
    number = 0
    for image_id, image in enumerate(images, 1):
        if not image.annotated:
            continue
        document = documents.setdefault(
            SPLITS.get(image.split or "", _NO_SPLIT),
            {
                "info": {"description": "noisy-student-jax"},
                "images": [],
                "annotations": [],
                "categories": categories,
            },
        )
        width, height = _size(image)
        document["images"].append(
            {
                "id": image_id,
                "file_name": image.path,
                "width": width,
                "height": height,
            }
        )
        for corners, label, ignored, score in _rows(image):
            number += 1
            box = _extents(corners)
            one = {
                "id": number,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(ignored),
            }
            document["annotations"].append(
                one if score is None else one | {"score": score}
            )
    for split, document in documents.items():
        path = folder / "annotations" / f"instances_{split}.json"
        files.write_atomically(path, json.dumps(document))


def coco_results(
    path: pathlib.Path,
    images: Sequence[AnnotatedImage],
    *,
    image_ids: Sequence[Any] | None = None,
    category_ids: Sequence[Any] | None = None,
) -> None:
    """Writes predictions as a list of COCO results, for COCO's evaluation programs.

    Args:
      path: the JSON file.
      images: predictions, with scores.
      image_ids: id of each image in the dataset that is evaluated; by default as
        `coco` numbers them.
      category_ids: likewise, of each class.
    """
    results = [
        {
            "image_id": number + 1 if image_ids is None else image_ids[number],
            "category_id": label + 1 if category_ids is None else category_ids[label],
            "bbox": _extents(corners),
            "score": 1.0 if score is None else score,
        }
        for number, image in enumerate(images)
        for corners, label, ignored, score in _rows(image)
        if not ignored
    ]
    files.write_atomically(path, json.dumps(results))


def yolo(
    folder: pathlib.Path, images: Sequence[AnnotatedImage], names: Sequence[str]
) -> None:
    """Writes ``labels/``, ``data.yaml`` and lists of the images of each split.

    Regions to be ignored are left out, as the format has none.
    """
    lists: dict[str, list[str]] = {}
    for image in images:
        if image.split in SPLITS:
            lists.setdefault(SPLITS[image.split], []).append(image.path)
        if not image.annotated:
            continue
        width, height = _size(image)
        text = ""
        for (left, top, right, bottom), label, ignored, _ in _rows(image):
            if not ignored:
                box = (
                    (left + right) / 2 / width,
                    (top + bottom) / 2 / height,
                    (right - left) / width,
                    (bottom - top) / height,
                )
                text += " ".join([str(label), *map(_written, box)]) + "\n"
        files.write_atomically(folder / label_path(image.path), text)
    document = "".join(f"{key}: {key}.txt\n" for key in lists) + "names:\n"
    # JSON strings are YAML strings.
    for number, name in enumerate(names):
        document += f"  {number}: {json.dumps(name)}\n"
    files.write_atomically(folder / "data.yaml", document)
    for key, paths in lists.items():
        files.write_atomically(folder / f"{key}.txt", "\n".join(paths) + "\n")


def label_path(path: str) -> str:
    """Returns the path of an image's YOLO label file."""
    steps = path.rpartition(".")[0].split("/")
    if "images" in steps[:-1]:
        at = len(steps) - 2 - steps[-2::-1].index("images")
        return "/".join([*steps[:at], "labels", *steps[at + 1 :]]) + ".txt"
    return "/".join(["labels", *steps]) + ".txt"


def voc(
    folder: pathlib.Path, images: Sequence[AnnotatedImage], names: Sequence[str]
) -> None:
    """Writes ``Annotations/``, ``classes.txt`` and ``ImageSets/Main/``."""
    lists: dict[str, list[str]] = {}
    for image in images:
        stem = image.path.rpartition(".")[0]
        if image.split in SPLITS:
            lists.setdefault(SPLITS[image.split], []).append(stem.rpartition("/")[2])
        if not image.annotated:
            continue
        width, height = _size(image)
        tree = ET.Element("annotation")
        _add(tree, folder=image.path.rpartition("/")[0])
        _add(tree, filename=image.path.rpartition("/")[2])
        _add(ET.SubElement(tree, "size"), width=width, height=height, depth=3)
        for corners, label, ignored, score in _rows(image):
            one = ET.SubElement(tree, "object")
            _add(one, name=names[label], difficult=int(ignored))
            if score is not None:
                _add(one, confidence=_written(score))
            edges = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
            _add(
                ET.SubElement(one, "bndbox"),
                **{name: _written(value) for name, value in edges},
            )
        ET.indent(tree)
        text = ET.tostring(tree, encoding="unicode") + "\n"
        files.write_atomically(folder / "Annotations" / f"{stem}.xml", text)
    files.write_atomically(folder / "classes.txt", "\n".join(names) + "\n")
    for key, stems in lists.items():
        path = folder / "ImageSets" / "Main" / f"{key}.txt"
        files.write_atomically(path, "\n".join(stems) + "\n")


def boxes_csv(
    folder: pathlib.Path, images: Sequence[AnnotatedImage], names: Sequence[str]
) -> None:
    """Writes ``boxes.csv`` and ``classes.txt``."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            *("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"),
            *("difficult", "score", "split"),
        ]
    )
    for image in images:
        if not image.annotated:
            continue
        split = SPLITS.get(image.split or "", "")
        start = [image.path, *_size(image)]
        rows = list(_rows(image))
        for corners, label, ignored, score in rows:
            told = "" if score is None else _written(score)
            box = map(_written, corners)
            table.writerow([*start, names[label], *box, int(ignored), told, split])
        if not rows:
            table.writerow([*start, *[""] * 7, split])
    files.write_atomically(folder / "boxes.csv", text.getvalue())
    files.write_atomically(folder / "classes.txt", "\n".join(names) + "\n")


FORMATS: dict[
    str, Callable[[pathlib.Path, Sequence[AnnotatedImage], Sequence[str]], None]
] = {"coco": coco, "yolo": yolo, "voc": voc, "csv": boxes_csv}
"""Writers by the name of their format."""


def predicted(
    path: str,
    size: tuple[int, int],
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
) -> AnnotatedImage:
    """Returns a prediction as an image with boxes in pixels, clipped to the image.

    Args:
      path: of the image.
      size: its width and height as seen.
      boxes: ``[boxes, 4]``, in units of the longer side.
      classes: ``[boxes]``.
      scores: ``[boxes]``; those of 0 are no boxes.
    """
    there = np.flatnonzero(np.asarray(scores) > 0)
    corners = np.asarray(boxes, np.float64)[there] * max(size)
    return AnnotatedImage(
        path=path,
        size=size,
        boxes=np.clip(corners, 0, np.tile(size, 2)),
        classes=np.asarray(classes, np.int64)[there],
        kinds=np.full(len(there), OBJECT, np.int64),
        scores=np.asarray(scores, np.float64)[there],
    )


def _rows(image: AnnotatedImage) -> Iterator[Row]:
    for number in range(len(image.boxes)):
        yield (
            image.boxes[number].tolist(),
            int(image.classes[number]),
            bool(image.kinds[number] == IGNORE),
            None if image.scores is None else float(image.scores[number]),
        )


def _size(image: AnnotatedImage) -> tuple[int, int]:
    assert image.size is not None, "boxes are written of images that were read"
    return image.size


def _extents(corners: Sequence[float]) -> list[float]:
    left, top, right, bottom = corners
    return [left, top, right - left, bottom - top]


def _written(value: float) -> str:
    return f"{value:.10g}"


def _add(element: ET.Element, **children: Any) -> None:
    for name, value in children.items():
        ET.SubElement(element, name).text = str(value)

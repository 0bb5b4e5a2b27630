"""Choosing images for the contact sheet: of each class, and of the pool."""

import pathlib

import numpy as np

from noisy_student_jax import files, streams
from noisy_student_jax.augment.crops import crop_boxes
from noisy_student_jax.contact_sheet import (
    GROUPS_SHOWN,
    IMAGES_SHOWN,
    VERSIONS,
    Group,
    contact_sheet,
)
from noisy_student_jax.data.sources import Source, labels_of
from noisy_student_jax.preprocessing import to_uint8
from noisy_student_jax.run import Student

CONTACT_SHEET = "contact_sheet.png"


def show_some(student: Student, path: pathlib.Path) -> dict[str, int]:
    """Draws some of the images that a student learns from, with its noise."""
    data = student.run.dataset
    groups = [
        _group(student, name, data.labelled, records, "labelled")
        for name, records in _by_class(data.labelled, data.classes)
    ]
    some = np.linspace(0, len(data.pool) - 1, IMAGES_SHOWN["pseudo"]).astype(int)
    groups.append(_group(student, "pool", data.pool, np.unique(some), "pseudo"))
    picture = contact_sheet(
        groups,
        noise={stream: streams.input_noise(student, stream) for stream in GROUPS_SHOWN},
        title=f"{data.name}, as {student.name.replace('_', ' ')} sees it",
        seed=student.run.config.seed,
    )
    with files.atomic_file(path) as file:
        picture.save(file, "PNG", optimize=True)
    return {"images": sum(len(group.images) for group in groups)}


def _by_class(source: Source, classes: tuple[str, ...]) -> list[tuple[str, np.ndarray]]:
    """Returns class names and some of their records; all as one without classes."""
    labels, most = np.asarray(labels_of(source)), IMAGES_SHOWN["labelled"]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        return [("labelled", np.arange(min(most, len(source))))]
    return [
        (name, np.flatnonzero(labels == number)[:most])
        for number, name in enumerate(classes)
    ]


def _group(
    student: Student, name: str, source: Source, records: np.ndarray, stream: str
) -> Group:
    read = source.read(records.tolist()).images
    images = [image for image in read if image is not None]
    crops = None
    if area := streams.input_noise(student, stream).crop_area:
        crops = [_crops(student, image, n, area) for n, image in enumerate(images)]
    whole = to_uint8(student.preprocessing.apply_all(images))
    return Group(name, list(whole), stream, crops)


def _crops(
    student: Student, image: np.ndarray, number: int, area: float
) -> list[np.ndarray]:
    """Crops an image at random, as often as it is shown."""
    boxes = crop_boxes(
        student.run.config.seed,
        0,
        0,
        np.arange(number * VERSIONS, (number + 1) * VERSIONS),
        np.array([image.shape[:2]] * VERSIONS),
        area,
    )
    return [student.preprocessing.apply_crop(image, box) for box in boxes.tolist()]

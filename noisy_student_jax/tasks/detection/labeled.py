"""Labeled images: what a run needs of them, and those of people to evaluate on."""

import pathlib
from collections.abc import Sequence

import numpy as np

from noisy_student_jax.core import console, files
from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Source
from noisy_student_jax.data.annotations import formats
from noisy_student_jax.data.annotations.source import AnnotatedSource
from noisy_student_jax.data.cache.walk import shown
from noisy_student_jax.data.labels import are_boxes, totals
from noisy_student_jax.data.splits import LABELED
from noisy_student_jax.images.decode import Decoding

NAMED = 12
"""Classes that a warning names."""


def source(
    place: pathlib.Path, names: Sequence[str], *, side: int, decoding: Decoding
) -> Source:
    """Opens a folder of images with boxes, and says how it was read.

    Args:
      place: the folder, or one of its annotation files.
      names: the model's class names, which the boxes' are to be among.
      side: shorter side of images that suffices, in pixels.
      decoding: how images are decoded.

    Raises:
      UserError: there is no such folder, or its boxes are unusable.
    """
    if not files.exists(place):
        raise UserError(f"there is no '{shown(place)}': correct --images")
    given, _ = formats.read(place, classes=names)
    found = AnnotatedSource(given, place.name, side=side, decoding=decoding)
    boxes = sum(len(image.boxes) for image in given.images if image.annotated)
    console.say(f"{shown(place)}: {len(found):,} images, {boxes:,} boxes, {given.told}")
    given.notes.tell(shown(place))
    return found


def check_labels(labels: np.ndarray, part: str, names: Sequence[str]) -> None:
    """Checks that a part of a dataset has boxes; warns of classes not to be learned.

    Args:
      labels: of its records, see `data.labels`.
      part: ``labeled``, ``validation`` or ``test``.
      names: class names.

    Raises:
      UserError: the labels are no boxes, or there is not one object.
    """
    learned = part == LABELED
    if not are_boxes(labels):
        raise UserError(
            f"the {part} images have no boxes, which task 'detection' needs: give a"
            " folder of images with boxes, as with configs/boxes.py"
        )
    counts = totals(labels, len(names))
    if not counts.any():
        purpose = "learn from" if learned else "measure by"
        raise UserError(
            f"not one of the {len(labels):,} {part} images has an object, so there is"
            f" nothing to {purpose}: give some with boxes, with --config.{part}=DIR"
        )
    missing = [name for name, count in zip(names, counts, strict=True) if not count]
    if learned and missing:
        told = ", ".join(f"'{printable(name)}'" for name in missing[:NAMED])
        console.warn(
            f"{len(missing)} of {len(names)} classes have no box in the images to learn"
            f" from, and will not be found: {told}"
        )

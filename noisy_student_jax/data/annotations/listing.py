"""Listings of images with boxes, as preparing and splitting take them."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from noisy_student_jax.core.console import printable
from noisy_student_jax.data import labels
from noisy_student_jax.data.annotations.formats import read
from noisy_student_jax.data.annotations.orientation import Keep
from noisy_student_jax.data.annotations.structure import Annotated
from noisy_student_jax.data.cache.listing import MISSING, Listing, existing
from noisy_student_jax.data.splits import LABELED

UNLABELED = "unlabeled"
"""The part of images that no annotation file is of."""


def list_boxes(
    place: str | os.PathLike,
    *,
    classes: Sequence[str] | None = None,
    apart: Sequence[pathlib.Path] = (),
    keep: Keep | None = None,
) -> Listing:
    """Lists images with boxes in any format that `formats.read` knows.

    Labels are float32 ``[files, N, 6]`` (see `data.labels`); images that no annotation
    is of have no boxes, and are in the part `UNLABELED`.

    Args:
      place: a folder, or an annotation file in it.
      classes: known class names in index order, as for a test set.
      apart: folders that are left out wherever they lie.
      keep: see `orientation.all_measured`.

    Raises:
      UserError: the place does not exist, or its boxes are unusable.
    """
    found, folder = read(existing(place), classes=classes, apart=apart, keep=keep)
    files = [folder.images.get(image.path) for image in found.images]
    images = found.images
    return Listing(
        root=found.root,
        paths=tuple(image.path for image in images),
        sizes=np.array([file.size if file else MISSING for file in files], np.int64),
        modified=np.array([file.modified if file else 0 for file in files], np.int64),
        labels=labels.of_boxes(
            [image.boxes for image in images],
            [image.classes for image in images],
            [image.kinds for image in images],
            [image.size for image in images],
        ),
        classes=found.names,
        left_out=folder.left_out,
        parts=np.array(
            [
                (image.split or LABELED) if image.annotated else UNLABELED
                for image in images
            ],
            object,
        ),
        told=(_told(found), *found.notes.lines()),
        facts={what: count for what, count in found.notes.counts.items()},
    )


def _told(found: Annotated) -> str:
    """Describes how annotations were read, in one line."""
    splits = {image.split for image in found.images if image.split}
    own = f", with its own splits ({', '.join(sorted(splits))})" if splits else ""
    names = ", ".join(map(printable, found.names[:20]))
    more = ", …" if len(found.names) > 20 else ""
    return f"read as {found.told}{own}; classes, in this order: {names}{more}"

"""Images of people with boxes, in any format, as a source to evaluate on."""

import pathlib
from collections.abc import Sequence

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Source
from noisy_student_jax.data.annotations import formats
from noisy_student_jax.data.annotations.source import AnnotatedSource
from noisy_student_jax.data.cache.walk import shown
from noisy_student_jax.images.decode import Decoding


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

"""Sizes of images as stored and as seen, and boxes carried from one to the other.

Cameras store a picture as the sensor saw it, and note in EXIF how it is to be turned.
Boxes follow the picture that people see.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from noisy_student_jax.images.decode import UndecodableImageError, inspect


class Size(NamedTuple):
    """Size of an image in a file.

    Attributes:
      width: of the picture that people see, in pixels.
      height: likewise.
      orientation: by EXIF, 1 to 8; 1 is upright.
    """

    width: int
    height: int
    orientation: int

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height of the pixels as they are stored."""
        seen = (self.width, self.height)
        return seen[::-1] if self.orientation >= 5 else seen


def measured(path: pathlib.Path) -> Size | None:
    """Returns the size of an image file; None if it cannot be read."""
    try:
        found = inspect(path)
    except UndecodableImageError:
        return None
    return Size(found.width, found.height, found.orientation)


def as_seen(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Carries boxes from the stored pixels to the picture that people see.

    Args:
      boxes: float64 ``[boxes, 4]``: left, top, right, bottom in stored pixels.
      size: of the image.
    """
    left, top, right, bottom = boxes.T
    width, height = size.stored
    turned = {
        1: (left, top, right, bottom),
        2: (width - right, top, width - left, bottom),
        3: (width - right, height - bottom, width - left, height - top),
        4: (left, height - bottom, right, height - top),
        5: (top, left, bottom, right),
        6: (height - bottom, left, height - top, right),
        7: (height - bottom, width - right, height - top, width - left),
        8: (top, width - right, bottom, width - left),
    }
    return np.stack(turned[size.orientation], axis=1)

"""Sizes of images as stored and as seen, and boxes carried from one to the other.

Cameras store a picture as the sensor saw it, and note in EXIF how it is to be turned.
Boxes follow the picture that people see.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from noisy_student_jax.core import files
from noisy_student_jax.data.annotations.folder import Folder
from noisy_student_jax.images.decode import VERSION, UndecodableImageError, inspect

Keep = Callable[[str, dict[str, Any], Callable[[], np.ndarray]], np.ndarray]
"""`data.index.kept` in a folder of its own."""
_BITS = 28  # of a side that is kept


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


def all_measured(
    folder: Folder, paths: Sequence[str], keep: Keep | None
) -> list[Size | None]:
    """Returns the sizes of a folder's images, whose headers are read once.

    Files that could not be read are tried again.

    Args:
      folder: the folder.
      paths: of its images; some may be missing.
      keep: keeps the sizes until a file changes; None to read all.
    """
    places = [folder.root / path for path in paths]
    if keep is None:
        return list(map(measured, places))
    known = [[path, *(folder.images.get(path) or ())] for path in paths]
    state = {"version": VERSION, "files": files.digest(known)}

    def read_all() -> np.ndarray:
        return np.array([_packed(measured(place)) for place in places], np.int64)

    numbers = keep(f"sizes {folder.root.resolve()}", state, read_all).tolist()
    return [
        _unpacked(number) if number else measured(place)
        for number, place in zip(numbers, places, strict=True)
    ]


def _packed(size: Size | None) -> int:
    if size is None or max(size[:2]) >> _BITS:
        return 0
    return (size.width << _BITS | size.height) << 4 | size.orientation


def _unpacked(number: int) -> Size:
    sides = number >> 4
    return Size(sides >> _BITS, sides & ((1 << _BITS) - 1), number & 15)


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

"""Letterboxes: whole images in a square, and the coordinates in it.

The longer side is resized to the side of the square; the image sits at its top left,
and the rest is mid-gray. Coordinates of boxes are (left, top, right, bottom) in units
of the image's longer side, from its top-left corner. The same numbers are therefore
coordinates in the square, in units of its side.
"""

import numpy as np
from PIL import Image

from noisy_student_jax.augment.randaugment_table import FILL


def letterbox(image: np.ndarray, side: int, how: Image.Resampling) -> np.ndarray:
    """Resizes an image into the top left of a gray square.

    Both axes have exactly the same scale. The shorter side therefore loses its last
    pixels where they do not fill a pixel of the square.

    Args:
        image: uint8 `[height, width, 3]`.
        side: of the square, in pixels.
        how: the interpolation.

    Returns:
        uint8 `[side, side, 3]`.
    """
    height, width = image.shape[:2]
    rows, columns = shown_size(height, width, side)
    scale = max(height, width) / side
    # An image narrower than a pixel of the square is resized to one.
    box = (0, 0, min(columns * scale, width), min(rows * scale, height))
    square = np.full((side, side, 3), FILL, np.uint8)
    if (rows, columns) == (height, width):
        square[:rows, :columns] = image
        return square
    picture = Image.fromarray(np.ascontiguousarray(image))
    resized = picture.resize((columns, rows), how, box=box)
    square[:rows, :columns] = np.asarray(resized)
    return square


def shown_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Returns the rows and columns that an image fills in a square.

    Args:
        height: of the image.
        width: of the image.
        side: of the square, in pixels.
    """
    longer = max(height, width)
    return max(1, height * side // longer), max(1, width * side // longer)


def to_units(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Converts boxes from pixels of an image to units of its longer side.

    Args:
        boxes: `[..., 4]`: left, top, right, bottom in pixels.
        height: of the image.
        width: of the image.

    Returns:
        float32 `[..., 4]`.
    """
    return (np.asarray(boxes, np.float64) / max(height, width)).astype(np.float32)


def to_pixels(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Converts boxes from units of an image's longer side to its pixels.

    Args:
        boxes: `[..., 4]`: left, top, right, bottom in units.
        height: of the image.
        width: of the image.

    Returns:
        float32 `[..., 4]`.
    """
    return (np.asarray(boxes, np.float64) * max(height, width)).astype(np.float32)

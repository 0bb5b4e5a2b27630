"""RandAugment's five geometric operations as affine transforms, in NumPy.

**Pixel centers lie at integers.** The output pixel ``(x, y)`` takes the input pixel
nearest to ``(a·x + b·y + c, d·x + e·y + f)``, halves rounding away from zero, as in
the kernel behind ``contrib_image.transform`` that the authors call. The center of
rotation is therefore ``((width − 1)/2, (height − 1)/2)``, and a shear leaves the first
row or column in place. Pillow puts centers at halves and rounds down: it gives the same
pixels once its offset is shifted by half a pixel.
"""

from collections.abc import Callable

import numpy as np


def _rotation(degrees: float, height: int, width: int) -> tuple[float, ...]:
    """Returns the six coefficients, with the float32 rounding of ``contrib_image``."""
    radians = np.float32(degrees) * np.float32(np.pi / 180.0)
    cos, sin = np.cos(radians), np.sin(radians)
    right, bottom = np.float32(width - 1), np.float32(height - 1)
    half = np.float32(2.0)
    c = (right - (cos * right - sin * bottom)) / half
    f = (bottom - (sin * right + cos * bottom)) / half
    return cos, -sin, c, sin, cos, f


COEFFICIENTS: dict[str, Callable[[float, int, int], tuple[float, ...]]] = {
    "Rotate": _rotation,
    "ShearX": lambda slope, height, width: (1, slope, 0, 0, 1, 0),
    "ShearY": lambda slope, height, width: (1, 0, 0, slope, 1, 0),
    "TranslateX": lambda pixels, height, width: (1, 0, pixels, 0, 1, 0),
    "TranslateY": lambda pixels, height, width: (1, 0, 0, 0, 1, pixels),
}
"""Functions (argument, height, width) → (a, b, c, d, e, f), by the table's names."""


def sources(name: str, argument: float, height: int, width: int) -> np.ndarray:
    """Returns the index of the input pixel for each output pixel.

    Args:
        name: of the operation.
        argument: degrees, slope or pixels, with its sign.
        height: of the image.
        width: of the image.

    Returns:
        int32 `[height, width]`: row·width + column in the input, or height·width
        outside the image.
    """
    a, b, c, d, e, f = np.array(COEFFICIENTS[name](argument, height, width), np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    row, column = _nearest(d * x + e * y + f), _nearest(a * x + b * y + c)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = np.where(inside, row, 0), np.where(inside, column, 0)
    index = row.astype(np.int32) * width + column.astype(np.int32)
    return np.where(inside, index, height * width).astype(np.int32)


def _nearest(coordinate: np.ndarray) -> np.ndarray:
    """Rounds to the nearest integer, halves away from zero; float32 → float32."""
    whole = np.trunc(coordinate)
    away = np.abs(coordinate - whole) >= 0.5
    return whole + np.copysign(away.astype(np.float32), coordinate)

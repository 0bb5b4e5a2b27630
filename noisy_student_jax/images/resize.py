"""Interpolation methods by name, and the types of resize functions."""

from collections.abc import Callable

import numpy as np
from PIL import Image

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
"""Pillow's methods, which antialias when downscaling."""

BICUBIC_TF1 = "bicubic_tf1"
"""The authors' method (``images/resize_tf1.py``)."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in fractional pixels of an image."""
Bicubic = Callable[[np.ndarray, int, Box | None], np.ndarray]
"""Resizes a box of an image (None for all of it) to a square, as Pillow does."""

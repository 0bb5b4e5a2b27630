"""How images are resized: the ways by name, and what a resizing function takes."""

from collections.abc import Callable

import numpy as np
from PIL import Image

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
"""Pillow's, smoothed where they shrink."""

BICUBIC_TF1 = "bicubic_tf1"
"""The authors' (``images/resize_tf1.py``)."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels of an image and parts of them."""
Bicubic = Callable[[np.ndarray, int, Box | None], np.ndarray]
"""Resizes a box of an image (None for all of it) to a square, as Pillow does."""

"""A perceptual hash: images that look alike differ in few of its bits.

The hash is pHash (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010; https://phash.org): which of the 8×8 lowest cosine coefficients of a
gray 32×32 version exceed their median, leaving out those that are constant along rows
or columns. The cosines are integers here, so that every machine computes the same bits.
"""

import numpy as np
from PIL import Image

NO_HASH = 0
"""Stands for the hash of an image that has none: see `perceptual_hash`."""
_SIDE, _KEPT = 32, 8
_LEAST_SIDE = 16  # pixels: below, many coefficients vanish
_LEAST_CONTRAST = 4.0  # standard deviation of the gray version, of 255
_COSINES = np.round(
    2**12
    * np.cos(
        np.pi
        * np.arange(1, _KEPT + 1)[:, None]
        * (2 * np.arange(_SIDE) + 1)
        / (2 * _SIDE)
    )
).astype(np.int64)


def perceptual_hash(image: np.ndarray) -> np.uint64:
    """Returns the 64-bit hash of an image's gray structure.

    Args:
      image: uint8 ``[height, width, 3]``.

    Returns:
      The hash; `NO_HASH` for a nearly uniform image, whose coefficients are noise, and
      for one with a side below 16 pixels.
    """
    if min(image.shape[:2]) < _LEAST_SIDE:
        return np.uint64(NO_HASH)
    gray = Image.fromarray(image).convert("L")
    small = np.asarray(gray.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.int64)
    if small.std() < _LEAST_CONTRAST:
        return np.uint64(NO_HASH)
    coefficients = (_COSINES @ small @ _COSINES.T).ravel()
    bits = np.packbits(coefficients > np.median(coefficients))
    return np.uint64(int.from_bytes(bits.tobytes(), "big"))


def distances(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the number of bits in which hashes differ, elementwise.

    Args:
      hashes: uint64, of any shape.
      others: uint64, of a shape to broadcast with.
    """
    return np.bitwise_count(hashes ^ others)

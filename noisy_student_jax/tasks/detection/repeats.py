"""Images of rare classes are drawn more often.

Gupta et al., "LVIS" (2019): an image is repeated as its rarest class asks for, √(t/f)
times, where f is the class's share of images, and t the share from which nothing is
repeated.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from noisy_student_jax.data.labels import class_counts
from noisy_student_jax.pseudo_labels import radix

COMMON = 0.5
"""A class that is in this share of the images of the most common class, or more, asks
for no repeats."""
MOST = 4
"""Most draws of an image."""
_USE = 0x6C76  # of one seed
_UNIT = 2.0**-53  # turns the upper 53 bits of a hash into 0…1, 1 excluded


def factors(images: np.ndarray, *, most: int = MOST) -> np.ndarray:
    """Returns the draws that each class asks for, float64 ``[classes]``, 1 to `most`.

    Args:
      images: int64 ``[classes]``, number of images with an object of each class.
      most: most draws of an image.
    """
    wanted = COMMON * images.max(initial=0)
    # No image asks for a class that none has.
    return np.clip(np.sqrt(wanted / np.maximum(images, 1)), 1, most)


def draws(
    present: np.ndarray, asked: np.ndarray, keys: pa.Array, *, seed: int
) -> np.ndarray:
    """Returns the draws of images; a fraction becomes one more by a hash of the key.

    Args:
      present: bool ``[images, classes]``, whether there is an object of the class.
      asked: float64 ``[classes]``, the result of `factors`.
      keys: strings ``[images]``.
      seed: of the hashes.

    Returns:
      int64 ``[images]``, 1 or more.
    """
    wanted = np.where(present, asked, 1.0).max(axis=1, initial=1.0)
    hashes = radix.hash_keys(keys, np.arange(len(wanted)), seed=seed ^ _USE << 48)
    chance = (hashes >> np.uint64(11)) * _UNIT
    return np.floor(wanted).astype(np.int64) + (chance < wanted % 1)


def repeats(labels: np.ndarray, keys: Sequence[str], classes: int) -> np.ndarray:
    """Returns how often each labeled image is drawn in an epoch, int64 ``[images]``.

    Args:
      labels: boxes, float32 ``[images, N, 6]``, see `data.labels`.
      keys: the images' keys.
      classes: number of classes.
    """
    present = class_counts(labels, classes) > 0
    asked = factors(present.sum(axis=0))
    return draws(present, asked, pa.array(keys, pa.string()), seed=0)

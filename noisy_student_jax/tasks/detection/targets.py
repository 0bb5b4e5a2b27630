"""Targets of a detector: boxes of a fixed number of places.

A target is a dictionary of arrays ``[images, N, …]``: boxes as in `data.labels`, in
units of the image's longer side, and their kinds.
"""

import jax
import jax.numpy as jnp
import numpy as np

from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.data.labels import NONE, OBJECT


def targets(labels: np.ndarray) -> Arrays:
    """Converts labels of a source to training targets.

    Args:
      labels: boxes, float32 ``[images, N, 6]``, see `data.labels`.

    Returns:
      ``boxes`` float32 ``[images, N, 4]``; ``classes`` and ``kinds`` int32 ``[images,
      N]``; ``scores``, 1 where there is a box, and ``box_weights``, 1 where it is an
      object, float32 ``[images, N]``. All are 0 where there is none.
    """
    kinds = labels[..., 5].astype(np.int32)
    there = kinds != NONE
    return {
        "boxes": np.where(there[..., None], labels[..., :4], 0).astype(np.float32),
        "classes": np.where(there, labels[..., 4], 0).astype(np.int32),
        "kinds": kinds,
        "scores": there.astype(np.float32),
        "box_weights": (kinds == OBJECT).astype(np.float32),
    }


def pseudo_targets(stored: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Converts stored targets to training targets, on the device.

    Args:
      stored: rows of the arrays of `sidecar.stored_targets`, chosen or not.

    Returns:
      The arrays of `targets`; ``scores`` are the teacher's.
    """
    return {
        "boxes": stored["boxes"].astype(jnp.float32),
        "classes": stored["classes"].astype(jnp.int32),
        "kinds": stored["kinds"].astype(jnp.int32),
        "scores": stored["scores"].astype(jnp.float32),
        "box_weights": stored["box_weights"].astype(jnp.float32),
    }

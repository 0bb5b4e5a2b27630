"""Boxes that move with their noised images.

The box around a rotated box's corners is too large: objects seldom fill their corners.
By default, an object is therefore taken for the ellipse that its box encloses, and the
new box encloses the moved ellipse. Both rules are exact for flips, quarter turns, zooms
and translations.
"""

import jax
import jax.numpy as jnp

from noisy_student_jax.data.labels import IGNORE, NONE, OBJECT
from noisy_student_jax.tasks.detection.boxes import area, clip

LEAST_VISIBLE = 0.25
"""Share of a box's area that has to stay in the picture for it to remain an object."""


def moved(
    targets: dict[str, jax.Array], matrices: jax.Array, *, hull: bool = False
) -> dict[str, jax.Array]:
    """Moves targets with their images, and clips them to the picture.

    An object of which less than `LEAST_VISIBLE` is left becomes a region to ignore: the
    rest of it is seen, but neither to be found nor to be called background. A box of
    which nothing is left, or that had no area, is none. Regions to ignore contain more
    than an ellipse, so they move with their corners.

    Args:
      targets: arrays of `targets.targets`, ``[images, N, …]``.
      matrices: float32 ``[images, 2, 3]``, see `Task.moved`.
      hull: whether objects move with their corners too.

    Returns:
      The same arrays; those of a box that is none are 0.
    """
    kinds = targets["kinds"]
    corners = around(targets["boxes"], matrices, hull=True)
    ellipses = around(targets["boxes"], matrices, hull=hull)
    whole = jnp.where((kinds == OBJECT)[..., None], ellipses, corners)
    boxes = clip(whole)
    left, before = area(boxes), area(whole)
    there = (kinds != NONE) & (area(targets["boxes"]) > 0) & (left > 0)
    hidden = left < LEAST_VISIBLE * before
    kinds = jnp.where((kinds == OBJECT) & hidden, IGNORE, kinds)
    weights = jnp.where(kinds == OBJECT, targets["box_weights"], 0)
    found = targets | {"boxes": boxes, "kinds": kinds, "box_weights": weights}

    def kept(values: jax.Array) -> jax.Array:
        is_there = there.reshape(there.shape + (1,) * (values.ndim - there.ndim))
        return jnp.where(is_there, values, jnp.zeros_like(values))

    return jax.tree.map(kept, found)


def around(boxes: jax.Array, matrices: jax.Array, *, hull: bool) -> jax.Array:
    """Returns boxes around moved boxes, or around the ellipses in them.

    Args:
      boxes: ``[images, N, 4]``.
      matrices: ``[images, 2, 3]``.
      hull: whether around the boxes' corners.

    Returns:
      ``[images, N, 4]``, which may lie outside the picture.
    """
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]) / 2
    sides = []
    # The sums are written out, since a device may multiply matrices less exactly.
    for row in (0, 1):
        a, b, shift = (matrices[:, row, column, None] for column in range(3))
        middle = a * center[..., 0] + b * center[..., 1] + shift
        x, y = jnp.abs(a * half[..., 0]), jnp.abs(b * half[..., 1])
        reach = x + y if hull else jnp.sqrt(x**2 + y**2)
        sides.append((middle - reach, middle + reach))
    (left, right), (top, bottom) = sides
    return jnp.stack([left, top, right, bottom], axis=-1)

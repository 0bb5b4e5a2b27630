"""Which location is to find which object (Tian et al., "FCOS", 2019).

All functions are of one image, and mapped over a batch with `jax.vmap`. Shapes depend
on the number of places for boxes, not on the number of boxes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from noisy_student_jax.data.labels import IGNORE, OBJECT
from noisy_student_jax.tasks.detection import boxes as geometry

RADIUS = 1.5
"""A location finds an object up to this far from its center, in strides."""
NEAR, FAR = 2.0, 4.0
"""Range of the largest distance from a location to a side of its box, in strides."""


class Assignment(NamedTuple):
    """The targets of an image's locations.

    Attributes:
      box: int32 ``[locations]``, index of the object to find; −1 for none.
      ignored: bool ``[locations, classes]``, whether the class's score is not learned.
    """

    box: jax.Array
    ignored: jax.Array


def assign(
    locations: jax.Array,
    boxes: jax.Array,
    classes: jax.Array,
    kinds: jax.Array,
    *,
    outputs: int,
) -> Assignment:
    """Assigns objects to the locations of an image.

    A location finds an object if it lies inside of its box, near its center, and the
    object's size is in the range of the location's level; among several the smallest.
    An object that no location finds by this rule (it is smaller than the finest
    stride, or long and thin) is found by the location of the finest level that is
    nearest to its center.

    Args:
      locations: float32 ``[locations, 3]``, see `models.fcos`.
      boxes: float32 ``[boxes, 4]``.
      classes: int32 ``[boxes]``.
      kinds: int32 ``[boxes]``, 0, `OBJECT` or `IGNORE`.
      outputs: number of classes.
    """
    inside, central, sized = _relations(locations, boxes)
    objects = kinds == OBJECT
    found = inside & central & sized & objects[None, :]
    missed = objects & ~found.any(axis=0)
    found |= _nearest(locations, boxes) & missed[None, :]
    sizes = jnp.where(found, geometry.area(boxes)[None, :], jnp.inf)
    # Of equal boxes the first.
    box = jnp.where(found.any(axis=1), jnp.argmin(sizes, axis=1).astype(jnp.int32), -1)
    of_class = jax.nn.one_hot(classes, outputs, dtype=jnp.bool_)
    ignoring = inside & (kinds == IGNORE)[None, :]
    # A product, as the array of all three axes would be large.
    ignored = ignoring.astype(jnp.float32) @ of_class.astype(jnp.float32) > 0
    positive = (box >= 0)[:, None] & of_class[box]
    return Assignment(box, ignored & ~positive)


def _relations(
    locations: jax.Array, boxes: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns bool ``[locations, boxes]``: inside, central, and of the level's size."""
    center, stride = locations[:, None, :2], locations[:, 2]
    sides = jnp.concatenate(
        [center - boxes[None, :, :2], boxes[None, :, 2:] - center], -1
    )
    middle = (boxes[None, :, :2] + boxes[None, :, 2:]) / 2
    apart = jnp.abs(center - middle).max(axis=-1)
    reach = sides.max(axis=-1)
    finest, coarsest = stride == stride.min(), stride == stride.max()
    low = jnp.where(finest, 0, NEAR * stride)[:, None]
    high = jnp.where(coarsest, jnp.inf, FAR * stride)[:, None]
    return (
        sides.min(axis=-1) > 0,
        apart < RADIUS * stride[:, None],
        (reach > low) & (reach <= high),
    )


def _nearest(locations: jax.Array, boxes: jax.Array) -> jax.Array:
    """Returns bool ``[locations, boxes]``: the finest location next to the center."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    apart = jnp.square(locations[:, None, :2] - middle[None]).sum(axis=-1)
    finest = locations[:, 2] == locations[:, 2].min()
    apart = jnp.where(finest[:, None], apart, jnp.inf)
    return jnp.arange(len(locations))[:, None] == jnp.argmin(apart, axis=0)[None, :]

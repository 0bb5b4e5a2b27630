"""Geometry of boxes.

A box is (left, top, right, bottom), float32, in units of the image's longer side.
"""

import jax
import jax.numpy as jnp


def area(boxes: jax.Array) -> jax.Array:
    """Returns the areas ``[…]`` of boxes ``[…, 4]``; 0 of an inverted box."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def iou(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns the intersection over union of pairs of boxes; 0 of two empty ones.

    Args:
      one: ``[…, 4]``.
      other: of the same number of axes, and broadcastable to `one`.

    Returns:
      ``[…]``, in [0, 1].
    """
    shared, union = _shared_and_union(one, other)
    return _ratio(shared, union)


def iou_matrix(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns the intersection over union of all pairs.

    Args:
      one: ``[…, n, 4]``.
      other: ``[…, m, 4]``.

    Returns:
      ``[…, n, m]``.
    """
    return iou(one[..., :, None, :], other[..., None, :, :])


def generalized_iou(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns the generalized intersection over union (Rezatofighi et al., 2019).

    It falls below zero with the distance of disjoint boxes, so it has a slope where
    the intersection has none.

    Args:
      one: ``[…, 4]``.
      other: see `iou`.

    Returns:
      ``[…]``, in [−1, 1].
    """
    shared, union = _shared_and_union(one, other)
    low = jnp.minimum(one[..., :2], other[..., :2])
    high = jnp.maximum(one[..., 2:], other[..., 2:])
    around = area(jnp.concatenate([low, high], -1))
    return _ratio(shared, union) - _ratio(around - union, around)


def clip(boxes: jax.Array) -> jax.Array:
    """Returns the parts of boxes within the square of the model's input."""
    return jnp.clip(boxes, 0.0, 1.0)


def mirror(boxes: jax.Array) -> jax.Array:
    """Returns boxes ``[…, 4]`` of the input mirrored left to right, and back."""
    left, top, right, bottom = (boxes[..., side] for side in range(4))
    return jnp.stack([1 - right, top, 1 - left, bottom], -1)


def around(locations: jax.Array, distances: jax.Array) -> jax.Array:
    """Returns the boxes that lie around locations.

    Args:
      locations: ``[…, 2 or more]``, x and y first.
      distances: ``[…, 4]``, to the left, top, right and bottom side.

    Returns:
      ``[…, 4]``.
    """
    center = locations[..., :2]
    return jnp.concatenate(
        [center - distances[..., :2], center + distances[..., 2:]], -1
    )


def _shared_and_union(one: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
    low = jnp.maximum(one[..., :2], other[..., :2])
    high = jnp.minimum(one[..., 2:], other[..., 2:])
    shared = area(jnp.concatenate([low, high], -1))
    return shared, area(one) + area(other) - shared


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """Returns part / whole, and 0 with a slope of 0 where there is no whole."""
    some = whole > 0
    return jnp.where(some, part / jnp.where(some, whole, 1), 0)

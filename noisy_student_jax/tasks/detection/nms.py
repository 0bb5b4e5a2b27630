"""Exact non-maximum suppression of static shapes."""

import jax
import jax.numpy as jnp
from jax import lax

from noisy_student_jax.tasks.detection import boxes as geometry

THRESHOLD = 0.6
"""Boxes of one class that overlap by more are one object."""


def keep(boxes: jax.Array, classes: jax.Array, scores: jax.Array) -> jax.Array:
    """Returns which boxes of an image remain.

    A box remains if no better one that remains, and of its class, overlaps with it by
    more than `THRESHOLD`: the result of the greedy algorithm.

    Args:
      boxes: float32 ``[boxes, 4]``, the best first.
      classes: int32 ``[boxes]``.
      scores: float32 ``[boxes]``, descending; 0 for none.

    Returns:
      bool ``[boxes]``.
    """
    rank = jnp.arange(len(boxes))
    better = rank[:, None] < rank[None, :]
    alike = classes[:, None] == classes[None, :]
    beats = better & alike & (geometry.iou_matrix(boxes, boxes) > THRESHOLD)
    there = scores > 0

    # After n rounds the first n + 1 boxes are final, as each depends on better ones
    # only; most images need a few rounds.
    def once(kept: jax.Array) -> jax.Array:
        return there & ~(beats & kept[:, None]).any(axis=0)

    def more(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        before, after = state
        return (before != after).any()

    def next_round(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return state[1], once(state[1])

    return lax.while_loop(more, next_round, (there, once(there)))[1]

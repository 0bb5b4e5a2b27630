"""From a detector's outputs to boxes, in static shapes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from noisy_student_jax.core.types import PyTree
from noisy_student_jax.tasks.detection import boxes as geometry
from noisy_student_jax.tasks.detection import nms

OUTPUTS = 100
"""Boxes of an image."""
CANDIDATES = 10 * OUTPUTS
"""Best pairs of a location and a class that are decoded: nine locations or more find
each object, and those of sure objects must not crowd out unsure ones."""
TINY = 1e-9
"""Sums of weights up to this count as none, and are not divided by."""


class Found(NamedTuple):
    """Boxes of an image, the best first.

    Attributes:
      boxes: float32 ``[boxes, 4]``.
      scores: float32 ``[boxes]``, descending; 0 for none.
      classes: int32 ``[boxes]``.
      reliabilities: float32 ``[boxes]``.
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array
    reliabilities: jax.Array


def decode(outputs: PyTree) -> dict[str, jax.Array]:
    """Returns the boxes of images.

    Of two views, the mirrored one's boxes are mirrored back. A box's score is the
    mean of the views' scores for it, where a view that has not found it has 0; its
    place is the mean of the views' boxes, weighted by their scores.

    Args:
      outputs: of `models.fcos`.

    Returns:
      ``boxes`` float32 ``[images, 100, 4]``, within the input; ``scores`` float32
      ``[images, 100]``, descending, 0 for none; ``classes`` int32 ``[images, 100]``;
      ``reliabilities`` float32 ``[images, 100]``, the intersection over union with the
      other view's box: 1 of one view, 0 where the other has found none.
    """
    locations, views = outputs["locations"], outputs["logits"].shape[1]

    def of_image(logits: jax.Array, distances: jax.Array) -> Found:
        one = suppressed(candidates(logits[0], distances[0], locations))
        if views == 1:
            return one
        other = suppressed(candidates(logits[1], distances[1], locations))
        return merged(one, other._replace(boxes=geometry.mirror(other.boxes)))

    logits, distances = (
        outputs[name].astype(jnp.float32) for name in ("logits", "distances")
    )
    return jax.vmap(of_image)(logits, distances)._asdict()


def candidates(logits: jax.Array, distances: jax.Array, locations: jax.Array) -> Found:
    """Returns the best pairs of a location and a class.

    Args:
      logits: float32 ``[locations, classes]``.
      distances: float32 ``[locations, 4]``.
      locations: float32 ``[locations, 3]``.
    """
    classes = logits.shape[1]
    best, at = lax.top_k(logits.reshape(-1), min(CANDIDATES, logits.size))
    where, of_class = jnp.divmod(at.astype(jnp.int32), classes)
    found = geometry.clip(geometry.around(locations[where], distances[where]))
    return Found(found, jax.nn.sigmoid(best), of_class, jnp.ones_like(best))


def suppressed(found: Found) -> Found:
    """Returns the boxes that remain after non-maximum suppression, filled up."""
    kept = nms.keep(found.boxes, found.classes, found.scores)
    remaining = best(found._replace(scores=jnp.where(kept, found.scores, 0)))
    return remaining._replace(boxes=voted(remaining, found))


def voted(remaining: Found, candidates: Found) -> jax.Array:
    """Returns the mean of the candidates for each box that remains, ``[boxes, 4]``.

    A candidate of its class is weighted by its score, and by how far its overlap with
    the box exceeds `nms.THRESHOLD` (after Gidaris and Komodakis, "Object detection via
    a multi-region and semantic segmentation-aware CNN model", 2015, whose votes count
    from a threshold on, so that rounding would decide on those near it).
    """
    alike = remaining.classes[:, None] == candidates.classes[None, :]
    overlaps = geometry.iou_matrix(remaining.boxes, candidates.boxes)
    beyond = jnp.maximum(overlaps - nms.THRESHOLD, 0)
    votes = jnp.where(alike, beyond * candidates.scores[None, :], 0)
    total = votes.sum(axis=1, keepdims=True)
    # A TPU's default is products of bfloat16, with eight bits of a place.
    places = jnp.matmul(votes, candidates.boxes, precision=lax.Precision.HIGHEST)
    # A box without area overlaps with none, not even with itself.
    return jnp.where(total > TINY, places / jnp.maximum(total, TINY), remaining.boxes)


def merged(one: Found, other: Found) -> Found:
    """Returns the boxes of two views as one.

    Both find a box if theirs are of one class and overlap by more than
    `nms.THRESHOLD`; one remains, at the mean of both.

    Args:
      one: boxes of a view, after suppression.
      other: boxes of the other, in the coordinates of the first.
    """
    both = [_seen_by(one, other), _seen_by(other, one)]
    joined = Found(*(jnp.concatenate(parts) for parts in zip(*both, strict=True)))
    # Suppression goes by the score of a box's own view, averaging follows.
    own = jnp.concatenate([one.scores, other.scores])
    order = jnp.argsort(-own, stable=True)
    joined = Found(*(part[order] for part in joined))
    kept = nms.keep(joined.boxes, joined.classes, own[order])
    return best(joined._replace(scores=jnp.where(kept, joined.scores, 0)))


def _seen_by(one: Found, other: Found) -> Found:
    """Averages boxes and scores with those of another view's best fitting boxes."""
    alike = one.classes[:, None] == other.classes[None, :]
    alike &= (other.scores > 0)[None, :]
    overlaps = jnp.where(alike, geometry.iou_matrix(one.boxes, other.boxes), 0)
    fitting = jnp.argmax(overlaps, axis=1)
    overlap = overlaps.max(axis=1)
    matched = overlap > nms.THRESHOLD
    theirs = jnp.where(matched, other.scores[fitting], 0)
    both = one.scores + theirs
    share = (theirs / jnp.maximum(both, TINY))[:, None]
    return one._replace(
        boxes=one.boxes + share * (other.boxes[fitting] - one.boxes),
        scores=both / 2,
        reliabilities=jnp.where(matched, overlap, 0),
    )


def best(found: Found) -> Found:
    """Returns the `OUTPUTS` best boxes, filled up with zeros."""
    missing = max(OUTPUTS - len(found.scores), 0)
    scores, order = lax.top_k(jnp.pad(found.scores, (0, missing)), OUTPUTS)

    def filled(part: jax.Array) -> jax.Array:
        rest = [(0, 0)] * (part.ndim - 1)
        part = jnp.pad(part, [(0, missing), *rest])[order]
        there = lax.broadcast_in_dim(scores > 0, part.shape, (0,))
        return jnp.where(there, part, jnp.zeros_like(part))

    return Found(*(filled(part) for part in found))

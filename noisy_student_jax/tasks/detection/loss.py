"""The loss of a detector: quality focal loss and generalized IoU.

Li et al., "Generalized Focal Loss" (2020): a class's score learns how well the box of
its location fits. A pseudo box may be none, so the score learns the teacher's instead.
Label smoothing has no part in it.
"""

import jax
import jax.numpy as jnp

from noisy_student_jax.core import types
from noisy_student_jax.core.protocols import LossOptions
from noisy_student_jax.core.types import Batch, PerStream, PyTree
from noisy_student_jax.tasks.detection import boxes as geometry
from noisy_student_jax.tasks.detection.assign import assign

BETA = 2
"""Power of the error that weights a location's loss."""
BOXES = 2.0
"""Weight of the boxes' part."""


def loss(outputs: PyTree, batch: Batch, options: LossOptions) -> dict[str, PerStream]:
    """Returns the loss per stream, and its parts to log.

    Both parts of a stream are divided by the stream's own sum of qualities, at least
    1, so that neither many boxes nor none change the scale of the gradient.

    Args:
      outputs: of `models.fcos`, of one view.
      batch: its target is a dictionary of ``boxes`` float32 ``[batch, N, 4]``,
        ``classes`` and ``kinds`` int32 ``[batch, N]``, ``scores`` and ``box_weights``
        float32 ``[batch, N]``.
      options: `targets` and `temperature` change pseudo-labels' scores.

    Returns:
      ``loss``, the sum of ``classification`` and ``boxes``; and ``positives``, the
      mean number of locations that are to find an object in an image.
    """
    target, pseudo = batch["target"], batch["stream"] == types.PSEUDO
    logits = outputs["logits"][:, 0].astype(jnp.float32)
    distances = outputs["distances"][:, 0].astype(jnp.float32)
    locations = outputs["locations"]
    scores = taught_scores(target["scores"], pseudo[:, None], options)

    def of_image(logits, distances, target, scores):
        return _of_image(logits, distances, locations, target, scores)

    found = jax.vmap(of_image)(logits, distances, target, scores)
    by_stream = {"stream": batch["stream"], "weight": batch["weight"]}
    total = PerStream.of(found["quality"], **by_stream).total
    normalizer = jnp.maximum(total, 1)
    parts = {
        name: PerStream(PerStream.of(found[name], **by_stream).total, normalizer)
        for name in ("classification", "boxes")
    }
    whole = parts["classification"].total + parts["boxes"].total
    return {
        "loss": PerStream(whole, normalizer),
        **parts,
        "positives": PerStream.of(found["positives"], **by_stream),
    }


def taught_scores(
    scores: jax.Array, pseudo: jax.Array, options: LossOptions
) -> jax.Array:
    """Returns the scores that boxes teach: pseudo boxes' as `options` say.

    A score of 1 leaves no doubt that there is an object; what its locations then learn
    is how well their boxes fit, in whichever stream it is.

    Args:
      scores: float32 ``[batch, N]``.
      pseudo: bool ``[batch, 1]``.
      options: hard ones are 1, as true boxes' are; of soft ones, the temperature
        divides the logits.
    """
    if options.targets == "hard":
        taught = jnp.ones_like(scores)
    elif options.temperature != 1.0:
        # p^(1/T) / (p^(1/T) + (1 − p)^(1/T)) = sigmoid(logit(p) / T), also at 0 and 1.
        power = 1 / options.temperature
        yes, no = (jnp.clip(p, 0.0, 1.0) ** power for p in (scores, 1 - scores))
        taught = yes / (yes + no)
    else:
        taught = scores
    return jnp.where(pseudo, taught, scores)


def _of_image(
    logits: jax.Array,
    distances: jax.Array,
    locations: jax.Array,
    target: dict[str, jax.Array],
    scores: jax.Array,
) -> dict[str, jax.Array]:
    """Returns the sums of an image: ``classification``, ``boxes`` and so on."""
    outputs = logits.shape[-1]
    found = assign(
        locations, target["boxes"], target["classes"], target["kinds"], outputs=outputs
    )
    positive = found.box >= 0
    fitting = target["boxes"][found.box]
    proposed = geometry.around(locations, distances)
    overlap = jax.lax.stop_gradient(geometry.iou(proposed, fitting))
    taught = scores[found.box]
    quality = jnp.where(taught < 1, taught, overlap)
    quality = jnp.where(positive, quality, 0)
    of_class = jax.nn.one_hot(target["classes"][found.box], outputs)
    per_class = quality_focal(logits, of_class * quality[:, None])
    misfit = 1 - geometry.generalized_iou(proposed, fitting)
    weight = jnp.where(positive, target["box_weights"][found.box], 0)
    return {
        "classification": jnp.where(found.ignored, 0, per_class).sum(),
        "boxes": BOXES * (misfit * weight).sum(),
        "quality": quality.sum(),
        "positives": positive.sum().astype(jnp.float32),
    }


def quality_focal(logits: jax.Array, quality: jax.Array) -> jax.Array:
    """Returns the cross-entropy to a quality, weighted by the squared error.

    Args:
      logits: float32.
      quality: of the same shape, in [0, 1].
    """
    error = jnp.abs(jax.nn.sigmoid(logits) - quality)
    return error**BETA * (jax.nn.softplus(logits) - quality * logits)

"""Optimizers, learning-rate schedules and weight decay."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from noisy_student_jax.core.types import PyTree

Schedule = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """Options of optimizer and schedule; times in labeled epochs, as in the paper.

    Attributes:
      optimizer: ``rmsprop`` (TensorFlow's), ``sgd`` or ``adamw``.
      learning_rate: per 256 labeled images (0.016 in the paper).
      schedule: ``exponential`` staircase, ``cosine`` or ``constant``.
      decay_epochs: length of one stair.
      decay_factor: factor of the learning rate per stair.
      warmup_epochs: linear warm-up from zero.
      momentum: of RMSProp's and SGD's momentum buffer.
      weight_decay: λ.
    """

    optimizer: str
    learning_rate: float
    schedule: str
    decay_epochs: float
    decay_factor: float
    warmup_epochs: float
    momentum: float
    weight_decay: float

    @classmethod
    def from_config(cls, train: Mapping[str, Any]) -> "OptimizerOptions":
        """Takes the fields from a generation's ``train`` section."""
        return cls(**{f.name: train[f.name] for f in dataclasses.fields(cls)})

    @property
    def decay_in_loss(self) -> bool:
        """Whether weight decay is an L2 term of the loss (all but AdamW)."""
        return self.optimizer != "adamw"


def make_schedule(
    options: OptimizerOptions,
    *,
    batch: int,
    steps: int,
    steps_per_epoch: float,
    start: int = 0,
) -> Schedule:
    """Returns a schedule: the learning rate by step.

    The peak is ``learning_rate · batch / 256``; decay counts from step 0, not from
    the end of the warm-up (authors' ``utils.build_learning_rate``).

    Args:
      options: see `OptimizerOptions`.
      batch: labeled images per step: all schedules use the labeled batch only.
      steps: length of the training, where the cosine ends.
      steps_per_epoch: labeled images / batch.
      start: offset of the first step in the schedule (the authors'
        ``start_from_step``, with which FixRes starts at the tail of a schedule).
    """
    peak = options.learning_rate * batch / 256
    warmup = options.warmup_epochs * steps_per_epoch
    stair = options.decay_epochs * steps_per_epoch

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32) + start
        if options.schedule == "exponential":
            # The small term keeps rounding of the division from delaying a stair that
            # begins exactly at a step.
            stairs = jnp.floor(step / stair + 1e-6)
            rate = peak * options.decay_factor**stairs
        elif options.schedule == "cosine":
            progress = jnp.clip(step / max(steps, 1), 0.0, 1.0)
            rate = peak * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        else:
            rate = jnp.full((), peak)
        if warmup > 0:
            rate = jnp.where(step < warmup, peak * step / warmup, rate)
        return rate

    return schedule


def make_optimizer(
    options: OptimizerOptions, schedule: Schedule, *, frozen: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """Builds the optimizer.

    RMSProp is TensorFlow 1's: ε inside the square root, the second moment starting
    at one, the learning rate inside the momentum buffer (authors' ``main.py``).

    Args:
      options: see `OptimizerOptions`.
      schedule: the learning rate by step.
      frozen: modules without gradients, which do not decay either.
    """
    if options.optimizer == "rmsprop":
        return optax.rmsprop(
            schedule,
            decay=0.9,
            eps=1e-3,
            initial_scale=1.0,
            eps_in_sqrt=True,
            momentum=options.momentum,
        )
    if options.optimizer == "sgd":
        return optax.sgd(schedule, momentum=options.momentum)
    mask = functools.partial(decayed, frozen=frozen)
    return optax.adamw(schedule, weight_decay=options.weight_decay, mask=mask)


def decayed(params: PyTree, *, frozen: tuple[str, ...] = ()) -> PyTree:
    """Returns the weight-decay mask: all parameters but the norms' scale and bias.

    Biases of squeeze-and-excitation and of the classifier do decay (the authors'
    ``main.py`` excludes only names with ``batch_normalization``). Batch-norm modules
    are those whose name ends in ``_bn``, or is Flax's ``BatchNorm_N``, and group-norm
    modules those whose name ends in ``_gn``. Frozen modules do not decay (in the
    authors' code, they are not trainable variables).

    Args:
      params: parameters of the model.
      frozen: names of top-level modules that are not trained.
    """

    def decays(path: tuple, _: jax.Array) -> bool:
        names = [str(getattr(part, "key", part)) for part in path]
        if names[0] in frozen:
            return False
        return not any(
            n.endswith(("_bn", "_gn")) or n.startswith("BatchNorm") for n in names
        )

    return jax.tree_util.tree_map_with_path(decays, params)


JOINED = 2**16
"""Arrays with fewer elements than this are summed together."""


@jax.custom_vjp
def squared_norm(arrays: list[jax.Array]) -> jax.Array:
    """Returns Σ x² over all arrays.

    Small arrays are concatenated first, since on CPU each reduction is a separate loop
    to compile. The gradient is 2x of each array directly, as slicing the concatenated
    gradient would add another loop per array. Only reverse mode is defined.
    """
    small = [array.reshape(-1) for array in arrays if array.size < JOINED]
    large = [array for array in arrays if array.size >= JOINED]
    joined = [jnp.concatenate(small)] if small else []
    sums = (jnp.sum(jnp.square(array)) for array in (*joined, *large))
    return sum(sums, start=jnp.zeros(()))


def _squared_norm_forward(arrays):
    return squared_norm(arrays), arrays


def _squared_norm_backward(arrays, gradient):
    return ([2 * gradient * array for array in arrays],)


squared_norm.defvjp(_squared_norm_forward, _squared_norm_backward)


def l2(params: PyTree, *, frozen: tuple[str, ...] = ()) -> jax.Array:
    """Returns Σ ½‖w‖² over the decayed parameters (TensorFlow's ``l2_loss``)."""
    mask = decayed(params, frozen=frozen)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True)
    return 0.5 * squared_norm([weights for weights, decays in pairs if decays])

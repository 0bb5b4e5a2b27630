"""The training step: one forward pass over both streams, one update, one EMA."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from noisy_student_jax.core import random_keys, sharding, types
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.sharding import NOT_SHARED, Sharing
from noisy_student_jax.core.types import Batch, PyTree
from noisy_student_jax.training.optimizer import l2, squared_norm
from noisy_student_jax.training.state import TrainState, ema_decay, ema_update

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """Options of the step beyond model, task and optimizer.

    Attributes:
      ratio: r, pseudo-labeled images per labeled one.
      loss_normalization: how the streams' mean losses are combined. ``code``:
        ``L_l + r·L_u`` (the authors' code); ``sum``: ``L_l + L_u`` (the paper's
        Algorithm 1); ``average``: ``(L_l + r·L_u) / (1 + r)`` (the paper's text).
      weight_decay: λ of the L2 term in the loss; 0 if the optimizer decays weights.
      ema_decay: of both weights and batch statistics.
      microbatches: number of sequential parts of the batch; gradients are averaged.
      group: examples in one group of the batch layout; a microbatch takes every
        ``microbatches``-th group, so each device has its share of each.
      frozen: modules without gradients; they do not decay.
    """

    ratio: float
    loss_normalization: str = "code"
    weight_decay: float = 0.0
    ema_decay: float = 0.9999
    microbatches: int = 1
    group: int = 1
    frozen: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher that labels the pseudo-labeled examples within the step, without noise.

    Its variables are an argument of the step, separate from the state: they are
    neither trained, averaged, donated nor saved.

    Attributes:
      module: the model, called in evaluation mode on its averaged weights and batch
        statistics.
      targets: converts its outputs to the task's targets.
      mean: per channel, on the 0–1 scale.
      std: per channel, on the 0–1 scale.
    """

    module: nn.Module
    targets: Callable[[PyTree], PyTree]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def label(self, variables: PyTree, batch: Batch) -> Batch:
        """Replaces the targets of the pseudo-labeled examples by the teacher's."""
        batch = dict(batch)
        images = normalize(batch.pop("teacher_image"), self.mean, self.std)
        outputs = self.module.apply(variables, images, train=False)
        taught = jax.lax.stop_gradient(self.targets(outputs))
        pseudo = len(images)
        layout = BatchLayout(len(batch["image"]) - pseudo, pseudo)

        def replaced(target: jax.Array, taught: jax.Array) -> jax.Array:
            rest = target.shape[1:]
            groups = target.reshape(layout.groups, -1, *rest)
            true = groups[:, : layout.labeled // layout.groups].reshape(-1, *rest)
            return layout.interleave(true, taught.astype(target.dtype))

        batch["target"] = jax.tree.map(replaced, batch["target"], taught)
        return batch


class Loss(Protocol):
    """A task's loss, with its options bound."""

    def __call__(self, outputs: PyTree, batch: Batch) -> dict[str, "types.PerStream"]:
        """Returns at least ``{"loss": …}``, sums and normalizers per stream."""


def normalize(
    images: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
    """Maps values 0–255 to the model's scale: ``(x / 255 − mean) / std``.

    Args:
      images: uint8 or float ``[batch, height, width, channels]``.
      mean: per channel, on the 0–1 scale.
      std: per channel, on the 0–1 scale.

    Returns:
      float32 of the same shape.
    """
    offset, scale = (
        lax.broadcast_to_rank(jnp.asarray(each, jnp.float32) * 255, images.ndim)
        for each in (mean, std)
    )
    return (images.astype(jnp.float32) - offset) / scale


def total_loss(
    labeled: jax.Array, pseudo: jax.Array, options: StepOptions
) -> jax.Array:
    """Combines the two streams' mean losses by the chosen normalization."""
    if options.loss_normalization == "code":
        return labeled + options.ratio * pseudo
    if options.loss_normalization == "sum":
        return labeled + pseudo
    return (labeled + options.ratio * pseudo) / (1 + options.ratio)


def joined_norm(gradient: PyTree) -> jax.Array:
    """Returns the norm of a replicated gradient."""
    return jnp.sqrt(squared_norm(jax.tree.leaves(gradient)))


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """The training step, a pure function ``(state, batch) → (state, metrics)``.

    With a `teacher` it is ``(state, batch, variables of the teacher) → …``, and the
    batch contains ``teacher_image``. Its two halves can be compiled separately.

    Metrics are float32 scalars: ``loss`` (the objective, including the L2 term),
    ``labeled/…`` and ``pseudo/…`` means of the task's quantities, ``l2``,
    ``learning_rate``, ``gradient_norm``.

    Attributes:
      module: the model.
      loss: the task's loss.
      optimizer: an Optax transformation.
      schedule: the learning rate by step.
      options: see `StepOptions`.
      mean: per channel, on the 0–1 scale.
      std: per channel, on the 0–1 scale.
      teacher: labels within the step; None if labels are stored.
    """

    module: nn.Module
    loss: Loss
    optimizer: optax.GradientTransformation
    schedule: Callable[[jax.Array], jax.Array]
    options: StepOptions
    _: dataclasses.KW_ONLY
    mean: tuple[float, ...]
    std: tuple[float, ...]
    teacher: Teacher | None = None

    __name__ = "step"  # the name of the compiled program

    def __call__(
        self,
        state: TrainState,
        batch: Batch,
        taught_by: PyTree = None,
        *,
        sharing: Sharing = NOT_SHARED,
    ) -> tuple[TrainState, Metrics]:
        """Returns the next state and the metrics."""
        gradient, batch_stats, measured = self.gradients(
            state, batch, taught_by, sharing=sharing
        )
        state, further = self.update(state, gradient, batch_stats, sharing=sharing)
        return state, measured | further

    def gradients(
        self,
        state: TrainState,
        batch: Batch,
        taught_by: PyTree = None,
        *,
        sharing: Sharing = NOT_SHARED,
    ) -> tuple[PyTree, PyTree, Metrics]:
        """Returns the gradient, the new batch statistics and the loss's metrics."""
        key = jax.random.fold_in(random_keys.wrap(state.noise_key), state.step)
        work = self._whole if self.options.microbatches == 1 else self._microbatched
        # The model computes with gathered arrays; the state holds shards.
        params, batch_stats = sharing.whole((state.params, state.batch_stats))
        return work(params, batch_stats, batch, key, taught_by, sharing.shared)

    def update(
        self,
        state: TrainState,
        gradient: PyTree,
        batch_stats: PyTree,
        *,
        sharing: Sharing = NOT_SHARED,
    ) -> tuple[TrainState, Metrics]:
        """Returns the state with updated weights and averages, and further metrics."""
        updates, opt_state = self.optimizer.update(
            gradient, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        # Shards are not concatenated, as they are on different devices.
        norm = joined_norm if sharing is NOT_SHARED else optax.tree.norm
        done = state.step + 1
        decay = ema_decay(self.options.ema_decay, done)
        moved = state.replace(
            step=done,
            params=params,
            batch_stats=batch_stats,
            ema_params=ema_update(state.ema_params, params, decay),
            ema_batch_stats=ema_update(state.ema_batch_stats, batch_stats, decay),
            opt_state=opt_state,
        )
        rate = self.schedule(state.step)
        return moved, {"learning_rate": rate, "gradient_norm": norm(gradient)}

    def _objective(self, params, batch_stats, batch, key):
        outputs, updates = self.module.apply(
            {"params": params, "batch_stats": batch_stats},
            normalize(batch["image"], self.mean, self.std),
            train=True,
            noise=batch["noise"],
            mutable=["batch_stats"],
            rngs={
                "dropout": jax.random.fold_in(key, 0),
                "stochastic_depth": jax.random.fold_in(key, 1),
            },
        )
        measured = {name: m.means() for name, m in self.loss(outputs, batch).items()}
        labeled, pseudo = measured["loss"]
        data_loss = total_loss(labeled, pseudo, self.options)
        decay = l2(params, frozen=self.options.frozen)
        value = data_loss + self.options.weight_decay * decay
        metrics = {"loss": value, "l2": decay}
        for name, means in measured.items():
            for stream, mean in zip(types.STREAMS, means, strict=True):
                metrics[f"{stream}/{name}"] = mean
        return value, (updates.get("batch_stats", {}), metrics)

    def _whole(self, params, batch_stats, batch, key, taught_by, shared):
        if self.teacher:
            batch = self.teacher.label(taught_by, batch)
        descend = jax.value_and_grad(self._objective, has_aux=True)
        (_, (batch_stats, metrics)), gradient = descend(params, batch_stats, batch, key)
        return shared(gradient), batch_stats, metrics

    def _microbatched(self, params, batch_stats, batch, key, taught_by, shared):
        count = self.options.microbatches

        def deal(x):
            # A group has fewer entries of arrays for pseudo-labeled examples only.
            group = self.options.group * len(x) // len(batch["image"])
            x = x.reshape(-1, count, group, *x.shape[1:]).swapaxes(0, 1)
            return x.reshape(count, -1, *x.shape[3:])

        parts = jax.tree.map(deal, batch)

        def one(carried, numbered):
            total, batch_stats = carried
            number, part = numbered
            part_key = jax.random.fold_in(key, number)
            gradient, batch_stats, metrics = self._whole(
                params, batch_stats, part, part_key, taught_by, shared
            )
            # A running sum needs one copy of the gradients for any number of parts.
            return (jax.tree.map(jnp.add, total, gradient), batch_stats), metrics

        start = shared(jax.tree.map(jnp.zeros_like, params)), batch_stats
        (total, batch_stats), stacked = jax.lax.scan(
            one, start, (jnp.arange(count), parts)
        )
        gradient = jax.tree.map(lambda x: x / count, total)
        return gradient, batch_stats, jax.tree.map(lambda x: x.mean(axis=0), stacked)


def jit_train_step(
    step: TrainStep,
    mesh: Mesh,
    *,
    taught: bool = False,
    state_sharding: PyTree | None = None,
) -> jax.stages.Wrapped:
    """Applies `jax.jit` to a step, with its shardings and donation.

    Args:
      step: the step.
      mesh: devices.
      taught: whether it also takes the variables of a teacher, replicated.
      state_sharding: from `sharding.state_sharding`; replicated if not given.

    Returns:
      The jitted step, not compiled yet: the state is donated, the batch sharded.
    """
    whole, spread = sharding.replicated(mesh), sharding.along_batch(mesh)
    held = whole if state_sharding is None else state_sharding
    function: Callable[..., Any] = step
    if isinstance(held, TrainState):
        function = functools.partial(step, sharing=Sharing.of(held.params, mesh))
    return jax.jit(
        function,
        in_shardings=(held, spread, *((whole,) if taught else ())),
        out_shardings=(held, whole),
        donate_argnums=0,
        compiler_options=sharding.compiler_options(mesh),
    )


def jit_halves(
    step: TrainStep, mesh: Mesh, *, taught: bool = False
) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
    """Applies `jax.jit` to the two halves of a step separately.

    Args:
      step: the step, on a replicated state.
      mesh: devices.
      taught: as in `jit_train_step`.

    Returns:
      The jitted `TrainStep.gradients` and `TrainStep.update`.
    """
    whole, spread = sharding.replicated(mesh), sharding.along_batch(mesh)
    jit = functools.partial(
        jax.jit, out_shardings=whole, compiler_options=sharding.compiler_options(mesh)
    )
    given = (whole, spread, *((whole,) if taught else ()))
    return (
        jit(step.gradients, in_shardings=given),
        jit(step.update, in_shardings=whole, donate_argnums=0),
    )

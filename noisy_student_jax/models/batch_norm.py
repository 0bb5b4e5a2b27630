"""Batch norm fused with the following activation, with a custom gradient.

Under automatic differentiation, batch norm and swish store several arrays of the size
of their input for the backward pass and read them all again. The custom gradient stores
only the input, and needs one reduction and one pass over it.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.models import initialize
from noisy_student_jax.models.initialize import Initializer

Activation = Callable[[jax.Array], jax.Array]


class BatchNorm(nn.Module):
    """Batch norm in training mode, followed by an activation.

    The variance is E[x²] − E[x]², as in Flax. With groups, each group of consecutive
    examples is normalized separately, as the authors' TPU code does over groups of
    replicas, and the moving statistics track the mean over groups of their means and
    variances. Variables have the names of `flax.linen.BatchNorm`, which is used for
    evaluation.

    Attributes:
      activation: an elementwise function.
      momentum: of the moving statistics.
      epsilon: added to the variance.
      group: number of examples that share statistics; 0 for the whole batch.
      own_gradient: whether to use the custom gradient, which supports reverse-mode
        differentiation only.
      scale_init: of its scale.
      dtype: of the result; statistics are float32.
    """

    activation: Activation
    momentum: float
    epsilon: float
    group: int = 0
    own_gradient: bool = True
    scale_init: Initializer = initialize.ONES
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """Normalizes ``[batch, …, channels]``.

        Raises:
          UserError: If the batch does not divide into groups.
        """
        if self.group and len(values) % self.group:
            raise UserError(
                f"A batch (or microbatch) of {len(values)} images does not divide into "
                f"batch norm's groups of {self.group}: change the model's "
                "batch_norm_group, or make the batch a multiple of it."
            )
        shape = values.shape[-1:]
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", initialize.ZEROS, shape, jnp.float32)
        moving = {
            "mean": self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32),
            "var": self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32),
        }
        normalize = _with_own_gradient if self.own_gradient else _normalize
        activated, *statistics = normalize(
            values.astype(self.dtype),
            scale,
            bias,
            self.group or len(values),
            self.epsilon,
            self.activation,
        )
        if not self.is_initializing():
            for name, seen in zip(("mean", "var"), statistics, strict=True):
                seen = lax.stop_gradient(seen).mean(0)
                kept = self.momentum * moving[name].value
                moving[name].value = kept + (1 - self.momentum) * seen
        return activated


# Statistics and values derived from them are ``[groups, channels]``.
def _normalize(values, scale, bias, group, epsilon, activation):
    return _forward(values, scale, bias, group, epsilon, activation)[0]


def _forward(values, scale, bias, group, epsilon, activation):
    seen = values.astype(jnp.float32)
    mean = _mean(seen, group)
    # Rounding may make the difference negative.
    variance = jnp.maximum(0, _mean(jnp.square(seen), group) - jnp.square(mean))
    factor = lax.rsqrt(variance + epsilon)
    slope = factor * _to_groups(scale)
    normed = seen * _to_each(slope, seen) + _to_each(
        _to_groups(bias) - mean * slope, seen
    )
    residuals = (values, scale, bias, mean, factor)
    return (activation(normed).astype(values.dtype), mean, variance), residuals


def _backward(group, epsilon, activation, residuals, gradients):
    values, scale, bias, mean, factor = residuals
    # Without the barrier, XLA's common subexpression elimination would store the
    # normalized values of the forward pass.
    seen, gradient = lax.optimization_barrier((values, gradients[0]))
    seen, gradient = seen.astype(jnp.float32), gradient.astype(jnp.float32)
    slope = factor * _to_groups(scale)
    normed = seen * _to_each(slope, seen) + _to_each(
        _to_groups(bias) - mean * slope, seen
    )
    (gradient,) = jax.vjp(activation, normed)[1](gradient)
    to_bias = _mean(gradient, group)
    to_scale = (_mean(gradient * seen, group) - mean * to_bias) * factor
    # The gradient through mean and variance: an affine function of each value.
    tilt = -to_scale * factor
    constant = -to_bias - tilt * mean
    back = gradient + seen * _to_each(tilt, seen) + _to_each(constant, seen)
    back = back * _to_each(slope, seen)
    count = float(values.size // mean.size)  # may exceed int32
    return back.astype(values.dtype), to_scale.sum(0) * count, to_bias.sum(0) * count


_with_own_gradient = jax.custom_vjp(_normalize, nondiff_argnums=(3, 4, 5))
_with_own_gradient.defvjp(_forward, _backward)


def _mean(values: jax.Array, group: int) -> jax.Array:
    """Returns the mean of each group and channel, ``[groups, channels]``."""
    batch, channels = len(values), values.shape[-1]
    if group == batch:
        return values.mean(tuple(range(values.ndim - 1)))[None]
    # Reduce each example first: however the batch is sharded, only
    # [batch, channels] is split into groups.
    examples = values.mean(tuple(range(1, values.ndim - 1)))
    return examples.reshape(-1, group, channels).mean(1)


def _to_groups(parameter: jax.Array) -> jax.Array:
    """Broadcasts a parameter ``[channels]`` over groups: ``[1, channels]``."""
    return lax.broadcast_to_rank(parameter, 2)


def _to_each(statistic: jax.Array, values: jax.Array) -> jax.Array:
    """Broadcasts a statistic of each group to its examples."""
    groups, channels = statistic.shape
    if groups == 1:
        return lax.broadcast_to_rank(statistic[0], values.ndim)
    repeated = jnp.repeat(statistic, len(values) // groups, axis=0)
    return repeated.reshape(len(values), *[1] * (values.ndim - 2), channels)

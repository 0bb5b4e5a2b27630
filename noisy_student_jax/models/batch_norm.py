"""Batch norm and the activation after it as one operation with its own gradient.

Differentiated automatically, batch norm and a swish keep half a dozen maps of the size
of their input for the backward pass and read them all again. Their gradient needs one:
the input itself, from which the rest is computed anew at the cost of reading it. The
backward pass is then what it must be, one sum over the map and one pass over it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Activation = Callable[[jax.Array], jax.Array]


def moments(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns float32 mean and variance per channel, as `flax.linen.BatchNorm`.

    Args:
      values: ``[batch, …, channels]``.
    """
    values = values.astype(jnp.float32)
    axes = tuple(range(values.ndim - 1))
    mean = values.mean(axes)
    # Rounding may take the difference below zero.
    return mean, jnp.maximum(0, jnp.square(values).mean(axes) - jnp.square(mean))


def normalize_and_activate(
    values: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
    activation: Activation,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises by the batch's own statistics, scales, shifts and activates.

    Only reverse-mode differentiation is defined, and none through the statistics that
    are returned.

    Args:
      values: floating point ``[batch, …, channels]``.
      scale: float32 ``[channels]``.
      bias: float32 ``[channels]``.
      epsilon: added to the variance.
      activation: an elementwise function.

    Returns:
      What is activated, in the shape and dtype of `values`; mean and variance, float32
      ``[channels]``.
    """
    activated, mean, variance = _normalized(values, scale, bias, epsilon, activation)
    return activated, lax.stop_gradient(mean), lax.stop_gradient(variance)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalized(values, scale, bias, epsilon, activation):
    return _forward(values, scale, bias, epsilon, activation)[0]


def _forward(values, scale, bias, epsilon, activation):
    mean, variance = moments(values)
    factor = lax.rsqrt(variance + epsilon)
    slope = factor * scale
    normed = values.astype(jnp.float32) * slope + (bias - mean * slope)
    activated = activation(normed).astype(values.dtype)
    return (activated, mean, variance), (values, scale, bias, mean, factor)


def _backward(epsilon, activation, residuals, gradients):
    values, scale, bias, mean, factor = residuals
    dtype = values.dtype
    # Without the barrier the compiler finds that the forward pass has computed the
    # same before, and keeps that instead.
    values, gradient = lax.optimization_barrier((values, gradients[0]))
    values, gradient = values.astype(jnp.float32), gradient.astype(jnp.float32)
    slope = factor * scale
    normed = values * slope + (bias - mean * slope)
    (gradient,) = jax.vjp(activation, normed)[1](gradient)
    axes = tuple(range(values.ndim - 1))
    bias_gradient = gradient.sum(axes)
    scale_gradient = ((gradient * values).sum(axes) - mean * bias_gradient) * factor
    count = values.size // values.shape[-1]
    tilt = -scale_gradient * factor / count
    constant = -bias_gradient / count - tilt * mean
    back = (gradient + values * tilt + constant) * slope
    return back.astype(dtype), scale_gradient, bias_gradient


_normalized.defvjp(_forward, _backward)

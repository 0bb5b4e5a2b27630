"""Layers that the models of this package are built from."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from noisy_student_jax.models import initialize
from noisy_student_jax.models.depthwise import depthwise_conv


def conv(
    channels: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    bias: bool = False,
    dtype: Any = jnp.float32,
    name: str,
) -> nn.Conv:
    """A convolution with TensorFlow's SAME padding and the authors' initial values."""
    return nn.Conv(
        channels,
        (kernel, kernel),
        strides=stride,
        padding="SAME",
        use_bias=bias,
        dtype=dtype,
        kernel_init=initialize.CONVOLUTION,
        bias_init=initialize.ZEROS,
        name=name,
    )


batch_norm = functools.partial(
    nn.BatchNorm, scale_init=initialize.ONES, bias_init=initialize.ZEROS
)


class DepthwiseConv(nn.Module):
    """One kernel per channel; the parameter is ``kernel`` ``[k, k, 1, channels]``."""

    kernel: int
    stride: int = 1
    implementation: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, channels]`` to ``[batch, ⌈h/s⌉, ⌈w/s⌉, channels]``."""
        shape = (self.kernel, self.kernel, 1, images.shape[-1])
        kernel = self.param("kernel", initialize.DEPTHWISE, shape, jnp.float32)
        return depthwise_conv(
            images.astype(self.dtype),
            kernel,
            stride=self.stride,
            implementation=self.implementation,
        )


def drop_per_example(
    values: jax.Array,
    key: jax.Array,
    *,
    rate: float,
    noise: jax.Array | None,
    mask_shape: tuple[int, ...],
) -> jax.Array:
    """Sets parts of the values to 0 at random and divides the rest by what is kept.

    Args:
      values: ``[batch, …]``.
      key: a random key.
      rate: the fraction dropped, in [0, 1).
      noise: ``[batch]``, 0 where an example must pass as it is; None noises all.
      mask_shape: the shape of the random mask, which broadcasts against `values`:
        ``[batch, 1, …]`` drops whole examples.

    Returns:
      The values, same shape and dtype.
    """
    keep = 1.0 - rate
    factor = jax.random.bernoulli(key, keep, mask_shape) / keep
    if noise is not None:
        applies = noise.reshape(-1, *[1] * (values.ndim - 1)) > 0
        factor = jnp.where(applies, factor, 1.0)
    return values * factor.astype(values.dtype)

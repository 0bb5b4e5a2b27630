"""Layers that the models of this package are built from."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from noisy_student_jax.errors import UserError
from noisy_student_jax.models import initialize
from noisy_student_jax.models.depthwise import depthwise_conv
from noisy_student_jax.models.batch_norm import normalize_and_activate


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
    if kernel == 1 and stride == 1:
        return Pointwise(channels, bias, dtype, name=name)
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


class Pointwise(nn.Module):
    """A 1×1 convolution as a matrix product; its variables are `nn.Conv`'s."""

    channels: int
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, inputs]`` to ``[batch, h, w, channels]``."""
        inputs = images.shape[-1]
        kernel = self.param(
            "kernel", initialize.CONVOLUTION, (1, 1, inputs, self.channels), jnp.float32
        )
        matrix = kernel.reshape(inputs, self.channels).astype(self.dtype)
        product = images.astype(self.dtype).reshape(-1, inputs) @ matrix
        product = product.reshape(*images.shape[:-1], self.channels)
        if self.use_bias:
            bias = self.param("bias", initialize.ZEROS, (self.channels,), jnp.float32)
            product = product + bias.astype(self.dtype)
        return product


class BatchNorm(nn.Module):
    train: bool
    momentum: float
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, values: jax.Array, activation=lambda x: x) -> jax.Array:
        shape = (values.shape[-1],)
        scale = self.param("scale", initialize.ONES, shape, jnp.float32)
        bias = self.param("bias", initialize.ZEROS, shape, jnp.float32)
        moving = {
            "mean": self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32),
            "var": self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32),
        }
        if not self.train:
            factor = jax.lax.rsqrt(moving["var"].value + self.epsilon) * scale
            return activation(((values.astype(jnp.float32) - moving["mean"].value) * factor + bias).astype(self.dtype))
        out, mean, var = normalize_and_activate(values, scale, bias, epsilon=self.epsilon, activation=activation)
        if not self.is_initializing():
            for name, seen in (("mean", mean), ("var", var)):
                kept = self.momentum * moving[name].value
                moving[name].value = kept + (1 - self.momentum) * seen
        return out


def batch_norm(
    *,
    train: bool,
    group: int = 0,
    momentum: float,
    epsilon: float,
    dtype: Any = jnp.float32,
    name: str,
) -> nn.Module:
    """A batch norm; its variables do not depend on `train` and `group`.

    Args:
      train: batch statistics instead of moving ones.
      group: examples that share batch statistics, 0 for the whole batch.
      momentum: of the moving statistics.
      epsilon: added to the variance.
      dtype: of what it returns; statistics are float32.
      name: of the module.
    """
    shared = {"momentum": momentum, "epsilon": epsilon, "dtype": dtype, "name": name}
    if train and group:
        return GroupedBatchNorm(group=group, **shared)
    return BatchNorm(train=train, **shared)


class GroupedBatchNorm(nn.Module):
    """Batch norm in training where each run of `group` examples is normed by itself.

    The authors' TPU code takes statistics over groups of replicas in this way: the
    variance is E[x²] − E[x]², and the moving statistics follow the mean over groups
    of their means and variances. Variables are named as `nn.BatchNorm`'s, which
    evaluates with them.

    Attributes:
      group: examples that share statistics.
      momentum: of the moving statistics.
      epsilon: added to the variance.
      dtype: of what it returns; statistics are float32.
    """

    group: int
    momentum: float
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """Maps ``[batch, …, channels]`` to the same shape.

        Raises:
          UserError: If the batch does not divide into groups.
        """
        batch, *inner, channels = values.shape
        if batch % self.group:
            raise UserError(
                f"A batch (or microbatch) of {batch} images does not divide into "
                f"batch norm's groups of {self.group}: change the model's "
                "batch_norm_group, or make the batch a multiple of it."
            )
        shape = (channels,)
        scale = self.param("scale", initialize.ONES, shape, jnp.float32)
        bias = self.param("bias", initialize.ZEROS, shape, jnp.float32)
        moving = {
            "mean": self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32),
            "var": self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32),
        }
        values = values.astype(jnp.float32)

        def mean_of_groups(values: jax.Array) -> jax.Array:
            # Each example is summed up first: however the batch is spread over
            # devices, only [batch, channels] is ever cut into groups.
            examples = values.mean(tuple(range(1, values.ndim - 1)))
            return examples.reshape(-1, self.group, channels).mean(1)

        mean = mean_of_groups(values)
        # Rounding may take the difference below zero.
        variance = jnp.maximum(0, mean_of_groups(values**2) - mean**2)
        if not self.is_initializing():
            for name, seen in (("mean", mean), ("var", variance)):
                kept = self.momentum * moving[name].value
                moving[name].value = kept + (1 - self.momentum) * seen.mean(0)

        def per_example(statistic: jax.Array) -> jax.Array:
            repeated = jnp.repeat(statistic, self.group, axis=0)
            return repeated.reshape(batch, *[1] * len(inner), channels)

        factor = jax.lax.rsqrt(variance + self.epsilon) * scale
        normed = (values - per_example(mean)) * per_example(factor) + bias
        return normed.astype(self.dtype)


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


def classify(
    pooled: jax.Array,
    outputs: int,
    *,
    rate: float,
    key: jax.Array | None,
    noise: jax.Array | None,
) -> jax.Array:
    """Dropout and the classifier, in whichever module calls.

    Args:
      pooled: float32 ``[batch, channels]``.
      outputs: number of logits.
      rate: of dropout; 0 for none.
      key: a random key, where there is dropout.
      noise: ``[batch]``, 0 where dropout does not apply; None for all.

    Returns:
      float32 ``[batch, outputs]``.
    """
    if rate:
        pooled = drop_per_example(
            pooled, key, rate=rate, noise=noise, mask_shape=pooled.shape
        )
    return nn.Dense(
        outputs,
        kernel_init=initialize.DENSE,
        bias_init=initialize.ZEROS,
        name="classifier",
    )(pooled)


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

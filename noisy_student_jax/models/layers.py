"""Layers of this package's models."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from noisy_student_jax.models import initialize
from noisy_student_jax.models.batch_norm import Activation, BatchNorm
from noisy_student_jax.models.depthwise import depthwise_conv
from noisy_student_jax.models.initialize import Initializer
from noisy_student_jax.models.stem import stem_conv

LAYERS = ("auto", "own", "flax")
"""Implementations of 1×1 convolutions and batch norm; see `ModelArguments`."""


def chosen(layers: str) -> str:
    """Returns the implementation that one of `LAYERS` means on this machine.

    It is chosen when a model is traced, not when it is lowered: the residuals of the
    two gradients differ, and both would be traced.
    """
    if layers != "auto":
        return layers
    return "own" if jax.default_backend() == "cpu" else "flax"


def convolution(
    channels: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = False,
    dtype: DTypeLike = jnp.float32,
    implementation: str = "own",
    name: str,
) -> nn.Module:
    """Creates a convolution with the authors' initialization.

    With the implementation "own", a 1×1 convolution is computed as a matrix product,
    and the stem's by `stem_conv`. The variables do not depend on `implementation`.

    Args:
      channels: of the result.
      kernel: its height and width.
      stride: the same in both directions.
      padding: zeros on every side; None for TensorFlow's SAME, which pads the far side
        more.
      bias: whether a bias is added.
      dtype: of the computation.
      implementation: "own" or "flax", see `chosen`.
      name: of the module.
    """
    if implementation == "own" and kernel == 1 and stride == 1:
        return Pointwise(channels, bias, dtype, name=name)
    if implementation == "own" and name == "stem_conv" and padding is None:
        return Stem(channels, kernel, stride, dtype, name=name)
    return nn.Conv(
        channels,
        (kernel, kernel),
        strides=stride,
        padding="SAME" if padding is None else padding,
        use_bias=bias,
        dtype=dtype,
        kernel_init=initialize.CONVOLUTION,
        bias_init=initialize.ZEROS,
        name=name,
    )


class Stem(nn.Module):
    """The stem's convolution by `stem_conv`, with the variables of `nn.Conv`."""

    channels: int
    kernel: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, inputs]`` to ``[batch, ⌈h/s⌉, ⌈w/s⌉, channels]``."""
        shape = (self.kernel, self.kernel, images.shape[-1], self.channels)
        kernel = self.param("kernel", initialize.CONVOLUTION, shape, jnp.float32)
        return stem_conv(
            images.astype(self.dtype), kernel.astype(self.dtype), self.stride
        )


class Pointwise(nn.Module):
    """A 1×1 convolution as a matrix product, with the variables of `nn.Conv`.

    The weight gradient of XLA's convolution is several times slower on CPU, where it
    becomes a convolution with the full activations as its kernel.
    """

    channels: int
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32

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
            bias = lax.broadcast_to_rank(bias.astype(self.dtype), product.ndim)
            product = product + bias
        return product


def batch_norm(
    values: jax.Array,
    activation: Activation | None = None,
    *,
    train: bool,
    group: int = 0,
    momentum: float,
    epsilon: float,
    scale_init: Initializer = initialize.ONES,
    dtype: DTypeLike = jnp.float32,
    implementation: str = "own",
    name: str,
) -> jax.Array:
    """Applies batch norm and an activation, within the calling module.

    The variables do not depend on `train`, `group` and `implementation`.

    Args:
      values: ``[batch, …, channels]``.
      activation: an elementwise function; None for none.
      train: whether to use batch statistics instead of moving ones.
      group: number of examples that share batch statistics; 0 for the whole batch.
      momentum: of the moving statistics.
      epsilon: added to the variance.
      scale_init: of its scale.
      dtype: of the result; statistics are float32.
      implementation: "own" uses a custom gradient of both (`BatchNorm`).
      name: of the module.
    """
    activation = activation or _unchanged
    own = implementation == "own"
    if train and (own or group):
        return BatchNorm(
            activation,
            momentum=momentum,
            epsilon=epsilon,
            group=group,
            own_gradient=own,
            scale_init=scale_init,
            dtype=dtype,
            name=name,
        )(values)
    norm = nn.BatchNorm(
        use_running_average=not train,
        momentum=momentum,
        epsilon=epsilon,
        dtype=dtype,
        scale_init=scale_init,
        bias_init=initialize.ZEROS,
        name=name,
    )
    return activation(norm(values))


def _unchanged(values: jax.Array) -> jax.Array:
    return values


class DepthwiseConv(nn.Module):
    """A depthwise convolution with the parameter ``kernel`` ``[k, k, 1, channels]``."""

    kernel: int
    stride: int = 1
    implementation: str = "auto"
    dtype: DTypeLike = jnp.float32

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
    """Applies dropout and the classifier, within the calling module.

    Args:
      pooled: float32 ``[batch, channels]``.
      outputs: number of logits.
      rate: the dropout rate; 0 for none.
      key: a random key; required if `rate` is above 0.
      noise: ``[batch]``, 0 where dropout does not apply; None for all.

    Returns:
      float32 ``[batch, outputs]``.
    """
    if rate:
        assert key is not None, "dropout draws from a key"
        noise = None if noise is None else noise[:, None]
        pooled = pooled * keep_factors(key, pooled.shape, rate=rate, noise=noise)
    return nn.Dense(
        outputs,
        kernel_init=initialize.DENSE,
        bias_init=initialize.ZEROS,
        name="classifier",
    )(pooled)


def branch(hidden: jax.Array, kept: jax.Array | None) -> jax.Array:
    """Returns a residual branch after stochastic depth.

    Args:
      hidden: ``[batch, h, w, channels]``.
      kept: float32 ``[batch]``, factors of `keep_factors`; None for 1.
    """
    if kept is None:
        return hidden
    return hidden * kept[:, None, None, None].astype(hidden.dtype)


def keep_factors(
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    rate: jax.Array | float,
    noise: jax.Array | None,
) -> jax.Array:
    """Draws the factors of dropout or stochastic depth.

    Args:
      key: a random key.
      shape: of the result.
      rate: the fraction dropped, in [0, 1); it broadcasts against `shape`.
      noise: 0 where nothing is dropped, broadcasts against `shape`; None for all.

    Returns:
      float32: 0 where a value is dropped, and 1 / (1 − rate) where it is kept, which
      preserves the expectation; 1 where there is no noise.
    """
    keep = 1.0 - rate
    factors = jax.random.bernoulli(key, keep, shape).astype(jnp.float32) / keep
    return factors if noise is None else jnp.where(noise > 0, factors, 1.0)

"""The stem's convolution, which has few input channels.

On CPU, XLA's convolution takes several times as long as the implementations here; on
GPU and TPU it is faster.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from noisy_student_jax.models.padding import convolve, pad_same

NARROW = 32
"""With fewer output channels, summing taps is faster than a matrix product."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def stem_conv(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves images with TensorFlow's SAME padding.

    On CPU it is one loop over the taps, or a matrix product of patches. The custom
    gradient supports reverse-mode differentiation only, and stores just the inputs.

    Args:
      images: floating point ``[batch, height, width, inputs]``.
      kernel: of the same dtype ``[k, k, inputs, channels]``.
      stride: the same in both directions.

    Returns:
      ``[batch, ceil(height / stride), ceil(width / stride), channels]``.
    """
    narrow = kernel.shape[-1] < NARROW
    return _on(_sum_of_taps if narrow else _product_of_patches, images, kernel, stride)


def _forward(
    images: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return stem_conv(images, kernel, stride), (images, kernel)


def _backward(
    stride: int, inputs: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # Differentiating the sum of taps would need a reduction per tap.
    convolve = functools.partial(_on, _product_of_patches, stride=stride)
    return jax.vjp(convolve, *inputs)[1](gradient)


stem_conv.defvjp(_forward, _backward)


def _on(
    cpu: Callable[..., jax.Array], images: jax.Array, kernel: jax.Array, stride: int
) -> jax.Array:
    cpu, default = (functools.partial(f, stride=stride) for f in (cpu, convolve))
    return lax.platform_dependent(images, kernel, cpu=cpu, default=default)


def _sum_of_taps(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    k, _, inputs, _ = kernel.shape
    total = jnp.zeros((), np.promote_types(images.dtype, np.float32))
    padded = pad_same(images, kernel, stride)
    for i, row in enumerate(_windows(padded, k, stride, axis=1)):
        for j, window in enumerate(_windows(row, k, stride, axis=2)):
            for channel in range(inputs):
                pixels = window[..., channel : channel + 1].astype(total.dtype)
                weights = kernel[i, j, channel].astype(total.dtype)
                weights = lax.broadcast_to_rank(weights, pixels.ndim)
                total = total + pixels * weights
    return total.astype(images.dtype)


def _product_of_patches(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    k, channels = kernel.shape[0], kernel.shape[-1]
    patches = pad_same(images, kernel, stride)
    # Columns first, so that rows are concatenated in long pieces.
    for axis in (2, 1):
        windows = _windows(patches, k, stride, axis=axis)
        patches = jnp.concatenate(list(windows), axis=-1)
    product = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, channels)
    return product.reshape(*patches.shape[:-1], channels)


def patch_bytes(side: int, *, stride: int, inputs: int = 3, kernel: int = 3) -> int:
    """Returns the size of an image's patches on CPU: float32, in bytes.

    Args:
      side: of the image, in pixels.
      stride: of the convolution.
      inputs: channels of the image.
      kernel: size of the convolution.
    """
    return 4 * kernel**2 * inputs * (-(-side // stride)) ** 2


def _windows(
    padded: jax.Array, k: int, stride: int, *, axis: int
) -> Iterator[jax.Array]:
    """Yields the strided slice that each of k taps reads, along one axis."""
    last = (padded.shape[axis] - k) // stride * stride + 1
    for tap in range(k):
        yield lax.slice_in_dim(padded, tap, tap + last, stride, axis)

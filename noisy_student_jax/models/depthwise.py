"""Depthwise convolution that is fast on every backend.

On CPU, XLA's grouped convolution is an order of magnitude slower than summing k²
shifted slices of the images; on GPU and TPU it is faster. Both use the same kernel, so
the choice is made when the program is lowered and does not affect checkpoints.
"""

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from noisy_student_jax.models.padding import convolve, pad, pad_same, same_pads

IMPLEMENTATIONS = ("auto", "grouped", "shifted")


def depthwise_conv(
    images: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    implementation: str = "auto",
) -> jax.Array:
    """Convolves each channel with its own kernel, padded as TensorFlow's SAME.

    "shifted" and "auto" have a custom gradient, which supports reverse-mode
    differentiation only.

    Args:
      images: floating point ``[batch, height, width, channels]``.
      kernel: floating point ``[k, k, 1, channels]``.
      stride: the same in both directions.
      implementation: "grouped" (XLA's convolution), "shifted" (a sum of slices) or
        "auto" (shifted on CPU, grouped elsewhere, chosen at lowering).

    Returns:
      ``[batch, ceil(height / stride), ceil(width / stride), channels]``, in the
      dtype of `images`.

    Raises:
      ValueError: If `implementation` is none of these.
    """
    kernel = kernel.astype(images.dtype)
    if implementation == "grouped":
        return _grouped(images, kernel, stride)
    if implementation in ("auto", "shifted"):
        return _with_gradient(images, kernel, stride, implementation)
    raise ValueError(
        f"implementation must be one of {IMPLEMENTATIONS}, not {implementation!r}"
    )


def _grouped(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return convolve(images, kernel, stride, groups=images.shape[-1])


# The gradient is defined around the choice of implementation, not inside it, so the
# residuals are the two inputs, whichever branch runs.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _with_gradient(
    images: jax.Array, kernel: jax.Array, stride: int, implementation: str
) -> jax.Array:
    shifted = functools.partial(_shifted, stride=stride)
    if implementation == "shifted":
        return shifted(images, kernel)
    grouped = functools.partial(_grouped, stride=stride)
    return lax.platform_dependent(images, kernel, cpu=shifted, default=grouped)


def _forward(
    images: jax.Array, kernel: jax.Array, stride: int, implementation: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _with_gradient(images, kernel, stride, implementation), (images, kernel)


def _backward(
    stride: int,
    implementation: str,
    residuals: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    # The partitioner passes every example of a loop through every device.
    alone = jax.device_count() == 1
    kernel_gradient = _kernel_gradient_by_rows if alone else _kernel_gradient_by_taps

    def shifted(images, kernel, gradient):
        return (
            _shifted_images_gradient(gradient, kernel, images.shape, stride),
            kernel_gradient(gradient, images, kernel, stride),
        )

    def grouped(images, kernel, gradient):
        _, pullback = jax.vjp(
            functools.partial(_grouped, stride=stride), images, kernel
        )
        return pullback(gradient)

    if implementation == "shifted":
        return shifted(*residuals, gradient)
    return lax.platform_dependent(*residuals, gradient, cpu=shifted, default=grouped)


_with_gradient.defvjp(_forward, _backward)


def _taps(kernel: jax.Array) -> Iterator[tuple[int, int]]:
    return itertools.product(range(kernel.shape[0]), range(kernel.shape[1]))


def _shifted(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    batch, height, width, channels = images.shape
    padded = pad_same(images, kernel, stride)
    rows, columns = -(-height // stride), -(-width // stride)
    # Accumulate in float32: up to 25 additions in bfloat16 would lose precision.
    total = jnp.zeros((), np.promote_types(images.dtype, np.float32))
    for i, j in _taps(kernel):
        window = lax.slice(
            padded,
            (0, i, j, 0),
            (
                batch,
                i + (rows - 1) * stride + 1,
                j + (columns - 1) * stride + 1,
                channels,
            ),
            (1, stride, stride, 1),
        )
        tap = lax.broadcast_to_rank(kernel[i, j, 0].astype(total.dtype), window.ndim)
        total = total + window.astype(total.dtype) * tap
    return total.astype(images.dtype)


def _shifted_images_gradient(
    gradient: jax.Array, kernel: jax.Array, shape: tuple[int, ...], stride: int
) -> jax.Array:
    batch, height, width, channels = shape
    (top, _), (left, _) = same_pads(shape[1:3], kernel.shape[:2], stride)
    k = kernel.shape[0]
    rows, columns = gradient.shape[1:3]
    # Input row y meets output row o by tap i where o·stride + i = y + top. Rows are
    # grouped by (y + top) mod stride, so a group meets each output row by one tap; the
    # kernel is zero-padded to a whole number of groups.
    groups = -(-(height + top) // stride), -(-(width + left) // stride)
    meetings = -(-k // stride)
    missing = meetings * stride - k
    taps = jnp.pad(kernel[:, :, 0], ((0, missing), (0, missing), (0, 0)))
    taps = taps.reshape(meetings, stride, 1, meetings, stride, channels)
    before = meetings - 1
    padded = pad(
        gradient,
        [(before, max(0, groups[0] - rows)), (before, max(0, groups[1] - columns))],
    ).astype(np.promote_types(gradient.dtype, np.float32))
    total = jnp.zeros((), padded.dtype)
    for i, j in itertools.product(range(meetings), repeat=2):
        y, x = before - i, before - j
        # [batch, group row, row in it, group column, column in it, channels]
        window = padded[:, y : y + groups[0], x : x + groups[1]][:, :, None, :, None]
        tap = lax.broadcast_to_rank(taps[i, :, :, j].astype(total.dtype), window.ndim)
        total = total + window * tap
    whole = total.reshape(batch, groups[0] * stride, groups[1] * stride, channels)
    whole = whole[:, top : top + height, left : left + width]
    return whole.astype(gradient.dtype)


def _kernel_gradient_by_rows(
    gradient: jax.Array, images: jax.Array, kernel: jax.Array, stride: int
) -> jax.Array:
    batch, rows, columns, channels = gradient.shape
    padded = pad_same(images, kernel, stride)
    k, width, wide = kernel.shape[0], padded.shape[2], (columns - 1) * stride + 1

    def add_row(
        sums: list[jax.Array], number: jax.Array
    ) -> tuple[list[jax.Array], None]:
        example, row = number // rows, number % rows
        corner, size = (example, row * stride, 0, 0), (1, k, width, channels)
        seen = lax.dynamic_slice(padded, corner, size)[0].astype(jnp.float32)
        corner, size = (example, row, 0, 0), (1, 1, columns, channels)
        given = lax.dynamic_slice(gradient, corner, size)[0].astype(jnp.float32)
        return [
            total + seen[:, j : j + wide : stride] * given
            for j, total in enumerate(sums)
        ], None

    # Row by row of the output, so the sums stay in the processor's cache: XLA would
    # read all activations again for each of the k² taps.
    sums = [jnp.zeros((k, columns, channels), jnp.float32)] * k
    sums, _ = lax.scan(add_row, sums, jnp.arange(batch * rows))
    taps = jnp.stack([total.sum(1) for total in sums], axis=1)
    return taps.reshape(kernel.shape).astype(kernel.dtype)


def _kernel_gradient_by_taps(
    gradient: jax.Array, images: jax.Array, kernel: jax.Array, stride: int
) -> jax.Array:
    batch, rows, columns, channels = gradient.shape
    padded = pad_same(images, kernel, stride)
    size = (batch, (rows - 1) * stride + 1, (columns - 1) * stride + 1, channels)

    def tap(_, corner):
        window = lax.dynamic_slice(padded, (0, corner[0], corner[1], 0), size)
        window = window[:, ::stride, ::stride]
        product = window.astype(jnp.float32) * gradient.astype(jnp.float32)
        return None, product.sum((0, 1, 2))

    # A scan, because XLA fuses the k² reductions side by side into one slow loop.
    corners = jnp.array(list(_taps(kernel)), jnp.int32)
    _, taps = lax.scan(tap, None, corners)
    return taps.reshape(kernel.shape).astype(kernel.dtype)

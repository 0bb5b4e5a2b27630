"""TensorFlow 1's bicubic resize, used by the authors in training and evaluation.

It differs from current bicubic resizes in four ways: its cubic has a = −0.75 instead of
−0.5; output pixel i samples input i·scale, which shifts the image by up to half a
pixel; it reads four pixels at any scale, without antialiasing; and its weights come
from a table of 1,024 steps. The arithmetic equals TensorFlow's kernel
(``resize_bicubic_op.cc``, neither aligned corners nor half-pixel centers) bit for bit,
in float32 and in the same order. It needs only NumPy.
"""

import functools

import numpy as np

_A = -0.75
_STEPS = 1024


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes one image.

    Args:
      image: ``[height, width, channels]``.
      height: of the result.
      width: of the result.

    Returns:
      float32 ``[height, width, channels]``, not clipped: values overshoot next to
      edges.
    """
    return _along(_along(image.astype(np.float32), height, 0), width, 1)


def _along(values: np.ndarray, wanted: int, axis: int) -> np.ndarray:
    """Resizes ``[height, width, channels]`` along one axis; float32."""
    places, weights = _taps(values.shape[axis], wanted)
    shape = [wanted if number == axis else 1 for number in range(values.ndim)]
    parts = []
    for place, weight in zip(places, weights, strict=True):
        part = np.take(values, place, axis)
        part *= weight.reshape(shape)
        parts.append(part)
    # Summed from left to right: float32 sums depend on the order.
    return functools.reduce(np.add, parts)


@functools.lru_cache(maxsize=256)
def _taps(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the input pixels of each output pixel and their weights.

    Both are ``[4, wanted]``, int64 and float32. Edge pixels are repeated.
    """
    at = np.arange(wanted, dtype=np.float32) * (np.float32(size) / np.float32(wanted))
    first = np.floor(at)
    step = np.rint((at - first) * np.float32(_STEPS)).astype(np.int64)
    near, far = _table()
    weights = [far[step], near[step], near[_STEPS - step], far[_STEPS - step]]
    places = first.astype(np.int64) + np.arange(-1, 3)[:, None]
    return np.clip(places, 0, size - 1), np.stack(weights)


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Returns the cubic at distances 0 to 1 and 1 to 2, float32 ``[1025]`` each."""
    x = np.arange(_STEPS + 1) / _STEPS
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    x = x + 1
    far = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
    return near.astype(np.float32), far.astype(np.float32)

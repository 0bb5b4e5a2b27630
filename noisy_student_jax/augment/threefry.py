"""JAX's random bits in NumPy, vectorized over keys.

Equals ``jax.random`` for the keys of ``core/random_keys.py`` (``threefry2x32`` with
``jax_threefry_partitionable``), without a device. The bits are a hash of key and
counter, independent of the order and the number of draws.

The hash is Threefry-2x32 of 20 rounds: Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", 2011.
"""

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_GROUPS = 5
_PARITY = np.uint32(0x1BD11BDA)


def key(seed: int) -> np.ndarray:
    """Returns the key data of ``random_keys.key(seed)``.

    Args:
        seed: only its low 32 bits count, as in JAX without 64-bit integers.

    Returns:
        uint32 `[2]`.
    """
    return np.array([0, seed & 0xFFFFFFFF], np.uint32)


def fold_in(keys: np.ndarray, data: int | np.ndarray) -> np.ndarray:
    """Computes ``jax.random.fold_in`` for each key.

    Args:
        keys: uint32 `[..., 2]`.
        data: integers `[...]` in [0, 2³²); broadcast against the keys.

    Returns:
        uint32 `[..., 2]`.
    """
    data = np.asarray(data).astype(np.uint32)
    return np.stack(_hash(keys, np.zeros_like(data), data), axis=-1)


def bits(keys: np.ndarray, count: int) -> np.ndarray:
    """Computes ``jax.random.bits(key, (count,), uint32)`` for each key.

    Args:
        keys: uint32 `[..., 2]`.
        count: number of words per key.

    Returns:
        uint32 `[..., count]`.
    """
    index = np.arange(count, dtype=np.uint32)
    first, second = _hash(keys[..., None, :], np.zeros_like(index), index)
    return first ^ second


def _hash(
    keys: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes pairs of words, uint32 `[...]` each, under keys `[..., 2]`."""
    key_0, key_1 = keys[..., 0], keys[..., 1]
    schedule = (key_0, key_1, key_0 ^ key_1 ^ _PARITY)
    # Words wrap around; NumPy warns about that for scalars.
    with np.errstate(over="ignore"):
        first, second = first + key_0, second + key_1
        for group in range(_GROUPS):
            for turn in _ROTATIONS[group % 2]:
                first = first + second
                rotated = (second << np.uint32(turn)) | (second >> np.uint32(32 - turn))
                second = first ^ rotated
            first = first + schedule[(group + 1) % 3]
            second = second + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return first, second

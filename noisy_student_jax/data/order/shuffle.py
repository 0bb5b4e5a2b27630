"""The data order, as a pure function of integers.

``position`` counts the images that a stream has drawn since the start of training.
`order` says which epoch that is and which record is drawn, so that resuming needs
nothing but the step number, and any number of hosts agree without speaking.

Each epoch is a permutation of the stream's records: a Feistel network on the next
even power of two, walked until it lands inside the set. Nothing is stored, so 300
million records cost as much memory as fifty.
"""

import numpy as np

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 0xFFFFFFFFFFFFFFFF


def order(
    seed: int, stream: int, positions: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Says which record a stream draws at each position.

    Args:
      seed: the run's (or the generation's) seed.
      stream: which stream; each has its own order.
      positions: int64 ``[count]``, images drawn by the stream before this one.
      size: number of records in the stream.

    Returns:
      ``(epoch, record)``, both int64 ``[count]``. Within one epoch every record
      occurs exactly once.

    Raises:
      ValueError: `size` is not positive.

    Example:
      Two epochs of five records:

      >>> epochs, records = order(0, 0, np.arange(10), 5)
      >>> epochs.tolist()
      [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
      >>> sorted(records[:5].tolist())
      [0, 1, 2, 3, 4]
    """
    if size <= 0:
        raise ValueError(f"a stream needs at least one record, got {size}")
    positions = np.asarray(positions, np.int64)
    epoch, index = np.divmod(positions, size)
    words = fold(stream_word(seed, stream), epoch)
    return epoch, permuted(index, size, words)


def permuted(
    values: np.ndarray, sizes: int | np.ndarray, words: np.ndarray
) -> np.ndarray:
    """Permutes ``[0, size)``, each value under its own word.

    Args:
      values: int64 ``[count]``, each from 0 to one less than its size.
      sizes: integers, for all or ``[count]``, at least 1.
      words: uint64 ``[count]``; equal words and sizes make one permutation.

    Returns:
      int64 ``[count]``.
    """
    sizes = np.broadcast_to(np.asarray(sizes, np.int64), np.shape(values))
    # The bits of the largest value, halved and rounded up.
    bits = np.frexp((sizes - 1).astype(np.float64))[1]
    half_bits = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
    keys = _round_keys(words)
    result = _feistel(np.asarray(values).astype(np.uint64), keys, half_bits)
    limits = sizes.astype(np.uint64)
    outside = np.flatnonzero(result >= limits)
    while len(outside):
        result[outside] = _feistel(
            result[outside], keys[:, outside], half_bits[outside]
        )
        outside = outside[result[outside] >= limits[outside]]
    return result.astype(np.int64)


def stream_word(seed: int, stream: int) -> np.ndarray:
    """Returns the uint64 ``[1]`` that all random words of a stream are folded from."""
    base = mix(np.array([(seed * _GOLDEN + 1) & _WORD], np.uint64))
    return mix(base ^ np.uint64(((stream + 1) * _GOLDEN) & _WORD))


def fold(words: np.ndarray, numbers: int | np.ndarray) -> np.ndarray:
    """Folds numbers, 0 or more, into words; broadcast, uint64 like the words."""
    numbers = np.atleast_1d(numbers).astype(np.uint64)
    return mix(words ^ mix(numbers + np.uint64(1)))


def mix(values: np.ndarray) -> np.ndarray:
    """Scrambles uint64 values (the finaliser of splitmix64); a bijection."""
    values = np.asarray(values, np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _round_keys(words: np.ndarray) -> np.ndarray:
    """Returns one uint64 key for each round and word, ``[rounds, count]``."""
    rounds = np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return mix(words[None, :] ^ rounds[:, None])


def _feistel(values: np.ndarray, keys: np.ndarray, half_bits: np.ndarray) -> np.ndarray:
    """Permutes ``[0, 4**half_bits)``, each value under its own keys."""
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << half_bits) | right

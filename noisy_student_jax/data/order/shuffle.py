"""The data order, as a pure function of integers.

``position`` counts the records that a stream has drawn since the start of training.
`order` maps it to an epoch and a record, so resuming needs only the step number, and
hosts agree without communication.

Each epoch is a permutation of the stream's records: a Feistel network on the next
even power of two, iterated until the result is inside the set (cycle walking). Nothing
is stored, so memory does not grow with the number of records.
"""

import numpy as np

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 0xFFFFFFFFFFFFFFFF


def order(
    seed: int, stream: int, positions: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the record that a stream draws at each position.

    Args:
      seed: the run's (or the generation's) seed.
      stream: number of the stream; each has its own order.
      positions: int64 ``[count]``, number of earlier draws from the stream.
      size: number of records in the stream.

    Returns:
      ``(epoch, record)``, both int64 ``[count]``. Every record occurs exactly once per
      epoch.

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
    """Applies a pseudo-random permutation of ``[0, size)`` to each value.

    Args:
      values: int64 ``[count]``, each in ``[0, size)``.
      sizes: integers of at least 1, one for all or ``[count]``.
      words: uint64 ``[count]``; word and size determine the permutation.

    Returns:
      int64 ``[count]``.
    """
    sizes = np.broadcast_to(np.asarray(sizes, np.int64), np.shape(values))
    # Half of the largest value's bits, rounded up.
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
    """Returns the root of a stream's random words, uint64 ``[1]``."""
    base = mix(np.array([(seed * _GOLDEN + 1) & _WORD], np.uint64))
    return mix(base ^ np.uint64(((stream + 1) * _GOLDEN) & _WORD))


def fold(words: np.ndarray, numbers: int | np.ndarray) -> np.ndarray:
    """Folds non-negative numbers into uint64 words; the two are broadcast."""
    numbers = np.atleast_1d(numbers).astype(np.uint64)
    return mix(words ^ mix(numbers + np.uint64(1)))


def mix(values: np.ndarray) -> np.ndarray:
    """Mixes uint64 values bijectively: the finalizer of SplitMix64."""
    values = np.asarray(values, np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _round_keys(words: np.ndarray) -> np.ndarray:
    """Returns one uint64 key per round and word, ``[rounds, count]``."""
    rounds = np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return mix(words[None, :] ^ rounds[:, None])


def _feistel(values: np.ndarray, keys: np.ndarray, half_bits: np.ndarray) -> np.ndarray:
    """Permutes ``[0, 4**half_bits)`` by each value's own keys."""
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << half_bits) | right

"""The data order, as a pure function of integers.

``position`` counts the images that a stream has drawn since the start of training.
`order` says which epoch that is and which record is drawn, so that resuming needs
nothing but the step number, and any number of hosts agree without speaking.

Each epoch is a permutation of the stream's records: a Feistel network on the next
even power of two, walked until it lands inside the set. Nothing is stored, so 300
million records cost as much memory as fifty.
"""

import math

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
    """
    if size <= 0:
        raise ValueError(f"a stream needs at least one record, got {size}")
    positions = np.asarray(positions, np.int64)
    epoch, index = np.divmod(positions, size)
    half_bits = max(1, math.ceil(math.log2(max(size, 2)) / 2))
    keys = _round_keys(seed, stream, epoch)
    record = _feistel(index.astype(np.uint64), keys, half_bits)
    outside = record >= size
    while outside.any():
        record[outside] = _feistel(record[outside], keys[:, outside], half_bits)
        outside = record >= size
    return epoch, record.astype(np.int64)


def mix(values: np.ndarray) -> np.ndarray:
    """Scrambles uint64 values (the finaliser of splitmix64); a bijection."""
    values = np.asarray(values, np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _round_keys(seed: int, stream: int, epoch: np.ndarray) -> np.ndarray:
    """Returns one uint64 key for each round and position, ``[rounds, count]``."""
    base = mix(np.array([(seed * _GOLDEN + 1) & _WORD], np.uint64))
    base = mix(base ^ np.uint64(((stream + 1) * _GOLDEN) & _WORD))
    per_epoch = mix(base ^ mix(epoch.astype(np.uint64) + np.uint64(1)))
    rounds = np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return mix(per_epoch[None, :] ^ rounds[:, None])


def _feistel(values: np.ndarray, keys: np.ndarray, half_bits: int) -> np.ndarray:
    """Permutes ``[0, 4**half_bits)``, each value under its own keys."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << shift) | right

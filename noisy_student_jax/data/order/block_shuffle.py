"""A data order for large datasets on slow storage, as a pure function of integers.

With `shuffle.order` a draw may be any record, so each host reads from every file in
every step. Here the records are divided into *lanes* of consecutive records, and each
place of a batch draws from one lane. A host provides a contiguous share of every batch
and so owns whole lanes. A lane is read in *blocks* of consecutive records, reordered
every epoch, and records are shuffled within a *window* of several blocks. A host holds
one window per lane, and reads each block once per epoch.

The order does not depend on the number of hosts, which must divide the number of lanes.
"""

import dataclasses

import numpy as np

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.order.shuffle import fold, mix, permuted, stream_word

# Purpose of each random word, folded in last. Never renumber.
_BLOCKS, _SHORT_BLOCK, _WINDOWS = range(3)


@dataclasses.dataclass(frozen=True)
class Lanes:
    """The shape of a block-wise shuffle; part of a run's identity.

    Attributes:
      count: number of lanes; a multiple of the number of hosts, and a divisor of the
        stream's share of a batch.
      block: number of consecutive records that are read together.
      window: number of consecutive blocks that are shuffled together.
    """

    count: int
    block: int
    window: int

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise UserError(
                    f"lanes need a {field.name} of at least 1, but got {value}"
                )

    def check(self, *, size: int, batch: int) -> None:
        """Checks that the lanes fit a stream and a batch.

        Args:
          size: number of records in the stream.
          batch: number of the stream's examples in a batch.

        Raises:
          UserError: the lanes do not divide the batch, or outnumber the records.
        """
        if batch % self.count:
            raise UserError(
                f"{self.count} lanes do not divide the {batch} images that a stream"
                " gives to a batch: choose a number of lanes that does"
            )
        if self.count > size:
            raise UserError(
                f"{self.count} lanes need as many records, but the stream has {size}:"
                " choose fewer lanes"
            )


def lanes_order(
    seed: int,
    stream: int,
    positions: np.ndarray,
    size: int,
    batch: int,
    lanes: Lanes,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the record that a stream draws at each position.

    Args:
      seed: the run's (or the generation's) seed.
      stream: number of the stream; each has its own order.
      positions: int64 ``[count]``, number of earlier draws from the stream.
      size: number of records in the stream.
      batch: number of the stream's examples in a batch.
      lanes: shape of the shuffle.

    Returns:
      ``(epoch, record)``, both int64 ``[count]``. The epoch is the lane's own: every
      record of the lane occurs exactly once in it. Lanes whose lengths differ by one
      record drift apart by one draw per epoch.

    Raises:
      UserError: the lanes do not divide the batch, or outnumber the records.
    """
    lanes.check(size=size, batch=batch)
    step, place = np.divmod(np.asarray(positions, np.int64), batch)
    # Examples of each lane in a batch.
    share = batch // lanes.count
    lane = place // share
    first, end = size * lane // lanes.count, size * (lane + 1) // lanes.count
    length = end - first
    epoch, index = np.divmod(step * share + place % share, length)
    words = fold(fold(stream_word(seed, stream), lane), epoch)
    return epoch, first + _within_lane(index, length, words, lanes)


def _within_lane(
    index: np.ndarray, length: np.ndarray, words: np.ndarray, lanes: Lanes
) -> np.ndarray:
    """Permutes the records of lanes; all arrays ``[count]``."""
    block = lanes.block
    blocks = -(-length // block)
    # Only the lane's last block may be short; its turn is drawn.
    short = length - (blocks - 1) * block
    short_turn = _below(blocks, fold(words, _SHORT_BLOCK))

    def start_of(turn: np.ndarray) -> np.ndarray:
        """Returns the number of records before a turn's block."""
        start = turn * block - (turn > short_turn) * (block - short)
        return np.minimum(start, length)

    def turn_of(index: np.ndarray) -> np.ndarray:
        """Returns the turn of the record at an index."""
        late = index >= start_of(short_turn) + short
        return (index + late * (block - short)) // block

    window = turn_of(index) // lanes.window
    start = start_of(window * lanes.window)
    count = start_of((window + 1) * lanes.window) - start
    window_words = fold(fold(words, _WINDOWS), window)
    index = start + permuted(index - start, count, window_words)

    turn = turn_of(index)
    offset = index - start_of(turn)
    # Full blocks are permuted among themselves.
    full = np.maximum(blocks - 1, 1)
    full_turn = np.minimum(turn - (turn > short_turn), full - 1)
    own = permuted(full_turn, full, fold(words, _BLOCKS))
    return np.where(turn == short_turn, blocks - 1, own) * block + offset


def _below(counts: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Draws from 0 to one less than each count."""
    # Uneven by at most count/2⁶⁴.
    return (mix(words) % counts.astype(np.uint64)).astype(np.int64)

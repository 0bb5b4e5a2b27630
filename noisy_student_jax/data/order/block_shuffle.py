"""A data order for large sets on slow storage, as a pure function of integers.

`order.order` lets every draw fall anywhere, so that each host reads from every file in
every step. Here the records are dealt into *lanes*, runs of consecutive records, and
each place of a batch draws from one lane alone: a host, which provides a contiguous
share of every batch, owns whole lanes. A lane is read in *blocks* of consecutive
records, in a new order in each of its epochs, and records are shuffled within a
*window* of some blocks: what a host has to hold is a window a lane, and it reads each
block once an epoch.

How many hosts there are changes nothing, so long as that divides the number of lanes.
"""

import dataclasses

import numpy as np

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.order.shuffle import fold, mix, permuted, stream_word

# What each word is for, folded in last. Never renumber.
_BLOCKS, _SHORT_BLOCK, _WINDOWS = range(3)


@dataclasses.dataclass(frozen=True)
class Lanes:
    """How a stream is dealt out; it belongs to what identifies a run.

    Attributes:
      count: of lanes; a multiple of the number of hosts, and a divisor of the
        stream's share of a batch.
      block: consecutive records that are read together.
      window: consecutive blocks that are shuffled together.
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
        """Refuses a stream or a batch that these lanes do not fit.

        Args:
          size: records of the stream.
          batch: images that the stream gives to a batch.

        Raises:
          UserError: the lanes do not divide the batch, or are more than the records.
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
    """Says which record a stream draws at each position.

    Args:
      seed: the run's (or the generation's) seed.
      stream: which stream; each has its own order.
      positions: int64 ``[count]``, images drawn by the stream before this one.
      size: number of records in the stream.
      batch: images that the stream gives to a batch.
      lanes: how they are dealt out.

    Returns:
      ``(epoch, record)``, both int64 ``[count]``. The epoch is the lane's own: within
      it every record of the lane occurs exactly once. Lanes that differ by a record
      in length drift apart by as much in an epoch.

    Raises:
      UserError: the lanes do not divide the batch, or are more than the records.
    """
    lanes.check(size=size, batch=batch)
    step, place = np.divmod(np.asarray(positions, np.int64), batch)
    # A lane gives so many images to every batch.
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
    # All blocks are full but for the lane's last, which comes in where it is drawn to.
    short = length - (blocks - 1) * block
    short_turn = _below(blocks, fold(words, _SHORT_BLOCK))

    def start_of(turn: np.ndarray) -> np.ndarray:
        """How many records come before the block whose turn it is."""
        start = turn * block - (turn > short_turn) * (block - short)
        return np.minimum(start, length)

    def turn_of(index: np.ndarray) -> np.ndarray:
        """Which turn the record at a place has."""
        late = index >= start_of(short_turn) + short
        return (index + late * (block - short)) // block

    window = turn_of(index) // lanes.window
    start = start_of(window * lanes.window)
    count = start_of((window + 1) * lanes.window) - start
    window_words = fold(fold(words, _WINDOWS), window)
    index = start + permuted(index - start, count, window_words)

    turn = turn_of(index)
    offset = index - start_of(turn)
    # The full blocks keep turns among themselves.
    full = np.maximum(blocks - 1, 1)
    full_turn = np.minimum(turn - (turn > short_turn), full - 1)
    own = permuted(full_turn, full, fold(words, _BLOCKS))
    return np.where(turn == short_turn, blocks - 1, own) * block + offset


def _below(counts: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Draws from 0 to one less than each count."""
    # Uneven by at most count/2⁶⁴.
    return (mix(words) % counts.astype(np.uint64)).astype(np.int64)

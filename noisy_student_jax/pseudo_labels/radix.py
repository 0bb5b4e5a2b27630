"""Exact per-class cuts by radix selection with additive counts.

A record's *rank* has 96 bits in two words, for example its score (32 bits) followed by
a hash of its key (64 bits). The cut of a class is the rank with exactly the wanted
number of records at or above it. It is found digit by digit from the top: each pass
counts, per class, the values of one digit among the records whose higher digits match
the class's cut so far. Counts add up over batches, shards and hosts, whose order and
number do not matter.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from noisy_student_jax.data.order.shuffle import mix

# Maps row numbers of a batch to one word of their ranks, uint64 `[rows]`. Lazy, because
# hashing keys is expensive and few rows need it.
Word = Callable[[np.ndarray], np.ndarray]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_COUNTERS = 23  # log2 of the largest number of counters in a pass: 64 MB


def score_rank(score: np.ndarray) -> np.ndarray:
    """Maps scores to integers of the same order.

    Args:
      score: float32 `[n]`, without NaN.

    Returns:
      uint64 `[n]` below 2³²; −0 and 0 are equal.

    Example:
      >>> ranks = score_rank(np.array([0.5, -1.0, 0.25], np.float32))
      >>> np.argsort(ranks).tolist()
      [1, 2, 0]
    """
    bits = (score + np.float32(0)).view(np.uint32)
    flip = np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    return (bits ^ flip).astype(np.uint64)


def hash_keys(keys: pa.Array, rows: np.ndarray, *, seed: int) -> np.ndarray:
    """Hashes the UTF-8 bytes of keys, identically on every machine and version.

    Eight bytes at a time go through the finalizer of SplitMix64 (Steele et al. 2014).

    Args:
      keys: string `[n]`, without nulls.
      rows: int64 `[m]`, the keys to hash.
      seed: 0 to 2⁶⁴ − 1.

    Returns:
      uint64 `[m]`.
    """
    if not len(rows):
        return np.zeros(0, np.uint64)
    offsets = np.frombuffer(keys.buffers()[1], np.int32)
    offsets = offsets[keys.offset : keys.offset + len(keys) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    # Eight spare bytes: a whole word can be read at any offset.
    text = np.zeros(last - first + 8, np.uint8)
    if last > first:
        text[:-8] = np.frombuffer(keys.buffers()[2], np.uint8)[first:last]
    words = np.ndarray((last - first + 1,), "<u8", buffer=text, strides=(1,))

    start = offsets[rows].astype(np.int64) - first
    length = offsets[rows + 1].astype(np.int64) - first - start
    state = np.full(len(rows), _mix_int(seed), np.uint64)
    state = _mix(state ^ length.astype(np.uint64))
    at, more = 0, np.flatnonzero(length)
    while more.size:
        word = words[start[more] + at]
        beyond = 8 - np.minimum(length[more] - at, 8)
        word &= np.uint64(_MASK) >> (8 * beyond).astype(np.uint64)
        state[more] = _mix(state[more] ^ word)
        at += 8
        more = more[length[more] > at]
    return state


class Cut:
    """Finds, per class, the rank that separates the highest `wanted` from the rest.

    Until `settled`, call `histogram` on every batch and `advance` with the sum of the
    counts; then `take` returns the records of each batch that are above the cut.

    Records equal in all 96 bits (a repeated key with the same score) are taken in the
    order of the pool. They are interchangeable, so the plan is the same in any order.

    Args:
      wanted: int64 `[classes]`, number of records to take; at most `population`.
      population: int64 `[classes]`, number of records.
      words: bits of each word of the rank, the most significant first.
    """

    def __init__(
        self, wanted: np.ndarray, population: np.ndarray, *, words: Sequence[int]
    ):
        self._wanted = wanted
        self._open = (wanted > 0) & (wanted < population)
        # Records to take among those that match all known digits.
        self._left = wanted.copy()
        self._prefix = [np.zeros(len(wanted), np.uint64) for _ in words]
        self._depth = np.zeros(len(wanted), np.int64)  # words that decide
        self._digits = _digits(words, len(wanted))

    @property
    def settled(self) -> bool:
        """Whether no further pass is needed."""
        return not self._digits or not self._open.any()

    @property
    def word(self) -> int:
        """The word of the rank whose digits the next pass counts."""
        return self._digits[0][0]

    def counters(self) -> np.ndarray:
        """Returns zeros to count one pass into: int64 `[classes, 2^digit]`."""
        return np.zeros((len(self._wanted), 1 << self._digits[0][2]), np.int64)

    def histogram(
        self, label: np.ndarray, words: Sequence[Word], counts: np.ndarray
    ) -> None:
        """Adds one batch to the counts of this pass.

        Args:
          label: int `[rows]`, the class of each record.
          words: the words of the records' ranks.
          counts: the result of `counters`, updated in place.
        """
        at, shift, width = self._digits[0]
        rows = np.flatnonzero(self._open[label])
        for word, prefix in zip(words[:at], self._prefix[:at], strict=True):
            rows = rows[word(rows) == prefix[label[rows]]]
        value = words[at](rows)
        # Unknown digits are zero in the prefix, and masked in the value.
        higher = np.uint64(_MASK << (shift + width) & _MASK)
        agrees = (value & higher) == self._prefix[at][label[rows]]
        rows, value = rows[agrees], value[agrees]
        digit = (value >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        cell = label[rows].astype(np.int64) * counts.shape[1] + digit.astype(np.int64)
        np.add.at(counts.reshape(-1), cell, 1)

    def advance(self, counts: np.ndarray) -> None:
        """Ends a pass, which fixes one digit of every open cut.

        Args:
          counts: int64 `[classes, 2^digit]`, the sum over all batches.

        Raises:
          ValueError: the counts lack records.
        """
        at, shift, _ = self._digits.pop(0)
        open_ = np.flatnonzero(self._open)
        counts = counts[open_]
        from_top = counts[:, ::-1].cumsum(axis=1)
        left = self._left[open_]
        if (from_top[:, -1] < left).any():
            raise ValueError("a pass counted fewer records than are to be taken")
        place = np.argmax(from_top >= left[:, None], axis=1)
        bucket = counts.shape[1] - 1 - place
        each = np.arange(len(open_))
        inside = counts[each, bucket]
        left = left - (from_top[each, place] - inside)
        self._prefix[at][open_] |= bucket.astype(np.uint64) << np.uint64(shift)
        self._depth[open_] = at + 1
        self._left[open_] = left
        self._open[open_] = (
            left < inside
        )  # otherwise the cut is the bucket's lower edge

    def take(self, label: np.ndarray, words: Sequence[Word]) -> np.ndarray:
        """Returns which records of a batch to take; call it in the pool's order.

        Args:
          label: int `[rows]`, the class of each record.
          words: the words of the records' ranks.

        Returns:
          bool `[rows]`.
        """
        taken = self._wanted[label] > 0
        rows = np.flatnonzero(taken)
        for at, (word, prefix) in enumerate(zip(words, self._prefix, strict=True)):
            rows = rows[self._depth[label[rows]] > at]
            if not rows.size:
                break
            value, cut = word(rows), prefix[label[rows]]
            taken[rows[value < cut]] = False
            rows = rows[value == cut]
        rows = rows[self._open[label[rows]]]
        if rows.size:
            place = _place_in_class(label[rows])
            taken[rows[place >= self._left[label[rows]]]] = False
            used = np.bincount(label[rows], minlength=len(self._left))
            self._left -= np.minimum(used, self._left)
        return taken


def _digits(words: Sequence[int], classes: int) -> list[tuple[int, int, int]]:
    """Splits words into digits (word, shift, width), none of which spans two words."""
    most = min(12, max(4, _COUNTERS - max(classes - 1, 0).bit_length()))
    digits = []
    for at, bits in enumerate(words):
        while bits:
            width = min(most, bits)
            bits -= width
            digits.append((at, bits, width))
    return digits


def _place_in_class(label: np.ndarray) -> np.ndarray:
    """Numbers the rows of each class from 0, in order."""
    order = np.argsort(label, kind="stable")
    ordered = label[order]
    begins = np.searchsorted(ordered, ordered, side="left")
    place = np.empty(len(label), np.int64)
    place[order] = np.arange(len(label)) - begins
    return place


def _mix(x: np.ndarray) -> np.ndarray:
    """Applies one step of SplitMix64."""
    return mix(x + np.uint64(_GOLDEN))


def _mix_int(x: int) -> int:
    return int(_mix(np.array([x & _MASK], np.uint64))[0])

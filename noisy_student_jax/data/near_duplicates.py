"""Near-duplicates: pairs of images whose perceptual hashes differ in few bits."""

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse.csgraph

from noisy_student_jax.core import console
from noisy_student_jax.core.console import printable
from noisy_student_jax.data.open import Opened
from noisy_student_jax.data.sources import Alike
from noisy_student_jax.images.perceptual import NO_HASH, distances

NEAR = "near-duplicates"
RADIUS = 6
"""Most bits in which the hashes of near-duplicates differ; `docs/own_images.md` has
what other values find."""
SHOWN = 12
"""Most pairs of one kind that are shown."""
_NAMED = 5
_BITS = 64
_AT_ONCE = 2**22  # pairs compared at a time: memory stays below 0.3 GB


class _Found(NamedTuple):
    """Near-duplicates in a source: their rows, and which held-out image is near."""

    opened: Opened
    rows: np.ndarray
    others: np.ndarray
    apart: np.ndarray


class NearDuplicates:
    """Near-duplicates, among training images, of images that are held out.

    Attributes:
      of: names of the held-out parts.
      exclude: whether they are left out.
    """

    def __init__(self, held_out: Mapping[str, Opened], *, exclude: bool):
        """Holds the hashes of the held-out images.

        Args:
          held_out: records by part.
          exclude: whether near-duplicates of them are left out.
        """
        self.of, self.exclude = " or ".join(held_out), exclude
        sizes = [len(records) for records in held_out.values()]
        first = np.cumsum([0, *sizes]).tolist()
        self._held_out = [
            (*one, start) for one, start in zip(held_out.items(), first, strict=False)
        ]
        self._hashes = np.concatenate(
            [
                np.full(len(records), NO_HASH, np.uint64)
                if records.looks is None
                else records.looks
                for records in held_out.values()
            ]
        )
        self._found: list[_Found] = []

    def find(self, opened: Opened) -> np.ndarray:
        """Returns the indices of records that are near-duplicates of held-out ones."""
        if opened.looks is None:
            return np.zeros(0, int)
        others, apart = nearest(opened.looks, self._hashes)
        found = np.flatnonzero(others >= 0)
        if len(found):
            self._found.append(_Found(opened, found, others[found], apart[found]))
        return found

    def tell(self) -> None:
        """Warns of what was found, if anything was."""
        if not self._found:
            return
        counts = " and ".join(
            f"{len(found.rows):,} of {found.opened.name}" for found in self._found
        )
        pairs = self._pairs()
        named = ", ".join(
            "'{}' like '{}'".format(*map(printable, pair.keys))
            for pair in map(self._alike, pairs[:_NAMED])
        )
        more = " and more" if len(pairs) > _NAMED else ""
        what = "are left out" if self.exclude else "stay"
        other = "keep" if self.exclude else "exclude"
        console.warn(
            f"near-duplicates of {self.of} images (perceptual hashes within {RADIUS} of"
            f" {_BITS} bits) {what}: {counts}, such as {named}{more}; the report shows"
            f" pairs, and --config.data.near_duplicates={other} changes that"
        )

    def shown(self) -> list[Alike]:
        """Returns some pairs, evenly spread from the nearest to the farthest."""
        pairs = self._pairs()
        if not len(pairs):
            return []
        some = np.unique(np.linspace(0, len(pairs) - 1, SHOWN).round().astype(int))
        return [self._alike(pair) for pair in pairs[some]]

    def _pairs(self) -> np.ndarray:
        """Returns where each pair is in `_found`, ``[pairs, 2]``, the nearest first."""
        where = [
            np.stack([np.full(len(found.rows), number), np.arange(len(found.rows))], 1)
            for number, found in enumerate(self._found)
        ]
        apart = [found.apart for found in self._found]
        if not where:
            return np.zeros((0, 2), int)
        return np.concatenate(where)[np.argsort(np.concatenate(apart), kind="stable")]

    def _alike(self, pair: np.ndarray) -> Alike:
        found, at = self._found[pair[0]], pair[1]
        row, other = int(found.rows[at]), int(found.others[at])
        part, records, first = next(
            held for held in reversed(self._held_out) if held[2] <= other
        )
        other -= first
        return Alike(
            NEAR,
            (found.opened.key(row), records.key(other)),
            (found.opened.name, part),
            (found.opened.alone(row), records.alone(other)),
            int(found.apart[at]),
        )


def nearest(hashes: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds for each hash the nearest one of another set, if it is near.

    Hashes that differ in at most 6 bits differ in at most one bit of one of four bands
    of 16 bits. Only pairs that do are compared.

    Args:
      hashes: uint64 ``[records]``, by `perceptual_hash`.
      among: uint64 ``[others]``.

    Returns:
      Index of the nearest in `among`, the first of equally near ones, int64
      ``[records]``, −1 without one; and the number of bits in which they differ, int64
      ``[records]``, 64 without one. Images without a hash are near to none.
    """
    records, of_record = np.unique(hashes, return_inverse=True)
    others, first = np.unique(among, return_index=True)
    known = others != NO_HASH
    others, first = others[known], first[known]
    # Distance and index in one number, whose minimum is the nearest.
    best = np.full(len(records), _BITS << 32, np.int64)
    for row, other, apart in _near(records, others):
        np.minimum.at(best, row, apart.astype(np.int64) << 32 | first[other])
    best = best[of_record]
    return np.where(best < _BITS << 32, best & (2**32 - 1), -1), best >> 32


def groups(hashes: np.ndarray) -> np.ndarray:
    """Numbers groups of images that are near-duplicates, directly or by others.

    Args:
      hashes: uint64 ``[records]``, by `perceptual_hash`.

    Returns:
      int64 ``[records]``; an image without a hash is a group of its own.
    """
    known = np.flatnonzero(hashes != NO_HASH)
    records, of_record = np.unique(hashes[known], return_inverse=True)
    pairs = [(row, other) for row, other, _ in _near(records, records)]
    rows, others = (
        np.concatenate([np.zeros(0, np.int64), *side])
        for side in (zip(*pairs, strict=True) if pairs else ((), ()))
    )
    graph = scipy.sparse.coo_matrix(
        (np.ones(len(rows), np.int8), (rows, others)), (len(records), len(records))
    )
    count, group = scipy.sparse.csgraph.connected_components(graph, directed=False)
    found = count + np.arange(len(hashes))
    found[known] = group[of_record]
    return found


def _near(
    records: np.ndarray, others: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields pairs of near hashes, some more than once.

    Args:
      records: uint64 ``[records]``; `NO_HASH` is near to none.
      others: uint64 ``[others]``, without `NO_HASH`.

    Yields:
      Index in `records`, index in `others`, and number of bits in which they differ.
    """
    edges = np.linspace(0, _BITS, RADIUS // 2 + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        band, other_band = (
            (of >> np.uint64(low) & np.uint64((1 << high - low) - 1)).astype(np.int64)
            for of in (records, others)
        )
        order = np.argsort(other_band, kind="stable")
        begin = np.searchsorted(other_band[order], np.arange((1 << high - low) + 1))
        for flip in (0, *(1 << bit for bit in range(high - low))):
            start = begin[band ^ flip]
            counts = begin[(band ^ flip) + 1] - start
            counts[records == NO_HASH] = 0
            for rows in _chunks(counts):
                size = counts[rows]
                shift = start[rows] - (np.cumsum(size) - size)
                other = order[np.repeat(shift, size) + np.arange(size.sum())]
                apart = distances(np.repeat(records[rows], size), others[other])
                near = np.flatnonzero(apart <= RADIUS)
                row = np.repeat(np.arange(rows.start, rows.stop), size)[near]
                yield row, other[near], apart[near]


def _chunks(counts: np.ndarray) -> Iterator[slice]:
    """Yields slices of rows whose counts add up to `_AT_ONCE`, or of one row."""
    total = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = total[start] - counts[start]
        stop = int(np.searchsorted(total, before + _AT_ONCE, side="right"))
        yield slice(start, max(stop, start + 1))
        start = max(stop, start + 1)

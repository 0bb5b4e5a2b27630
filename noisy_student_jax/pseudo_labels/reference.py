"""Who is selected and how often, by the procedure of the authors' code.

``filter_unlabel.py`` of google-research/noisystudent counts each class's top-1 scores
in 101 bins of a hundredth (bin 100 for scores of 1 and more), walks them from the top
down to min_score, stops where `per_class` records are reached, and draws every record
from there on c = per_class / total times: ⌊c⌋, and once more by chance. So a class that
has more than enough is sub-sampled at random above the edge of a bin, and a class has
`per_class` draws in expectation only.

Theirs draws from an unseeded generator. Here a record's chance comes from a hash of
its key and the seed: whatever the order, the shards and the other records are, it
falls the same way.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from noisy_student_jax.pseudo_labels import radix, sidecar
from noisy_student_jax.pseudo_labels.plan import (
    BINS,
    SelectionOptions,
    Survey,
    eligible,
    hundredths,
)

_CHANCE = 0x6368  # this use of the seed
_UNIT = 2.0**-53  # turns the upper 53 bits of a hash into 0…1, 1 excluded


class ReferencePlan:
    """The authors' rule, with the interface of `plan.Plan`.

    The first pass counts scores and finds the edges, the second counts what the
    chances give.

    Attributes:
      capacity: int64 `[classes]`, how many records are selected; known once settled.
      draws: int64 `[classes]`, how many copies they have together; known once settled.

    Args:
      survey: of all shards.
      options: what to select; `min_score` is a whole number of hundredths.
    """

    def __init__(self, survey: Survey, options: SelectionOptions):
        self.options = options
        classes = len(survey.eligible)
        self.capacity = np.zeros(classes, np.int64)
        self.draws = np.zeros(classes, np.int64)
        self._passes_left = 2
        self._edge = np.full(classes, round(options.min_score * BINS), np.int64)
        self._copies = np.zeros(classes, np.int64)
        self._chance = np.zeros(classes)

    @property
    def settled(self) -> bool:
        """Whether no further pass is needed."""
        return not self._passes_left

    def counters(self) -> list[np.ndarray]:
        """Returns zeros to count one pass into."""
        width = BINS + 1 if self._passes_left == 2 else 2
        return [np.zeros((len(self.capacity), width), np.int64)]

    def histogram(self, path: Path, counts: Sequence[np.ndarray]) -> None:
        """Adds one shard to the counts of this pass.

        Args:
          path: a sidecar.
          counts: what `counters` gave; changed.
        """
        (into,) = counts
        if self._passes_left == 2:
            for batch in sidecar.batches(path, ["label", "score"]):
                _, label, score = eligible(batch, self.options)
                cell = label.astype(np.int64) * into.shape[1] + hundredths(score)
                np.add.at(into.reshape(-1), cell, 1)
        else:
            for batch in sidecar.batches(path, ["label", "score", "key"]):
                _, label, copies = self.take(batch)
                np.add.at(into[:, 0], label, 1)
                np.add.at(into[:, 1], label, copies)

    def advance(self, counts: Sequence[np.ndarray]) -> None:
        """Ends a pass.

        Args:
          counts: the sum over all shards there are.
        """
        (counted,) = counts
        if self._passes_left == 2:
            self._find_edges(counted)
        else:
            self.capacity, self.draws = counted.T.copy()
        self._passes_left -= 1

    def _find_edges(self, counted: np.ndarray) -> None:
        """Walks the bins, int64 `[classes, 101]`, from the top."""
        from_top = counted[:, ::-1].cumsum(axis=1)
        enough = from_top >= self.options.per_class
        reached = BINS - np.argmax(enough, axis=1)
        self._edge = np.where(enough.any(axis=1), reached, self._edge)
        total = from_top[np.arange(len(counted)), BINS - self._edge]
        some = total > 0
        wanted = self.options.most_draws(total)
        self._copies[some] = wanted[some] // total[some]
        self._chance[some] = wanted[some] % total[some] / total[some]

    def take(self, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds what is selected of a batch.

        Args:
          batch: with key, label and score.

        Returns:
          Rows of the batch, their classes and their numbers of copies.
        """
        rows, label, score = eligible(batch, self.options)
        high = hundredths(score) >= self._edge[label]
        rows, label = rows[high], label[high]
        seed = self.options.seed ^ _CHANCE << 48
        hashes = radix.hash_keys(batch["key"], rows, seed=seed)
        lucky = (hashes >> np.uint64(11)) * _UNIT < self._chance[label]
        copies = self._copies[label] + lucky
        taken = copies > 0
        return rows[taken], label[taken], copies[taken]

"""The selection rule of the authors' code.

``filter_unlabel.py`` of google-research/noisystudent counts each class's top-1 scores
in 101 bins of a hundredth (bin 100 for scores from 1), walks the bins from the top down
to min_score, stops once `per_class` records are reached, and draws every record above
that edge c = per_class / total times: ⌊c⌋ times, and once more with the remaining
probability. A class with more records is therefore sub-sampled at random above the edge
of a bin, and a class has `per_class` draws only in expectation.

The authors' code uses an unseeded generator. Here a hash of the key and the seed
decides, so a record's draws do not depend on order, shards or other records.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from noisy_student_jax.pseudo_labels import radix
from noisy_student_jax.pseudo_labels.plan import (
    BINS,
    SelectionOptions,
    Survey,
    batches,
    eligible,
    hundredths,
)

_CHANCE = 0x6368  # distinguishes this use of the seed
_UNIT = 2.0**-53  # turns the upper 53 bits of a hash into 0…1, 1 excluded


class ReferencePlan:
    """The authors' rule, with the interface of `plan.Plan`.

    The first pass counts scores and finds the edges; the second counts the draws.

    Attributes:
      capacity: int64 `[classes]`, number of selected records; valid once settled.
      draws: int64 `[classes]`, their total number of copies; valid once settled.

    Args:
      survey: survey of all shards.
      options: options of the selection; `min_score` is a whole number of hundredths.
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
          counts: the result of `counters`, updated in place.
        """
        (into,) = counts
        if self._passes_left == 2:
            for batch in batches(path, self.options, ["label", "score"]):
                _, label, score = eligible(batch, self.options)
                cell = label.astype(np.int64) * into.shape[1] + hundredths(score)
                np.add.at(into.reshape(-1), cell, 1)
        else:
            for batch in batches(path, self.options, ["label", "score", "key"]):
                _, label, copies = self.take(batch)
                np.add.at(into[:, 0], label, 1)
                np.add.at(into[:, 1], label, copies)

    def advance(self, counts: Sequence[np.ndarray]) -> None:
        """Ends a pass.

        Args:
          counts: the sum over all shards.
        """
        (counted,) = counts
        if self._passes_left == 2:
            self._find_edges(counted)
        else:
            self.capacity, self.draws = counted.T.copy()
        self._passes_left -= 1

    def _find_edges(self, counted: np.ndarray) -> None:
        """Finds each class's edge from its bin counts, int64 `[classes, 101]`."""
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
        """Returns the selected rows of a batch.

        Args:
          batch: columns key, label and score.

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

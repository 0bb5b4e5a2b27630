"""A plan that is kept while a later teacher relabels its records.

In the paper the unlabeled images are filtered once, and later teachers relabel the
selection (the authors' ``reassign``). The records and their copies stay; the targets
come from the new teacher. A record that the new teacher could not label is dropped, and
reported.

The teacher still labels the whole pool, so sidecars have a row for each record and
teachers can be compared; one pass costs little next to dozens of training epochs.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.pseudo_labels import sidecar
from noisy_student_jax.pseudo_labels.plan import SelectionOptions, Survey


class KeptPlan:
    """An earlier plan, with the interface of `plan.Plan`.

    Shards must be passed in the pool's order, as the plan is read alongside.

    Attributes:
      capacity: int64 `[classes]`, number of selected records; valid once settled.
      draws: int64 `[classes]`, their total number of copies; valid once settled.
      lost: number of the plan's records that have no label any more.
      settled: whether the single pass is complete.

    Args:
      survey: survey of all shards.
      options: options that the plan was made with.
      plan: the ``plan.parquet``.
      picks: the plan's draws, int64 `[draws, 2]`.
    """

    def __init__(
        self, survey: Survey, options: SelectionOptions, plan: Path, picks: np.ndarray
    ):
        self.options = options
        classes = len(survey.ok)
        self.capacity = np.zeros(classes, np.int64)
        self.draws = np.zeros(classes, np.int64)
        self.lost = 0
        self.settled = False
        self._first_lost = ""
        self._plan, self._picks = plan, picks
        self._records = _Records(plan, picks)

    def counters(self) -> list[np.ndarray]:
        """Returns zeros to count the pass into."""
        return [np.zeros((len(self.capacity), 2), np.int64)]

    def histogram(self, path: Path, counts: Sequence[np.ndarray]) -> None:
        """Adds the next shard to the counts.

        Args:
          path: a sidecar.
          counts: the result of `counters`, updated in place.

        Raises:
          UserError: the shard belongs to another pool than the plan.
        """
        (into,) = counts
        for batch in sidecar.batches(path, ["key", "label"]):
            _, label, copies = self.take(batch)
            np.add.at(into[:, 0], label, 1)
            np.add.at(into[:, 1], label, copies)

    def advance(self, counts: Sequence[np.ndarray]) -> None:
        """Ends the pass.

        Args:
          counts: the sum over all shards.

        Raises:
          UserError: the plan has records beyond the last shard.
        """
        if self._records.left():
            raise UserError(
                f"{self._plan} has records beyond the last of the labels: they are of"
                " another pool; select afresh"
            )
        (counted,) = counts
        self.capacity, self.draws = counted.T.copy()
        self._records = _Records(self._plan, self._picks)
        self.settled = True

    def take(self, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the selected rows of the next batch.

        Args:
          batch: columns key and label.

        Returns:
          Rows of the batch, their classes and their numbers of copies.
        """
        rows, keys, copies = self._records.within(batch.num_rows)
        same = pc.equal(batch["key"].take(pa.array(rows)), keys).to_numpy(False)
        if not same.all():
            wrong = int(np.argmin(same))
            key, planned = batch["key"][int(rows[wrong])].as_py(), keys[wrong].as_py()
            raise UserError(
                f"the labels have record '{printable(key)}' where {self._plan} has"
                f" '{printable(planned)}': they are of another pool; select afresh"
            )
        label = sidecar.to_numpy(batch["label"])[rows]
        good = label >= 0
        if not self.settled and not good.all():
            if not self.lost:
                self._first_lost = keys[int(np.argmin(good))].as_py()
            self.lost += int((~good).sum())
        return rows[good], label[good], copies[good]

    def left_out(self, survey: Survey) -> dict[str, int]:
        """Returns the number of labeled but unselected records, by reason."""
        return {"not_in_plan": int(survey.ok.sum() - self.capacity.sum())}

    def warning(self) -> str | None:
        """Returns a warning if records of the plan are lost."""
        if not self.lost:
            return None
        return (
            f"{self.lost:,} records of the plan that is kept could not be labeled"
            f" again, the first being '{printable(self._first_lost)}': they are no"
            " longer drawn; see their status in the labels"
        )


class _Records:
    """Reads the records of a plan in the pool's order, a few at a time."""

    def __init__(self, plan: Path, picks: np.ndarray):
        self._picks = picks
        self._batches = sidecar.batches(plan, ["key", "copies"])
        self._draw = self._record = 0  # the next
        self._numbers = np.zeros(0, np.int64)
        self._copies = np.zeros(0, np.int64)
        self._keys = pa.array([], pa.string())

    def within(self, count: int) -> tuple[np.ndarray, pa.Array, np.ndarray]:
        """Returns the plan's records among the next `count` records of the pool.

        Returns:
          Their offsets among these records, int64, their keys and numbers of copies.
        """
        stop = self._record + count
        while not len(self._numbers) or self._numbers[-1] < stop:
            if not self._read():
                break
        size = int(np.searchsorted(self._numbers, stop))
        found = (
            self._numbers[:size] - self._record,
            self._keys[:size],
            self._copies[:size],
        )
        self._numbers, self._copies = self._numbers[size:], self._copies[size:]
        self._keys = self._keys[size:]
        self._record = stop
        return found

    def left(self) -> bool:
        """Whether any records remain."""
        return bool(len(self._numbers)) or self._read()

    def _read(self) -> bool:
        batch = next(self._batches, None)
        if batch is None:
            return False
        copies = batch["copies"].to_numpy().astype(np.int64)
        # The first draw of each record has its number in the pool.
        ends = self._draw + np.cumsum(copies)
        numbers = np.asarray(self._picks[ends - copies, 0])
        self._draw += int(copies.sum())
        self._numbers = np.concatenate([self._numbers, numbers])
        self._copies = np.concatenate([self._copies, copies])
        self._keys = pa.concat_arrays([self._keys, batch["key"]])
        return True

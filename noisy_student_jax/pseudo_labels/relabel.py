"""A plan that is kept while a later teacher labels its records anew.

In the paper the unlabeled images are filtered once; later teachers relabel what was
selected (the authors' ``reassign``). Which records are drawn, and how often, stays;
what a student learns of them is its own teacher's. A record that its teacher could not
label is no longer drawn: it is counted, and said.

The whole pool has labels all the same, so that a sidecar has a row for each record and
teachers can be compared; beside dozens of epochs of training, one pass costs little.
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

    All shards are needed, in the pool's order: the plan is read beside them.

    Attributes:
      capacity: int64 `[classes]`, how many records are selected; known once settled.
      draws: int64 `[classes]`, how many copies they have together; known once settled.
      lost: how many of the plan's records have no label any more.
      settled: whether the one pass that is needed has been made.

    Args:
      survey: of all shards.
      options: that the plan was made with.
      plan: its ``plan.parquet``.
      picks: its draws, int64 `[draws, 2]`.
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
          counts: what `counters` gave; changed.

        Raises:
          UserError: it is of another pool than the plan.
        """
        (into,) = counts
        for batch in sidecar.batches(path, ["key", "label"]):
            _, label, copies = self.take(batch)
            np.add.at(into[:, 0], label, 1)
            np.add.at(into[:, 1], label, copies)

    def advance(self, counts: Sequence[np.ndarray]) -> None:
        """Ends the pass.

        Args:
          counts: of all shards there are.

        Raises:
          UserError: the plan has records that no shard has.
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
        """Finds what is kept of the next batch.

        Args:
          batch: with key and label.

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
        """Counts the labeled records that are not selected, by why."""
        return {"not_in_plan": int(survey.ok.sum() - self.capacity.sum())}

    def warning(self) -> str | None:
        """Says which of the plan's records are lost, if any are."""
        if not self.lost:
            return None
        return (
            f"{self.lost:,} records of the plan that is kept could not be labeled"
            f" again, the first being '{printable(self._first_lost)}': they are no"
            " longer drawn; see their status in the labels"
        )


class _Records:
    """The records of a plan in the pool's order, some at a time."""

    def __init__(self, plan: Path, picks: np.ndarray):
        self._picks = picks
        self._batches = sidecar.batches(plan, ["key", "copies"])
        self._draw = self._record = 0  # the next
        self._numbers = np.zeros(0, np.int64)
        self._copies = np.zeros(0, np.int64)
        self._keys = pa.array([], pa.string())

    def within(self, count: int) -> tuple[np.ndarray, pa.Array, np.ndarray]:
        """Returns those among the next `count` records of the pool.

        Returns:
          Their places among these, int64, their keys and their numbers of copies.
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
        """Whether there are any after those that were asked for."""
        return bool(len(self._numbers)) or self._read()

    def _read(self) -> bool:
        batch = next(self._batches, None)
        if batch is None:
            return False
        copies = batch["copies"].to_numpy().astype(np.int64)
        # The first draw of each record says which it is.
        ends = self._draw + np.cumsum(copies)
        numbers = np.asarray(self._picks[ends - copies, 0])
        self._draw += int(copies.sum())
        self._numbers = np.concatenate([self._numbers, numbers])
        self._copies = np.concatenate([self._copies, copies])
        self._keys = pa.concat_arrays([self._keys, batch["key"]])
        return True

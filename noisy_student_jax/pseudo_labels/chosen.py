"""A plan whose records are drawn more often where the task says so."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.protocols import Chooser
from noisy_student_jax.pseudo_labels import sidecar
from noisy_student_jax.pseudo_labels.plan import (
    NaturalPlan,
    Plan,
    SelectionOptions,
    batches,
)
from noisy_student_jax.pseudo_labels.reference import ReferencePlan

Batches = Callable[[], Iterator[pa.RecordBatch]]
Choose = Callable[[Batches], Chooser]
"""`Task.chooser` with the labels and the options bound."""
NAMED = 20
"""Number of classes that a fact names."""


def labeled_rows(
    paths: Sequence[Path], *, options: SelectionOptions | None = None
) -> Iterator[pa.RecordBatch]:
    """Reads the labeled records of all shards, with all columns.

    Args:
      paths: sidecars, in the pool's order.
      options: options of a selection that may read a part of them; None for all.
    """
    options = options or SelectionOptions(method="all")
    for path in paths:
        for batch in batches(path, options):
            yield batch.filter(pc.equal(batch["status"], sidecar.OK))


def fact_text(value: Any) -> str:
    """Formats a value of `Chooser.facts`: a text, a number, or several by class.

    Example:
      >>> fact_text({"cat": 0.5, "dog": None, "cow": 1200})
      'cat 0.5, dog none, cow 1,200'
    """
    if isinstance(value, Mapping):
        told = [
            f"{printable(str(name))} {fact_text(one)}" for name, one in value.items()
        ]
        more = len(told) - NAMED
        return ", ".join(told[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


class RepeatedPlan:
    """A plan whose copies are multiplied by `Chooser.copies`.

    The interface is that of `plan.Plan`. Once the plan is settled, one more pass counts
    the draws.

    Args:
      plan: an unsettled or settled plan.
      chooser: chooser of the task.
    """

    def __init__(self, plan: Plan | NaturalPlan | ReferencePlan, chooser: Chooser):
        self.options = plan.options
        self.settled = False
        self.draws = np.zeros_like(plan.capacity)
        self._plan, self._chooser = plan, chooser

    @property
    def capacity(self) -> np.ndarray:
        """Number of selected records, int64 `[classes]`."""
        return self._plan.capacity

    def counters(self) -> list[np.ndarray]:
        """Returns zeros to count one pass into."""
        if not self._plan.settled:
            return list(self._plan.counters())
        # Counting uses up what `take` may take of equal ranks.
        self._unused = copy.deepcopy(self._plan)
        return [np.zeros_like(self.capacity)]

    def histogram(self, path: Path, counts: Sequence[np.ndarray]) -> None:
        """Adds one shard to the counts of this pass.

        Args:
          path: a sidecar.
          counts: the result of `counters`, updated in place.
        """
        if not self._plan.settled:
            self._plan.histogram(path, counts)
            return
        for batch in batches(path, self.options):
            _, label, copies = self.take(batch)
            np.add.at(counts[0], label, copies)

    def advance(self, counts: Sequence[np.ndarray]) -> None:
        """Ends a pass.

        Args:
          counts: the sum over all shards.
        """
        if not self._plan.settled:
            self._plan.advance(counts)
            return
        (self.draws,) = counts
        self._plan, self.settled = self._unused, True

    def take(self, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the selected rows of a batch; call it in the pool's order.

        Args:
          batch: all columns.

        Returns:
          Rows of the batch, their classes and their numbers of copies.

        Raises:
          ValueError: the chooser returns other than whole numbers from 1.
        """
        rows, label, copies = self._plan.take(batch)
        if not len(rows):
            return rows, label, copies
        times = np.asarray(self._chooser.copies(batch.take(pa.array(rows))))
        if times.shape != rows.shape or times.dtype.kind not in "iu" or times.min() < 1:
            raise ValueError(
                "a chooser's copies are a whole number from 1 for each of"
                f" {len(rows)} records, not {times.dtype}{list(times.shape)}"
            )
        return rows, label, copies * times.astype(np.int64)

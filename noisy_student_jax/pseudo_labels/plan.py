"""Who is selected and how often: a rule settled by counts that add up."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.pseudo_labels import radix, sidecar

BINS = 100
EDGES = np.arange(BINS + 1) / BINS

MOST_CLASSES = 1 << 20  # a label above this is a mistake, not a class
_FIXED_POINT = 1 << 24  # scores are summed as integers: equal in any order
_TIE, _REMAINDER = 0x7469, 0x7265  # two uses of one seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """What to select.

    Attributes:
      method: ``paper``, balanced exactly (`Plan`); ``reference``, balanced as the
        authors' code does (`reference.ReferencePlan`); or ``all``, every record
        above `min_score` once (the paper's "no balancing" ablation).
      min_score: scores must be greater than this (as float32), not equal; for
        ``reference`` equal is enough, and it is a whole number of hundredths.
      per_class: the paper's K, 130,000 there; ``all`` does not look at it.
      max_copies: the most often that one record is drawn, even if its class then has
        fewer draws than `per_class`; None for no cap, as in the paper.
      seed: for ties at the cut and for the draw of who is repeated once more.

    Raises:
      UserError: on construction, a value is not one of those.
    """

    method: Literal["paper", "reference", "all"] = "paper"
    min_score: float = 0.3
    per_class: int | None = None
    max_copies: int | None = None
    seed: int = 0

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> "SelectionOptions":
        """Takes the fields from a student's ``selection`` section."""
        return cls(**{f.name: section[f.name] for f in dataclasses.fields(cls)})

    def __post_init__(self):
        if self.method not in ("paper", "reference", "all"):
            raise UserError(
                f"selection method {self.method!r} is not known; choose 'paper', "
                "'reference' or 'all'"
            )
        score = self.min_score
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise UserError(f"min_score must be a number, not {score!r}")
        if not 0 <= score < 1:
            raise UserError(
                f"min_score is {score} but must be at least 0 and below 1; the "
                "paper's is 0.3"
            )
        if self.method == "reference" and round(score * BINS) / BINS != score:
            raise UserError(
                f"min_score is {score} but method 'reference' counts scores in "
                "hundredths; give a whole number of them, as 0.3, or choose method "
                "'paper'"
            )
        if self.per_class is None:
            if self.method != "all":
                raise UserError(
                    f"method {self.method!r} needs per_class; set it to the number of "
                    "images that each class shall have (the paper's is 130000), or "
                    "choose method 'all'"
                )
        elif not _is_integer(self.per_class) or not 1 <= self.per_class < 1 << 31:
            raise UserError(
                f"per_class is {self.per_class!r} but must be a whole number of "
                "images, 1 or more"
            )
        copies = self.max_copies
        if copies is not None and not (_is_integer(copies) and 0 < copies < 1 << 31):
            raise UserError(
                f"max_copies is {copies!r} but must be a whole number of draws of one "
                "record, 1 or more, or None for no cap"
            )
        if not _is_integer(self.seed) or not 0 <= self.seed < 1 << 63:
            raise UserError(
                f"seed is {self.seed!r} but must be a whole number, 0 or more"
            )

    @property
    def bar(self) -> str:
        """What a score has to be, for sentences."""
        relation = "at least" if self.method == "reference" else "above"
        return f"{relation} min_score {self.min_score:g}"

    def admits(self, score: np.ndarray) -> np.ndarray:
        """Says which scores are high enough to be selected at all.

        Args:
          score: float32 `[n]`; NaN never is.

        Returns:
          bool `[n]`.
        """
        lowest = np.float32(self.min_score)
        return score >= lowest if self.method == "reference" else score > lowest

    def most_draws(self, records: np.ndarray) -> np.ndarray:
        """Says how many draws classes get that have at least one record.

        Args:
          records: int64 `[classes]`, how many there are to draw from.

        Returns:
          int64 `[classes]`: `per_class`, or what `max_copies` leaves of it.
        """
        draws = np.full_like(records, self.per_class)
        if self.max_copies is not None:
            draws = np.minimum(draws, records * self.max_copies)
        return draws


class Survey:
    """Counts of one pass over everything, before anything is chosen; they add up.

    Args:
      classes: how many there are; None to find out from the labels.
      options: what to select.
    """

    def __init__(self, classes: int | None, options: SelectionOptions):
        self.fixed = classes
        self.options = options
        self.read = 0
        self.quarantined = 0
        self.ok = np.zeros(classes or 0, np.int64)  # per class
        self.eligible = np.zeros(classes or 0, np.int64)
        self.scores = np.zeros(BINS, np.int64)
        self.confidence = 0
        self.best = -math.inf

    def add(self, path: Path, batch: pa.RecordBatch) -> None:
        """Counts one batch.

        Args:
          path: the file it is from.
          batch: the four columns of every task.

        Raises:
          UserError: a row contradicts itself, or has a label that is no class.
        """
        if fault := sidecar.first_fault(batch):
            raise sidecar.faulty(path, fault)
        label, score = _labels_scores(batch)
        ok = label >= 0
        label, score = label[ok], score[ok]
        self.read += batch.num_rows
        self.quarantined += batch.num_rows - len(label)
        if not len(label):
            return
        self._widen(path, int(label.max()) + 1)
        classes = len(self.ok)
        above = self.options.admits(score)
        self.ok += np.bincount(label, minlength=classes)
        self.eligible += np.bincount(label[above], minlength=classes)
        self.scores += histogram(score)
        self.confidence += fixed_point(score, 1)
        self.best = max(self.best, float(score.max()))

    def _widen(self, path: Path, classes: int) -> None:
        if classes <= len(self.ok):
            return
        if self.fixed is not None:
            raise UserError(
                f"{path} has label {classes - 1} but its metadata says "
                f"{self.fixed} classes, numbered from 0; label again with one task"
            )
        if classes > MOST_CLASSES:
            raise UserError(
                f"{path} has label {classes - 1}, more than the {MOST_CLASSES} "
                "classes that can be balanced; labels are class numbers from 0"
            )
        more = (0, classes - len(self.ok))
        self.ok = np.pad(self.ok, more)
        self.eligible = np.pad(self.eligible, more)


class Plan:
    """The paper's rule of who is taken and how often, exactly.

    Until `settled`: take `counters`, add the `histogram` of every shard (several
    hosts: and the counters of each other), and `advance` by the sum.

    Attributes:
      capacity: int64 `[classes]`, how many records are selected.
      draws: int64 `[classes]`, how many copies they have together.

    Args:
      survey: of all shards.
      options: what to select.
    """

    def __init__(self, survey: Survey, options: SelectionOptions):
        self.options = options
        n = survey.eligible
        K = n if options.method == "all" else options.most_draws(n)
        self.capacity = np.minimum(n, K)
        self.copies = np.ones_like(n)
        few = (n > 0) & (n < K)
        self.copies[few] = K[few] // n[few]
        remainder = np.zeros_like(n)
        remainder[few] = K[few] % n[few]
        self.draws = self.capacity * self.copies + remainder
        # Ties at the cut fall by a hash of the key; the remainder is drawn by another,
        # and by score only where a key is repeated.
        self._cuts = (
            radix.Cut(self.capacity, n, words=(32, 64)),
            radix.Cut(remainder, n, words=(64, 32)),
        )
        self._hash_words = (1, 0)

    @property
    def settled(self) -> bool:
        """Whether no further pass is needed."""
        return all(cut.settled for cut in self._cuts)

    def counters(self) -> list[np.ndarray]:
        """Returns zeros to count one pass into; empty for a cut that needs no more."""
        nothing = np.zeros((0, 0), np.int64)
        return [nothing if cut.settled else cut.counters() for cut in self._cuts]

    def histogram(self, path: Path, counts: Sequence[np.ndarray]) -> None:
        """Adds one shard to the counts of this pass.

        Args:
          path: a sidecar.
          counts: what `counters` gave; changed.
        """
        hashing = any(
            not cut.settled and cut.word >= word
            for cut, word in zip(self._cuts, self._hash_words, strict=True)
        )
        columns = ["label", "score"] + ["key"] * hashing
        for batch in sidecar.batches(path, columns):
            _, label, words = self._ranked(batch)
            for cut, own, into in zip(self._cuts, words, counts, strict=True):
                if not cut.settled:
                    cut.histogram(label, own, into)

    def advance(self, counts: Sequence[np.ndarray]) -> None:
        """Ends a pass.

        Args:
          counts: the sum over all shards there are.
        """
        for cut, own in zip(self._cuts, counts, strict=True):
            if not cut.settled:
                cut.advance(own)

    def _ranked(
        self, batch: pa.RecordBatch
    ) -> tuple[np.ndarray, np.ndarray, list[list[radix.Word]]]:
        """Finds the rows above the threshold, their classes and both their ranks."""
        rows, label, score = eligible(batch, self.options)
        rank = radix.score_rank(score)

        def hashed(use: int) -> radix.Word:
            seed = self.options.seed ^ use << 48
            return lambda of: radix.hash_keys(batch["key"], rows[of], seed=seed)

        def scored(of: np.ndarray) -> np.ndarray:
            return rank[of]

        return rows, label, [[scored, hashed(_TIE)], [hashed(_REMAINDER), scored]]

    def take(self, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds what is selected of a batch; call it in the pool's order.

        Args:
          batch: with key, label and score.

        Returns:
          Rows of the batch, their classes and their numbers of copies.
        """
        rows, label, (rank, draw) = self._ranked(batch)
        copies = self.copies[label] + self._cuts[1].take(label, draw)
        taken = self._cuts[0].take(label, rank)
        return rows[taken], label[taken], copies[taken]


def eligible(
    batch: pa.RecordBatch, options: SelectionOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the rows of a batch that have a class and a score that is high enough.

    Args:
      batch: with label and score.
      options: what to select.

    Returns:
      Rows int64 `[n]`, their labels int32 `[n]` and their scores float32 `[n]`.
    """
    label, score = _labels_scores(batch)
    rows = np.flatnonzero(options.admits(score) & (label >= 0))
    return rows, label[rows], score[rows]


def _labels_scores(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Returns label int32, −1 for null, and score float32, NaN for null."""
    return sidecar.to_numpy(batch["label"]), sidecar.to_numpy(batch["score"])


def histogram(score: np.ndarray) -> np.ndarray:
    """Counts scores in hundredths; what lies outside 0…1, and 1, is in the end bins.

    Args:
      score: float32 `[n]`.

    Returns:
      int64 `[100]`; a bin holds its lower edge.
    """
    last = np.minimum(hundredths(score), BINS - 1)
    return np.bincount(last, minlength=BINS)


def hundredths(score: np.ndarray) -> np.ndarray:
    """Says in which hundredth scores are: k for k/100 to below (k + 1)/100.

    An edge is the float32 nearest to k/100, which is what a program means that
    writes 0.29 into a column of float32: it is in bin 29, although the number
    stored is a trifle less than 0.29, and the float32 next below it is in bin 28.
    Two float32 are compared as they are, so that nothing is rounded here.

    Args:
      score: float32 `[n]`, without NaN.

    Returns:
      int64 `[n]`, 0 to 100; what is below 0 is in bin 0, 1 and above in bin 100.
    """
    return np.searchsorted(EDGES[1:].astype(np.float32), score, side="right")


def fixed_point(score: np.ndarray, times: np.ndarray | int) -> int:
    """Sums scores, clipped to 0…1, so that the order of sums does not matter.

    Args:
      score: float32 `[n]`.
      times: int `[n]` or one number, how often each counts.

    Returns:
      The sum in units that `mean` knows.
    """
    clipped = np.clip(score.astype(np.float64), 0, 1)
    return int((np.rint(clipped * _FIXED_POINT).astype(np.int64) * times).sum())


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def mean(total: int, count: int) -> float | None:
    """Divides what `fixed_point` summed.

    Args:
      total: the sum.
      count: of how many.

    Returns:
      The mean to six places; None of nothing.
    """
    return round(total / _FIXED_POINT / count, 6) if count else None

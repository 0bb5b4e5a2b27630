"""The selection rule: which records are drawn and how often, from additive counts."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.pseudo_labels import radix, sidecar

BINS = 100
EDGES = np.arange(BINS + 1) / BINS

MOST_CLASSES = 1 << 20  # a label above this is a mistake, not a class
_FIXED_POINT = 1 << 24  # scores are summed as integers: equal in any order
_TIE, _REMAINDER, _FRACTION = 0x7469, 0x7265, 0x6672  # three uses of one seed
NOT_DRAWN = "not drawn"
"""Status of records that do not belong to `SelectionOptions.pool_fraction`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """Options of the selection.

    Attributes:
      method: ``paper``, balanced exactly (`Plan`); ``reference``, balanced as in the
        authors' code (`reference.ReferencePlan`); or ``all``, every record above
        `min_score` once (`NaturalPlan`; the paper's "no balancing" ablation).
      min_score: exclusive lower bound of scores, compared as float32; 0 leaves out no
        score from 0 on. For ``reference`` it is inclusive, and a whole number of
        hundredths.
      per_class: the paper's K (130,000 there); ignored by ``all``.
      max_copies: upper bound on the draws of one record, even if its class then has
        fewer draws than `per_class`; None for no bound, as in the paper.
      share: for ``all``, the share of the labeled records that is taken at most, those
        with the highest scores whatever their classes.
      max_score: inclusive upper bound of scores, compared as float32; with `min_score`
        a bin of confidence (paper, its study of hard against soft pseudo-labels).
      pool_fraction: fraction of the records that is read at all, drawn by a hash of
        their keys. Smaller ones are part of larger ones.
      seed: seed for ties at the cut, and for choosing records with one more copy.

    Raises:
      UserError: a value is invalid.
    """

    method: Literal["paper", "reference", "all"] = "paper"
    min_score: float = 0.3
    per_class: int | None = None
    max_copies: int | None = None
    share: float = 1.0
    max_score: float = 1.0
    pool_fraction: float = 1.0
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
                "hundredths; give a whole number of them, such as 0.3, or choose "
                "method 'paper'"
            )
        if self.per_class is None:
            if self.method != "all":
                raise UserError(
                    f"method {self.method!r} needs per_class; set it to the number of "
                    "images per class (the paper's is 130000), or choose method 'all'"
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
        for name in ("share", "max_score", "pool_fraction"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"{name} must be a number, not {value!r}")
            if not 0 < value <= 1:
                raise UserError(
                    f"{name} is {value} but must be above 0 and at most 1, which is all"
                    " of them"
                )
        if self.max_score <= score:
            raise UserError(
                f"max_score is {self.max_score} but must be above min_score {score}, or"
                " no score is left"
            )
        share = self.share
        if share < 1 and self.method != "all":
            raise UserError(
                f"share is {share} but method {self.method!r} takes per_class records "
                "of each class; leave share at 1 or choose method 'all'"
            )
        if not _is_integer(self.seed) or not 0 <= self.seed < 1 << 63:
            raise UserError(
                f"seed is {self.seed!r} but must be a whole number, 0 or more"
            )

    @property
    def inclusive(self) -> bool:
        """Whether a score of `min_score` passes."""
        return self.method == "reference" or self.min_score == 0

    @property
    def bar(self) -> str:
        """The condition on scores, for messages."""
        relation = "at least" if self.inclusive else "above"
        return f"{relation} min_score {self.min_score:g}"

    def admits(self, score: np.ndarray) -> np.ndarray:
        """Returns which scores pass the threshold.

        Args:
          score: float32 `[n]`; NaN never passes.

        Returns:
          bool `[n]`.
        """
        lowest = np.float32(self.min_score)
        above = score >= lowest if self.inclusive else score > lowest
        return above & ~self.exceeded_by(score)

    def exceeded_by(self, score: np.ndarray) -> np.ndarray:
        """Returns which scores are above `max_score`, bool `[n]`."""
        if self.max_score == 1:
            return np.zeros(len(score), bool)  # a score may exceed 1 by rounding
        return score > np.float32(self.max_score)

    def drawn(self, keys: pa.Array) -> np.ndarray:
        """Returns which records belong to `pool_fraction`.

        Args:
          keys: string `[n]`.

        Returns:
          bool `[n]`.
        """
        seed = self.seed ^ _FRACTION << 48
        hashes = radix.hash_keys(keys, np.arange(len(keys)), seed=seed)
        return (hashes >> np.uint64(11)) * 2.0**-53 < self.pool_fraction

    def most_records(self, labeled: int) -> int:
        """Returns the number of records that `share` allows: 1 or more.

        Args:
          labeled: number of labeled records.
        """
        return max(1, round(self.share * labeled))

    def most_draws(self, records: np.ndarray) -> np.ndarray:
        """Returns the number of draws of classes with at least one record.

        Args:
          records: int64 `[classes]`, number of eligible records.

        Returns:
          int64 `[classes]`: `per_class`, or less where `max_copies` bounds it.
        """
        draws = np.full_like(records, self.per_class)
        if self.max_copies is not None:
            draws = np.minimum(draws, records * self.max_copies)
        return draws


class Survey:
    """Additive counts of one pass over all records, which precede any choice.

    Args:
      classes: number of classes; None to infer it from the labels.
      options: options of the selection.
    """

    def __init__(self, classes: int | None, options: SelectionOptions):
        self.fixed = classes
        self.options = options
        self.read = 0
        self.quarantined = self.not_drawn = self.too_sure = 0
        self.ok = np.zeros(classes or 0, np.int64)  # per class
        self.eligible = np.zeros(classes or 0, np.int64)
        self.scores = np.zeros(BINS, np.int64)
        self.confidence = 0
        self.best = -math.inf

    def add(self, path: Path, batch: pa.RecordBatch) -> None:
        """Counts one batch.

        Args:
          path: the batch's file, for error messages.
          batch: the four columns of every task.

        Raises:
          UserError: a row is inconsistent, or its label is no class.
        """
        if fault := sidecar.first_fault(batch):
            raise sidecar.faulty(path, fault)
        label, score = _labels_scores(batch)
        ok = label >= 0
        label, score = label[ok], score[ok]
        self.read += batch.num_rows
        left = pc.sum(pc.equal(batch["status"], NOT_DRAWN), min_count=0).as_py()
        self.not_drawn += left
        self.quarantined += batch.num_rows - len(label) - left
        if not len(label):
            return
        self._widen(path, int(label.max()) + 1)
        classes = len(self.ok)
        above = self.options.admits(score)
        self.too_sure += int(self.options.exceeded_by(score).sum())
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
    """The paper's selection rule, computed exactly; method ``paper``.

    Until `settled`: create `counters`, add every shard with `histogram` (and, with
    several hosts, the counters of the others), and call `advance` with the sum.

    Attributes:
      capacity: int64 `[classes]`, number of selected records.
      draws: int64 `[classes]`, their total number of copies.

    Args:
      survey: survey of all shards.
      options: options of the selection.
    """

    def __init__(self, survey: Survey, options: SelectionOptions):
        self.options = options
        n = survey.eligible
        K = options.most_draws(n)
        self.capacity = np.minimum(n, K)
        self.copies = np.ones_like(n)
        few = (n > 0) & (n < K)
        self.copies[few] = K[few] // n[few]
        remainder = np.zeros_like(n)
        remainder[few] = K[few] % n[few]
        self.draws = self.capacity * self.copies + remainder
        # A hash of the key breaks ties at the cut. Another hash draws the remainder,
        # with the score deciding only among repeated keys.
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
        """Returns zeros to count one pass into; empty for a settled cut."""
        nothing = np.zeros((0, 0), np.int64)
        return [nothing if cut.settled else cut.counters() for cut in self._cuts]

    def histogram(self, path: Path, counts: Sequence[np.ndarray]) -> None:
        """Adds one shard to the counts of this pass.

        Args:
          path: a sidecar.
          counts: the result of `counters`, updated in place.
        """
        hashing = any(
            not cut.settled and cut.word >= word
            for cut, word in zip(self._cuts, self._hash_words, strict=True)
        )
        columns = ["label", "score"] + ["key"] * hashing
        for batch in batches(path, self.options, columns):
            _, label, words = _ranked(batch, self.options)
            for cut, own, into in zip(self._cuts, words, counts, strict=True):
                if not cut.settled:
                    cut.histogram(label, own, into)

    def advance(self, counts: Sequence[np.ndarray]) -> None:
        """Ends a pass.

        Args:
          counts: the sum over all shards.
        """
        for cut, own in zip(self._cuts, counts, strict=True):
            if not cut.settled:
                cut.advance(own)

    def take(self, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the selected rows of a batch; call it in the pool's order.

        Args:
          batch: columns key, label and score.

        Returns:
          Rows of the batch, their classes and their numbers of copies.
        """
        rows, label, (rank, draw) = _ranked(batch, self.options)
        copies = self.copies[label] + self._cuts[1].take(label, draw)
        taken = self._cuts[0].take(label, rank)
        return rows[taken], label[taken], copies[taken]


class NaturalPlan:
    """The surest records, each once, at natural shares of the classes; method ``all``.

    The interface is that of `Plan`. Once the cut through all classes is found, one more
    pass counts the records of each class above it.

    Args:
      survey: survey of all shards.
      options: options of the selection.
    """

    def __init__(self, survey: Survey, options: SelectionOptions):
        self.options = options
        eligible = int(survey.eligible.sum())
        wanted = min(options.most_records(int(survey.ok.sum())), eligible)
        self._cut = radix.Cut(np.array([wanted]), np.array([eligible]), words=(32, 64))
        self._columns = ["label", "score"]
        self.settled = wanted == eligible
        self.capacity = survey.eligible * self.settled

    @property
    def draws(self) -> np.ndarray:
        """Number of copies, int64 `[classes]`: one of each record."""
        return self.capacity

    def counters(self) -> list[np.ndarray]:
        """Returns zeros to count one pass into."""
        if self._cut.settled:
            # Counting uses up what `take` may take of equal ranks.
            self._unused = copy.deepcopy(self._cut)
            return [np.zeros_like(self.capacity)]
        if self._cut.word:
            self._columns = ["label", "score", "key"]
        return [self._cut.counters()]

    def histogram(self, path: Path, counts: Sequence[np.ndarray]) -> None:
        """Adds one shard to the counts of this pass.

        Args:
          path: a sidecar.
          counts: the result of `counters`, updated in place.
        """
        (into,) = counts
        for batch in batches(path, self.options, self._columns):
            if self._cut.settled:
                _, label, _ = self.take(batch)
                into += np.bincount(label, minlength=len(into))
            else:
                _, label, (rank, _) = _ranked(batch, self.options)
                self._cut.histogram(np.zeros_like(label), rank, into)

    def advance(self, counts: Sequence[np.ndarray]) -> None:
        """Ends a pass.

        Args:
          counts: the sum over all shards.
        """
        if self._cut.settled:
            (self.capacity,) = counts
            self._cut, self.settled = self._unused, True
        else:
            self._cut.advance(counts[0])

    def take(self, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the selected rows of a batch; call it in the pool's order.

        Args:
          batch: columns key, label and score.

        Returns:
          Rows of the batch, their classes and their numbers of copies.
        """
        rows, label, (rank, _) = _ranked(batch, self.options)
        taken = self._cut.take(np.zeros_like(label), rank)
        return rows[taken], label[taken], np.ones(taken.sum(), np.int64)


def natural(
    keys: Sequence[str], options: SelectionOptions
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the rule of `NaturalPlan` as a function of scores in memory.

    It maps float32 scores `[records]`, NaN where there is no label, to the selected
    records in order, int64.

    Args:
      keys: keys of the records.
      options: options of the selection.
    """
    every, seed = np.arange(len(keys)), options.seed ^ _TIE << 48
    column = pa.array(keys, pa.string())
    hashes = radix.hash_keys(column, every, seed=seed)
    drawn = options.drawn(column)

    def select(score: np.ndarray) -> np.ndarray:
        score = np.where(drawn, score, np.float32(np.nan))
        rows = np.flatnonzero(options.admits(score))
        rank = np.lexsort((hashes[rows], radix.score_rank(score[rows])))
        most = options.most_records(int(np.isfinite(score).sum()))
        return np.sort(rows[rank[::-1][:most]])

    return select


def batches(
    path: Path, options: SelectionOptions, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Streams a sidecar; records outside `pool_fraction` have no label and no score.

    Args:
      path: a sidecar.
      options: options of the selection.
      columns: columns to read; None for all.
    """
    if options.pool_fraction == 1:
        yield from sidecar.batches(path, columns)
        return
    if columns is not None:
        columns = list(dict.fromkeys([*columns, "key"]))
    for batch in sidecar.batches(path, columns):
        drawn = pa.array(options.drawn(batch["key"]))
        left = {"status": NOT_DRAWN, "label": None, "score": None}
        for name in left.keys() & set(batch.schema.names):
            otherwise = pa.scalar(left[name], sidecar.COLUMNS[name])
            column = pc.if_else(drawn, batch[name], otherwise)
            place = batch.schema.get_field_index(name)
            batch = batch.set_column(place, name, column)
        yield batch


def _ranked(
    batch: pa.RecordBatch, options: SelectionOptions
) -> tuple[np.ndarray, np.ndarray, list[list[radix.Word]]]:
    """Returns the rows above the threshold, their classes and both their ranks."""
    rows, label, score = eligible(batch, options)
    rank = radix.score_rank(score)

    def hashed(use: int) -> radix.Word:
        seed = options.seed ^ use << 48
        return lambda of: radix.hash_keys(batch["key"], rows[of], seed=seed)

    def scored(of: np.ndarray) -> np.ndarray:
        return rank[of]

    return rows, label, [[scored, hashed(_TIE)], [hashed(_REMAINDER), scored]]


def eligible(
    batch: pa.RecordBatch, options: SelectionOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the labeled rows of a batch whose score passes the threshold.

    Args:
      batch: columns label and score.
      options: options of the selection.

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
    """Counts scores in bins of a hundredth; the end bins include scores outside 0…1.

    Args:
      score: float32 `[n]`.

    Returns:
      int64 `[100]`; bins include their lower edge, and the last one 1.
    """
    last = np.minimum(hundredths(score), BINS - 1)
    return np.bincount(last, minlength=BINS)


def hundredths(score: np.ndarray) -> np.ndarray:
    """Returns the bin of each score: k for scores in [k/100, (k + 1)/100).

    An edge is the float32 nearest to k/100. A stored 0.29 is therefore in bin 29,
    although its float32 value is slightly below 0.29; the next lower float32 is in bin
    28. Comparing float32 with float32 involves no rounding.

    Args:
      score: float32 `[n]`, without NaN.

    Returns:
      int64 `[n]`, 0 to 100; scores below 0 are in bin 0, those from 1 in bin 100.
    """
    return np.searchsorted(EDGES[1:].astype(np.float32), score, side="right")


def fixed_point(score: np.ndarray, times: np.ndarray | int) -> int:
    """Sums scores, clipped to 0…1, in fixed point: the order does not matter.

    Args:
      score: float32 `[n]`.
      times: int `[n]` or one number, the multiplicity of each score.

    Returns:
      The sum in the units of `mean`.
    """
    clipped = np.clip(score.astype(np.float64), 0, 1)
    return int((np.rint(clipped * _FIXED_POINT).astype(np.int64) * times).sum())


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def mean(total: int, count: int) -> float | None:
    """Returns the mean of scores summed by `fixed_point`.

    Args:
      total: the sum.
      count: number of scores.

    Returns:
      The mean, rounded to six places; None if there are no scores.
    """
    return round(total / _FIXED_POINT / count, 6) if count else None

"""What looks wrong with pseudo-labels, told from counts before a student is trained.

Each check returns one sentence (what, how much, what to do), or None. All of them are
functions of counts that add up over shards and hosts.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from noisy_student_jax.core.console import printable
from noisy_student_jax.pseudo_labels.plan import BINS, EDGES, SelectionOptions

NAMED = 10
"""Classes that a warning names before it says how many more there are."""

UNEVEN = 0.6
"""The pool's effective number of classes may be this much of the labeled images',
both less one (the least there can be). A pool that lacks half of the classes comes out
a little above a half, for the teacher mistakes some images for the others; one whose
commonest class has ten times the images of its rarest at about eight tenths."""

DOMINANT_SHARE, DOMINANT_TIMES = 0.25, 4
"""No class may have this share of the pool and this many times its share of the
labeled images. The effective number hardly sees one class of forty per cent among
nine of equal size; with a thousand classes it sees more than this."""

RECORDS_PER_CLASS = 5
"""A pool with fewer records than this for each class is uneven by chance alone."""

FAR_BELOW = 0.8
"""The teacher's mean score on the pool may be this much of that on validation images.
On images like the labeled ones, even of one class only, it is 0.95 and more; on
mirrored, shifted or shuffled digits 0.6 to 0.75, on noise 0.5 to 0.7."""

STANDARD_ERRORS = 3
"""And the difference must be this many standard errors, lest few images decide."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """A model's scores on some images.

    Attributes:
      histogram: int64 `[100]`, of `plan.histogram`.
      mean: of the scores, clipped to 0…1; None of no images.
    """

    histogram: np.ndarray
    mean: float | None

    @property
    def images(self) -> int:
        """How many there are."""
        return int(self.histogram.sum())

    @property
    def variance_of_mean(self) -> float:
        """The square of the mean's standard error, from the middles of the bins."""
        middles = (EDGES[:-1] + EDGES[1:]) / 2
        shares = self.histogram / self.images
        variance = shares @ middles**2 - (shares @ middles) ** 2
        # Of rounding to hundredths, so that equal scores are not taken for certain.
        return float(variance + 1 / (12 * BINS**2)) / self.images

    def share_from(self, score: float) -> float:
        """Returns the share of images whose hundredth is that of `score` or higher."""
        return float(self.histogram[math.floor(score * BINS + 1e-9) :].sum()) / (
            self.images
        )


@dataclasses.dataclass(frozen=True)
class Expected:
    """What is known of images like those that a pool should hold.

    Attributes:
      class_counts: int64 `[classes]`, of the labeled images; None if unknown.
      scores: the teacher's on validation images; None if unknown.
    """

    class_counts: np.ndarray | None = None
    scores: Scores | None = None

    @classmethod
    def from_run(
        cls, labels: Any, *, classes: int, scores: dict[str, Any] | None
    ) -> Self:
        """Takes what it can use of a labeled set and of an evaluation.

        Args:
          labels: of the labeled images; counted if they are integers `[images]`
            from 0 to below `classes`, for other tasks have labels of other kinds.
          classes: how many there are.
          scores: ``mean`` and ``histogram`` of the validation images, or None.
        """
        return cls(
            _class_counts(np.asarray(labels), classes),
            Scores(np.array(scores["histogram"]), scores["mean"]) if scores else None,
        )


def empty_classes(
    predicted: np.ndarray,
    eligible: np.ndarray,
    selected: np.ndarray,
    *,
    options: SelectionOptions,
    names: Sequence[str],
) -> str | None:
    """Warns of classes without any pseudo-label.

    Args:
      predicted: int64 `[classes]`, records that the teacher gives to each.
      eligible: int64 `[classes]`, those whose score is high enough.
      selected: int64 `[classes]`, those that are selected.
      options: what was asked for.
      names: of the classes; may be empty.
    """
    empty = np.flatnonzero(selected == 0)
    if not len(empty):
        return None
    never = int((predicted[empty] == 0).sum())
    lost = int((eligible[empty] > 0).sum())
    why = f"no record of theirs scores {options.bar}"
    if lost:
        why = f"{lost} of them lose their few records by chance; of the rest, {why}"
    return (
        f"{len(empty)} of {len(selected)} classes get no pseudo-labels: "
        f"{_listed(_names(empty, names))} ({why}; {never} of them "
        "the teacher never predicts); lower min_score, add unlabeled images of these "
        "classes, or check the teacher"
    )


def capped_classes(
    eligible: np.ndarray, *, options: SelectionOptions, names: Sequence[str]
) -> str | None:
    """Warns of classes that `max_copies` leaves with fewer draws than asked for.

    Args:
      eligible: int64 `[classes]`, records whose score is high enough.
      options: what was asked for.
      names: of the classes; may be empty.
    """
    if options.method == "all" or options.max_copies is None:
        return None
    draws = options.most_draws(eligible)
    short = np.flatnonzero((eligible > 0) & (draws < options.per_class))
    if not len(short):
        return None
    told = [
        f"{name} {number:,}"
        for name, number in zip(
            _names(short, names), draws[short].tolist(), strict=True
        )
    ]
    missing = int((options.per_class - draws[short]).sum())
    return (
        f"{len(short)} of {len(eligible)} classes have fewer draws than per_class "
        f"{options.per_class:,}, because max_copies {options.max_copies:,} caps the "
        f"repeats of their few records: {_listed(told)} ({missing:,} draws fewer in "
        "all); add unlabeled images of these classes, raise max_copies or lower "
        "per_class"
    )


def uneven_classes(
    predicted: np.ndarray, labeled: np.ndarray, *, names: Sequence[str]
) -> str | None:
    """Warns of predictions that are far more uneven than the labeled images.

    Args:
      predicted: int64 `[classes]`, records of the pool that the teacher gives to each.
      labeled: int64 `[classes]`, labeled images of each.
      names: of the classes; may be empty.
    """
    records = int(predicted.sum())
    if records < RECORDS_PER_CLASS * np.count_nonzero(labeled):
        return None
    pool, known = _effective(predicted), _effective(labeled)
    most = int(predicted.argmax())
    share, known_share = predicted[most] / records, labeled[most] / labeled.sum()
    dominant = share >= max(DOMINANT_SHARE, DOMINANT_TIMES * known_share)
    if pool - 1 >= UNEVEN * (known - 1) and not dominant:
        return None
    (name,) = _names([most], names)
    return (
        f"the teacher spreads the pool over {pool:.1f} classes in effect, the "
        f"labeled images have {known:.1f} (e to the entropy of the shares), and "
        f"gives {name} {share:.0%} of the pool, which is {known_share:.0%} of the "
        "labeled images: either the pool really is like that or the teacher has "
        "collapsed onto few classes; look at some of it, add images of the other "
        "classes, or train the teacher better"
    )


def out_of_domain(
    pool: Scores, validation: Scores, *, options: SelectionOptions
) -> str | None:
    """Warns of a pool that the teacher is far less sure of than validation images.

    Args:
      pool: the teacher's scores on it.
      validation: the teacher's scores on validation images.
      options: what was asked for.
    """
    if not pool.images or not validation.images:
        return None
    assert pool.mean is not None and validation.mean is not None, "images have a mean"
    error = math.sqrt(pool.variance_of_mean + validation.variance_of_mean)
    below = validation.mean - pool.mean
    if pool.mean >= FAR_BELOW * validation.mean or below < STANDARD_ERRORS * error:
        return None
    shares = [s.share_from(options.min_score) for s in (pool, validation)]
    return (
        f"the pool may be of other images than the labeled ones: the teacher's mean "
        f"score is {pool.mean:.2f} on it and {validation.mean:.2f} on validation "
        f"images, and {shares[0]:.0%} of it pass min_score {options.min_score:g} where "
        f"{shares[1]:.0%} of those would; look at some of it and how it was prepared "
        "(colors, orientation, crops), leave out what does not belong, or raise "
        "min_score"
    )


def _class_counts(labels: np.ndarray, classes: int) -> np.ndarray | None:
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not len(labels):
        return None
    if labels.min() < 0:
        return None
    counts = np.bincount(labels.astype(np.int64), minlength=classes)
    return counts if len(counts) == classes else None


def _effective(counts: np.ndarray) -> float:
    """Returns e to the entropy: the number of equal classes that are as uneven."""
    shares = counts[counts > 0] / counts.sum()
    return math.exp(-(shares * np.log(shares)).sum())


def _names(labels: Sequence[int] | np.ndarray, names: Sequence[str]) -> list[str]:
    """Names classes, by number where they have no name."""
    return [
        f"'{printable(str(names[label]))}'" if label < len(names) else str(label)
        for label in map(int, labels)
    ]


def _listed(told: Sequence[str]) -> str:
    text = ", ".join(told[:NAMED])
    more = len(told) - NAMED
    return f"{text} and {more:,} more" if more > 0 else text

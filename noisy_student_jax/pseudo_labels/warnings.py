"""Checks of pseudo-labels before a student is trained on them.

Each check returns one sentence (what, how much, what to do), or None. All are functions
of counts that add up over shards and hosts.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from noisy_student_jax.core.console import printable
from noisy_student_jax.pseudo_labels.plan import BINS, EDGES, SelectionOptions

NAMED = 10
"""Number of classes that a warning names."""

UNEVEN = 0.6
"""Smallest ratio of the pool's effective number of classes to that of the labeled
images, each less one, its minimum. A pool that lacks half of the classes has a ratio
slightly above 0.5, as the teacher assigns some images to the others; one whose most
common class has ten times the images of its rarest has about 0.8."""

DOMINANT_SHARE, DOMINANT_TIMES = 0.25, 4
"""A class dominates if it has this share of the pool and this many times its share of
the labeled images. The effective number barely reacts to one class of 40 % among nine
of equal size; with a thousand classes it is the more sensitive check."""

RECORDS_PER_CLASS = 5
"""Smallest pool to check, in records per class; smaller ones are uneven by chance."""

FAR_BELOW = 0.8
"""Smallest ratio of the teacher's mean score on the pool to that on validation images.
It is at least 0.95 on images like the labeled ones, even of a single class; 0.6 to 0.75
on mirrored, shifted or shuffled digits, and 0.5 to 0.7 on noise."""

STANDARD_ERRORS = 3
"""Smallest significant difference, in standard errors, for pools of few images."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Statistics of a model's scores.

    Attributes:
      histogram: int64 `[100]`, the result of `plan.histogram`.
      mean: mean of the scores, clipped to 0…1; None without images.
    """

    histogram: np.ndarray
    mean: float | None

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.histogram.sum())

    @property
    def variance_of_mean(self) -> float:
        """The squared standard error of the mean, from the centers of the bins."""
        middles = (EDGES[:-1] + EDGES[1:]) / 2
        shares = self.histogram / self.images
        variance = shares @ middles**2 - (shares @ middles) ** 2
        # The variance within a bin, so that equal scores have a nonzero error.
        return float(variance + 1 / (12 * BINS**2)) / self.images

    def of_finds(self) -> "Scores":
        """Returns the statistics without images in which nothing is found.

        These have a score of 0; any below a hundredth are left out.
        """
        nothing, images = int(self.histogram[0]), self.images
        histogram = np.concatenate([[0], self.histogram[1:]])
        if self.mean is None or nothing == images:
            return Scores(histogram, None)
        return Scores(histogram, min(self.mean * images / (images - nothing), 1.0))

    def share_from(self, score: float) -> float:
        """Returns the share of images in the bin of `score` or a higher one."""
        return float(self.histogram[math.floor(score * BINS + 1e-9) :].sum()) / (
            self.images
        )


@dataclasses.dataclass(frozen=True)
class Expected:
    """Statistics of in-domain images that the pool is compared with.

    Attributes:
      class_counts: int64 `[classes]`, counts of the labeled images; None if unknown.
      scores: the teacher's scores on validation images; None if unknown.
    """

    class_counts: np.ndarray | None = None
    scores: Scores | None = None

    @classmethod
    def from_run(
        cls, labels: Any, *, classes: int, scores: dict[str, Any] | None
    ) -> Self:
        """Builds the statistics from a labeled set and an evaluation.

        Args:
          labels: labels of the labeled images. Only integers `[images]` in
            ``[0, classes)`` are counted, as other tasks have labels of other kinds.
          classes: number of classes.
          scores: ``mean`` and ``histogram`` on the validation images, or None.
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
      predicted: int64 `[classes]`, number of records predicted as each class.
      eligible: int64 `[classes]`, number of those that pass the threshold.
      selected: int64 `[classes]`, number of those that are selected.
      options: options of the selection.
      names: class names; may be empty.
    """
    empty = np.flatnonzero(selected == 0)
    if not len(empty):
        return None
    never = int((predicted[empty] == 0).sum())
    lost = int((eligible[empty] > 0).sum())
    why, what = f"no record of theirs scores {options.bar}", "lower min_score"
    if lost and options.method == "all":
        why = (
            f"{lost} of them have no record in the surest {options.share:.1%} of the "
            f"pool; of the rest, {why}"
        )
        what = "take a larger share"
    elif lost:
        why = f"{lost} of them lose their few records by chance; of the rest, {why}"
    return (
        f"{len(empty)} of {len(selected)} classes get no pseudo-labels: "
        f"{_listed(_names(empty, names))} ({why}; {never} of them "
        f"the teacher never predicts); {what}, add unlabeled images of these classes, "
        "or check the teacher"
    )


def capped_classes(
    eligible: np.ndarray, *, options: SelectionOptions, names: Sequence[str]
) -> str | None:
    """Warns of classes that `max_copies` leaves with fewer than `per_class` draws.

    Args:
      eligible: int64 `[classes]`, number of records that pass the threshold.
      options: options of the selection.
      names: class names; may be empty.
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
    predicted: np.ndarray,
    labeled: np.ndarray,
    *,
    options: SelectionOptions,
    names: Sequence[str],
) -> str | None:
    """Warns of predictions that are far more uneven than the labeled images.

    Draws at natural shares are as uneven as the pool, and nothing is repeated.

    Args:
      predicted: int64 `[classes]`, number of pool records predicted as each class.
      labeled: int64 `[classes]`, number of labeled images of each class.
      options: options of the selection.
      names: class names; may be empty.
    """
    records = int(predicted.sum())
    if options.method == "all":
        return None
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
        "labeled images, while each class is drawn equally often: if the pool really "
        "is like that, draw it at its natural shares (selection.method 'all'); if the "
        "teacher has collapsed onto few classes, add images of the others or train the "
        "teacher better; look at some of it"
    )


def out_of_domain(
    pool: Scores,
    validation: Scores,
    *,
    options: SelectionOptions,
    finds: bool = False,
) -> str | None:
    """Warns of a pool that the teacher scores far lower than validation images.

    Args:
      pool: the teacher's scores on the pool.
      validation: the teacher's scores on validation images.
      options: options of the selection.
      finds: whether there may be nothing to find in an image, so that only images with
        a find are compared.
    """
    if finds:
        pool, validation = pool.of_finds(), validation.of_finds()
    if not pool.images or not validation.images:
        return None
    assert pool.mean is not None and validation.mean is not None, "images have a mean"
    error = math.sqrt(pool.variance_of_mean + validation.variance_of_mean)
    below = validation.mean - pool.mean
    if pool.mean >= FAR_BELOW * validation.mean or below < STANDARD_ERRORS * error:
        return None
    passing, of_finds = "", " where it finds anything" if finds else ""
    if options.min_score:
        shares = [s.share_from(options.min_score) for s in (pool, validation)]
        passing = (
            f", and {shares[0]:.0%} of it pass min_score {options.min_score:g} where "
            f"{shares[1]:.0%} of those would"
        )
    return (
        f"the pool may be of other images than the labeled ones: the teacher's mean "
        f"score{of_finds} is {pool.mean:.2f} on it and {validation.mean:.2f} on "
        f"validation images{passing}; look at some of it and how it was prepared "
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
    """Returns the effective number of classes: e to the entropy of the shares."""
    shares = counts[counts > 0] / counts.sum()
    return math.exp(-(shares * np.log(shares)).sum())


def _names(labels: Sequence[int] | np.ndarray, names: Sequence[str]) -> list[str]:
    """Returns quoted class names, or numbers where there are none."""
    return [
        f"'{printable(str(names[label]))}'" if label < len(names) else str(label)
        for label in map(int, labels)
    ]


def _listed(told: Sequence[str]) -> str:
    text = ", ".join(told[:NAMED])
    more = len(told) - NAMED
    return f"{text} and {more:,} more" if more > 0 else text

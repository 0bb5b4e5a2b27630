"""Confidence intervals, paired differences, and the verdict that a run ends with."""

import dataclasses
import math
import statistics
from typing import Any

import numpy as np

LEANING = 0.9
"""Share of bootstrap samples on one side from which a difference is probable."""
UNDECIDED = 8
"""Images on which two models are taken to differ, half of them for each, besides those
on which they do: so fewer than four images decide nothing."""
CALIBRATION_BINS = 15
"""Number of confidence bins of the calibration error."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The paired difference of two models on the same images.

    Attributes:
      value: mean of ours minus theirs.
      low: lower end of the confidence interval.
      high: upper end of the confidence interval.
      above: share of bootstrap samples in which ours is higher; ties count half.
      images: number of images.
      only_ours: number of images that only ours gets right, for 0/1 metrics; None where
        the metric is no mean over images.
      only_theirs: number of images that only theirs gets right.
    """

    value: float
    low: float
    high: float
    above: float
    images: int
    only_ours: int | None
    only_theirs: int | None


@dataclasses.dataclass(frozen=True)
class Lead:
    """How far one model is ahead of another on images that neither learned from.

    Attributes:
      value: mean of ours minus theirs.
      error: standard error of a difference of zero (McNemar), with `UNDECIDED`.
      images: number of images.
      paired: whether the models were compared image by image.
    """

    value: float
    error: float
    images: int
    paired: bool = True

    @property
    def is_sure(self) -> bool:
        """Whether it is more than one standard error."""
        return self.value > self.error

    def reversed(self) -> "Lead":
        """Returns the lead of the other model."""
        return dataclasses.replace(self, value=-self.value)


def lead(ours: np.ndarray, theirs: np.ndarray) -> Lead:
    """Compares two models image by image.

    Args:
      ours: float ``[images]``, the metric per image, from 0 to 1.
      theirs: float ``[images]``, for the same images in the same order.

    Example:
      >>> lead(np.array([1, 1, 1]), np.array([0, 0, 0])).is_sure
      False
    """
    gaps = ours - theirs
    return Lead(
        value=float(gaps.mean()),
        error=math.sqrt(float(gaps @ gaps) + UNDECIDED) / len(gaps),
        images=len(gaps),
    )


def lead_of_means(ours: float, theirs: float, images: int) -> Lead:
    """Compares two means over the same images where single images are not known.

    The models are taken to err independently, which is the more careful assumption:
    models with the same labels err on much the same images.

    Args:
      ours: mean of the metric, from 0 to 1.
      theirs: mean of the metric.
      images: number of images.
    """
    differ = images * (ours * (1 - theirs) + theirs * (1 - ours))
    error = math.sqrt(differ + UNDECIDED) / images
    return Lead(ours - theirs, error, images, paired=False)


def without_nan(value: Any) -> Any:
    """Replaces NaN, the value of a metric with nothing to measure, by None for JSON.

    Example:
      >>> without_nan({"AP": math.nan, "interval": (0.5, math.nan)})
      {'AP': None, 'interval': [0.5, None]}
    """
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def points(value: Lead) -> str:
    """Formats a lead as ``+1.2 ± 0.8`` points."""
    sign = "+" if round(100 * value.value, 1) > 0 else ""
    return f"{sign}{_minus(100 * value.value)} ± {100 * value.error:.1f}"


def wilson(successes: float, images: int, confidence: float) -> tuple[float, float]:
    """Returns the Wilson score interval of a proportion.

    Args:
      successes: number of correct images; may be a sum of fractions.
      images: number of images.
      confidence: confidence level, such as 0.95.

    Example:
      >>> low, high = wilson(90, 100, 0.95)
      >>> round(low, 3), round(high, 3)
      (0.826, 0.945)
    """
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / images
    center = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = (
        z
        / (1 + z * z / images)
        * math.sqrt(share * (1 - share) / images + z * z / (4 * images**2))
    )
    return max(0.0, center - half), min(1.0, center + half)


def paired_bootstrap(
    ours: np.ndarray,
    theirs: np.ndarray,
    *,
    confidence: float,
    samples: int,
    seed: int = 0,
) -> Difference:
    """Computes the mean difference and its bootstrap percentile interval.

    Both models' values of an image are resampled together, so images that are hard
    for both do not widen the interval.

    Args:
      ours: float ``[images]``, the metric per image.
      theirs: float ``[images]``, for the same images in the same order.
      confidence: confidence level, such as 0.95.
      samples: number of bootstrap samples.
      seed: seed of the resampling.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"not the same images: {ours.shape} against {theirs.shape}")
    gaps = ours - theirs
    values, counts = np.unique(gaps, return_counts=True)
    rng = np.random.Generator(np.random.Philox(seed))
    # Resampling images amounts to drawing the counts of the distinct gaps.
    drawn = rng.multinomial(len(gaps), counts / len(gaps), size=samples)
    means = drawn @ values / len(gaps)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    # Rounding errors keep sums of many fractions from being exactly zero.
    level = np.abs(means) < 1e-12
    return Difference(
        value=float(gaps.mean()),
        low=float(low),
        high=float(high),
        above=float(((means > 0) & ~level).mean() + 0.5 * level.mean()),
        images=len(gaps),
        only_ours=int((gaps > 0).sum()),
        only_theirs=int((gaps < 0).sum()),
    )


def judge(difference: Difference) -> str:
    """Returns the verdict on a difference, in words."""
    if difference.low > 0:
        return "better"
    if difference.high < 0:
        return "worse"
    if difference.above >= LEANING:
        return "probably better, not surely"
    if 1 - difference.above >= LEANING:
        return "probably worse, not surely"
    return "cannot tell"


def sentence(
    difference: Difference, *, ours: float, theirs: float, against: str
) -> str:
    """Returns the verdict sentence, the last line of a run."""
    if math.isnan(difference.value):
        return (
            f"no verdict: the {difference.images:,} test images hold nothing by which"
            " to compare models"
        )
    low, high = (f"{_minus(100 * end)}" for end in (difference.low, difference.high))
    value = 100 * difference.value
    sign = "+" if round(value, 1) > 0 else ""
    return (
        f"student {100 * ours:.1f} %, {against} {100 * theirs:.1f} %, difference"
        f" {sign}{_minus(value)} [{low}, {high}] on {difference.images:,} test images:"
        f" {judge(difference)}"
    )


def _minus(points: float) -> str:
    # Adding zero turns a rounded −0.0 into 0.0.
    return f"{round(points, 1) + 0.0:.1f}".replace("-", "−")


def taken_and_right(
    label: np.ndarray, score: np.ndarray, truth: np.ndarray, *, lowest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the predictions of each class that reach its threshold.

    Args:
      label: int ``[images]``, predicted classes.
      score: float ``[images]``.
      truth: int ``[images]``, true classes.
      lowest: float ``[classes]``, the lowest score that counts.

    Returns:
      The number of predictions and the number of correct ones, int ``[classes]``.
    """
    there = score >= lowest.astype(score.dtype)[label]
    classes = len(lowest)
    taken = np.bincount(label[there], minlength=classes)
    right = np.bincount(label[there & (label == truth)], minlength=classes)
    return taken, right


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Returns the expected calibration error over equal-width confidence bins.

    Args:
      confidence: float ``[images]``, from 0 to 1.
      right: ``[images]``, 1 for correct predictions and 0 for wrong ones.
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gap = 0.0
    for number in range(CALIBRATION_BINS):
        inside = bins == number
        if inside.any():
            gap += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return float(gap)

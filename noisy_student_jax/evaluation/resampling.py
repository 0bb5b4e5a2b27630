"""Intervals and paired differences of a task's primary metric, by resampled images.

A task turns statistics of images into its metric (`core.protocols.Task.primary`). Where
the statistics are numbers the metric is their mean, which has closed forms; any other
metric, such as average precision, is computed again for each bootstrap sample.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.evaluation import statistics as of_numbers
from noisy_student_jax.evaluation.statistics import UNDECIDED, Difference, Lead

LEAD_SAMPLES = 1000
"""Number of bootstrap samples behind the standard error of a lead."""
MOST_COUNTS = 1 << 22
"""Number of counts, of samples by images, that are in memory at once."""


class Primary(Protocol):
    """`Task.primary`."""

    def __call__(
        self, statistics: pa.Array, draws: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the metric of each resample, float64 ``[resamples]``."""


def mean(statistics: pa.Array, draws: np.ndarray | None = None) -> np.ndarray:
    """Computes the primary metric of tasks that have a number for each image.

    Args:
      statistics: floating-point ``[images]``.
      draws: int ``[resamples, images]``, how often each image was drawn; None for one
        resample with each image once.

    Returns:
      float64 ``[resamples]``.
    """
    values = numbers(statistics)
    if draws is None:
        return np.array([values.mean()])
    return draws @ values / draws.sum(axis=1)


def numbers(statistics: pa.Array) -> np.ndarray:
    """Returns floating-point statistics as float64 ``[images]``."""
    return statistics.to_numpy(zero_copy_only=False).astype(np.float64)


def of_images(
    keys: Sequence[Hashable], statistics: pa.Array, wanted: Sequence[Hashable]
) -> pa.Array:
    """Picks the statistics of some images.

    Args:
      keys: key of each image.
      statistics: ``[images]``.
      wanted: keys of the images to pick.

    Returns:
      ``[wanted images]``.
    """
    place = {key: index for index, key in enumerate(keys)}
    return statistics.take(pa.array([place[key] for key in wanted], pa.int64()))


def interval(
    statistics: pa.Array,
    primary: Primary,
    *,
    confidence: float,
    samples: int,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the confidence interval of the primary metric.

    It is the Wilson score interval where the statistics are 0 and 1, and otherwise that
    between percentiles of bootstrap samples of the images.

    Args:
      statistics: `Task.statistics`, ``[images]``.
      primary: `Task.primary`.
      confidence: confidence level, such as 0.95.
      samples: number of bootstrap samples.
      seed: seed of the resampling.

    Returns:
      Its ends; NaN where the metric is not defined.
    """
    if _are_numbers(statistics):
        values = numbers(statistics)
        if np.isin(values, (0, 1)).all():
            return of_numbers.wilson(float(values.sum()), len(values), confidence)
    (ends,) = intervals(
        statistics,
        lambda *given: {"": primary(*given)},
        confidence=confidence,
        samples=samples,
        seed=seed,
    ).values()
    return ends


def intervals(
    statistics: pa.Array,
    resampled: Callable[[pa.Array, np.ndarray], Arrays],
    *,
    confidence: float,
    samples: int,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Returns the intervals between percentiles of bootstrap samples of the images.

    Args:
      statistics: `Task.statistics`, ``[images]``.
      resampled: `Task.resampled`.
      confidence: confidence level, such as 0.95.
      samples: number of bootstrap samples.
      seed: seed of the resampling.

    Returns:
      Their ends by metric; NaN where the metric is not defined.
    """
    found = [
        resampled(statistics, draws) for draws in drawn(len(statistics), samples, seed)
    ]
    return {
        name: _percentiles(
            _defined(np.concatenate([one[name] for one in found])), confidence
        )
        for name in found[0]
    }


def difference(
    ours: pa.Array,
    theirs: pa.Array,
    primary: Primary,
    *,
    confidence: float,
    samples: int,
    seed: int = 0,
) -> Difference:
    """Computes the difference of two models and its bootstrap percentile interval.

    Both models' statistics of an image are drawn together, so images that are hard for
    both do not widen the interval.

    Args:
      ours: `Task.statistics`, ``[images]``.
      theirs: those of the other model, for the same images in the same order.
      primary: `Task.primary`.
      confidence: confidence level, such as 0.95.
      samples: number of bootstrap samples.
      seed: seed of the resampling.
    """
    if _are_numbers(ours):
        return of_numbers.paired_bootstrap(
            numbers(ours),
            numbers(theirs),
            confidence=confidence,
            samples=samples,
            seed=seed,
        )
    found = _defined(_resampled(ours, theirs, primary, samples, seed))
    low, high = _percentiles(found, confidence)
    above = np.where(found == 0, 0.5, found > 0)
    return Difference(
        value=_gap(ours, theirs, primary),
        low=low,
        high=high,
        above=float(above.mean()) if len(above) else 0.5,
        images=len(ours),
        only_ours=None,
        only_theirs=None,
    )


def lead(ours: pa.Array, theirs: pa.Array, primary: Primary) -> Lead:
    """Compares two models on images that neither has learned from.

    The standard error is that of a difference of zero, from bootstrap samples. As for
    numbers, `UNDECIDED` images count besides, which differ as much as the images do on
    which the models differ. For 0 and 1 this is the error of `statistics.lead`.

    Args:
      ours: `Task.statistics`, ``[images]``.
      theirs: those of the other model, for the same images in the same order.
      primary: `Task.primary`.
    """
    if _are_numbers(ours):
        return of_numbers.lead(numbers(ours), numbers(theirs))
    images = len(ours)
    found = _defined(_resampled(ours, theirs, primary, LEAD_SAMPLES, seed=0))
    value = _gap(ours, theirs, primary)
    differ = sum(one != other for one, other in zip(ours, theirs, strict=True))
    if differ and len(found):
        # A bootstrap variance is about the difference that is seen, and not about zero.
        variance = float(found.var()) + value**2 / images
        error = math.sqrt(variance * (1 + UNDECIDED / differ))
    else:
        error = math.sqrt(UNDECIDED) / images
    return Lead(value, error, images)


def _are_numbers(statistics: pa.Array) -> bool:
    return pa.types.is_floating(statistics.type)


def _gap(ours: pa.Array, theirs: pa.Array, primary: Primary) -> float:
    return float(primary(ours)[0] - primary(theirs)[0])


def _resampled(
    ours: pa.Array, theirs: pa.Array, primary: Primary, samples: int, seed: int
) -> np.ndarray:
    """Returns the difference of two models in each sample, float64 ``[samples]``."""
    if len(ours) != len(theirs):
        raise ValueError(f"not the same images: {len(ours)} against {len(theirs)}")
    return np.concatenate(
        [
            primary(ours, draws) - primary(theirs, draws)
            for draws in drawn(len(ours), samples, seed)
        ]
    )


def drawn(images: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields how often each image is drawn, int64 ``[some samples, images]``.

    Args:
      images: number of images.
      samples: number of bootstrap samples.
      seed: seed of the resampling.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    most = max(1, MOST_COUNTS // images)
    for start in range(0, samples, most):
        rows = min(most, samples - start)
        drawn = rng.integers(images, size=(rows, images))
        drawn += images * np.arange(rows)[:, None]
        counts = np.bincount(drawn.reshape(-1), minlength=rows * images)
        yield counts.reshape(rows, images)


def _defined(values: np.ndarray) -> np.ndarray:
    """Leaves out samples that have nothing by which to measure, which give NaN."""
    return values[~np.isnan(values)]


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    if not len(values):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)

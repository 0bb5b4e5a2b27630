"""What several seeds say of a difference: intervals, and verdicts on claims.

The variance of a mean difference has two parts: that of seeds, which draw labels,
initial weights and noise, and that of test images, where all seeds share them. Both are
added, which counts the noise of single images twice and is thus careful.
"""

import dataclasses
import math
from collections.abc import Sequence

from scipy import stats

MOST_SEEDS = 1000
"""More seeds than these are not asked for."""
HOLDS, FAILS, UNKNOWN = "holds here", "does not hold here", "cannot tell"


@dataclasses.dataclass(frozen=True)
class Compared:
    """A paired difference over seeds.

    Attributes:
      gaps: the difference of each seed.
      images: variance of the mean difference by the choice of test images; 0 where
        seeds have test images of their own, whose variance is among the seeds'.
      level: confidence level of the interval, corrected for the number of comparisons.
      p: two-sided p-value of a difference of zero; NaN for one seed.
    """

    gaps: tuple[float, ...]
    images: float
    level: float = 0.95
    p: float = math.nan

    @property
    def mean(self) -> float:
        """Mean of the differences."""
        return sum(self.gaps) / len(self.gaps)

    @property
    def error(self) -> float:
        """Standard error of the mean; NaN for one seed."""
        return math.sqrt(self._variance(len(self.gaps)))

    @property
    def interval(self) -> tuple[float, float]:
        """Student's interval of the mean; NaN for one seed."""
        half = self._half(len(self.gaps))
        return self.mean - half, self.mean + half

    @property
    def seeds_needed(self) -> int | None:
        """Number of seeds at which this mean would be told from zero.

        None where no number would do: the test images are too few, or there is one
        seed.
        """
        first = len(self.gaps) + 1
        return next(
            (n for n in range(first, MOST_SEEDS) if abs(self.mean) > self._half(n)),
            None,
        )

    def _spread(self) -> float:
        """Variance between seeds; NaN for one seed."""
        if len(self.gaps) < 2:
            return math.nan
        return sum((gap - self.mean) ** 2 for gap in self.gaps) / (len(self.gaps) - 1)

    def _variance(self, seeds: int) -> float:
        return self._spread() / seeds + self.images

    def _half(self, seeds: int) -> float:
        """Half of the interval's width, were there as many seeds."""
        if len(self.gaps) < 2:
            return math.nan
        quantile = stats.t.ppf((1 + self.level) / 2, seeds - 1)
        return float(quantile) * math.sqrt(self._variance(seeds))


def compared(gaps: Sequence[float], images: float) -> Compared:
    """Compares two variants by their differences, with a p-value by Student's t."""
    one = Compared(tuple(gaps), images)
    if len(gaps) < 2:
        return one
    if not one.error:
        return dataclasses.replace(one, p=0.0 if one.mean else 1.0)
    p = 2 * stats.t.sf(abs(one.mean) / one.error, len(gaps) - 1)
    return dataclasses.replace(one, p=float(p))


def holm(found: Sequence[Compared], *, confidence: float = 0.95) -> list[Compared]:
    """Widens intervals for the number of comparisons (Holm, 1979).

    The smallest of m p-values is compared at a level of alpha / m, the next at alpha /
    (m − 1), up to the first that is not significant; that and all later ones have its
    level.

    Args:
      found: the comparisons.
      confidence: 1 − alpha, of all of them together.
    """
    order = sorted(range(len(found)), key=lambda n: _or_one(found[n].p))
    levels, alpha, going = {}, 1 - confidence, True
    for rank, number in enumerate(order):
        if going:
            own = alpha / (len(found) - rank)
            going = _or_one(found[number].p) <= own
        levels[number] = 1 - own
    return [
        dataclasses.replace(one, level=levels[number])
        for number, one in enumerate(found)
    ]


def verdict(one: Compared, *, margin: float) -> str:
    """Judges the claim that a difference is above zero.

    Args:
      one: the comparison, with its corrected level.
      margin: a difference within this of zero is none.

    Returns:
      `HOLDS`, `FAILS` or `UNKNOWN`.
    """
    low, high = one.interval
    if math.isnan(low):
        return UNKNOWN
    if low > 0:
        return HOLDS
    return FAILS if high < 0 or (low > -margin and high < margin) else UNKNOWN


def says(one: Compared, *, margin: float) -> str:
    """Says in a phrase what a comparison tells about a claim."""
    judged = verdict(one, margin=margin)
    if judged != UNKNOWN:
        return judged
    if len(one.gaps) < 2:
        return f"{UNKNOWN}: one seed says nothing of others"
    seeds = one.seeds_needed
    if seeds is None:
        return f"{UNKNOWN}: no number of seeds would do, it takes more test images"
    return f"{UNKNOWN}: it would take about {seeds} seeds"


def _or_one(p: float) -> float:
    return 1.0 if math.isnan(p) else p

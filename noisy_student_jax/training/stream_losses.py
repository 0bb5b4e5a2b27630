"""Warns where the pseudo-labeled images' loss is out of proportion."""

from collections.abc import Iterable, Mapping

from noisy_student_jax.core.types import STREAMS

WINDOW = 50
"""Steps over which losses are averaged; fewer where the training has fewer."""
TIMES = 100
"""A pseudo-labeled loss of so many times the labeled one is warned of."""
LABELED, PSEUDO = (f"{stream}/loss" for stream in STREAMS)


class StreamLosses:
    """Compares the mean losses of both streams over windows of steps, and warns once.

    The labeled loss is the highest so far: few labeled images are learned by heart, and
    a loss near zero is no measure of the other.

    Args:
      steps: number of steps of the training.
      earlier: logged metrics of the steps before the first.
    """

    def __init__(self, steps: int, earlier: Iterable[Mapping[str, float]] = ()):
        self._window = max(1, min(WINDOW, steps))
        self._highest = max((one.get(LABELED) or 0.0 for one in earlier), default=0.0)
        self._sums = {LABELED: 0.0, PSEUDO: 0.0}
        self._count = 0
        self._warned = False

    def add(self, metrics: Mapping[str, float], step: int) -> str | None:
        """Adds the metrics of a step.

        Args:
          metrics: of the step; the losses may be missing.
          step: number of the step, from 1.

        Returns:
          A warning, the first time that there is one.
        """
        for name in self._sums:
            self._sums[name] += metrics.get(name, 0.0)
        self._count += 1
        if self._count < self._window:
            return None
        labeled, pseudo = (total / self._count for total in self._sums.values())
        first = step - self._count + 1
        self._sums, self._count = dict.fromkeys(self._sums, 0.0), 0
        self._highest = max(self._highest, labeled)
        if self._warned or not self._highest or pseudo < TIMES * self._highest:
            return None
        self._warned = True
        return (
            f"the loss of pseudo-labeled images is {pseudo / self._highest:,.0f} times"
            f" the highest of labeled ones: {pseudo:.3g} in the mean of steps"
            f" {first:,} to {step:,} against {self._highest:.3g}, so that pseudo-labels"
            " drown the labels; look at some pseudo-labels, select surer ones with"
            " --config.selection.min_score=SCORE, or lower config.train.ratio or"
            " config.train.learning_rate"
        )

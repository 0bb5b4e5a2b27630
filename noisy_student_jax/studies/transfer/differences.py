"""Paired differences of models over draws and images, and the effects that they show.

Draws and test images are resampled each by itself, and all models by the same samples
(Owen 2007, "The pigeonhole bootstrap", whose intervals are rather too wide than too
narrow).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from noisy_student_jax.evaluation import resampling
from noisy_student_jax.report import formatting
from noisy_student_jax.studies.transfer.checkpoints import (
    CONTROL,
    STUDENT,
    TEACHER,
    WITHOUT_NOISE,
    Checkpoint,
)

CONFIDENCE = 0.95
SAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of two models' accuracies.

    Attributes:
      value: ours minus theirs.
      low: lower end of its interval.
      high: upper end of its interval.
    """

    value: float
    low: float
    high: float

    @property
    def outcome(self) -> str:
        """What it says of our model."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "cannot tell"

    def __str__(self) -> str:
        """Formats it in points, with its interval."""
        ends = formatting.interval((self.low, self.high), signed=True)
        return f"{formatting.points(self.value)} {ends}"


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a pair of models says of one ingredient.

    Attributes:
      name: the ingredient.
      ours: name of the model that has it, or has more of it.
      theirs: name of the other model.
    """

    name: str
    ours: str
    theirs: str


class Measure:
    """One measure of all models, such as the probe with five shots."""

    def __init__(self, right: Mapping[str, np.ndarray]):
        """Resamples draws and images.

        Args:
          right: by model, bool ``[draws, test images]``; of the same draws and images.
        """
        self.names = list(right)
        found = np.stack([right[name] for name in self.names]).astype(np.float64)
        self._means = found.mean(axis=(1, 2))
        self._sampled = _resampled(found)

    def accuracy(self, name: str) -> float:
        """Returns a model's mean accuracy."""
        return float(self._means[self.names.index(name)])

    def difference(self, ours: str, theirs: str) -> Difference:
        """Returns the difference of two models, with its interval."""
        us, them = self.names.index(ours), self.names.index(theirs)
        tail = (1 - CONFIDENCE) / 2
        gaps = self._sampled[us] - self._sampled[them]
        low, high = np.quantile(gaps, [tail, 1 - tail])
        return Difference(
            float(self._means[us] - self._means[them]), float(low), float(high)
        )


def _resampled(right: np.ndarray) -> np.ndarray:
    """Returns the mean of each model in each sample, float64 ``[models, samples]``.

    Args:
      right: float64 ``[models, draws, test images]``.
    """
    _, draws, images = right.shape
    rng = np.random.Generator(np.random.Philox(1))
    counts = rng.multinomial(draws, np.full(draws, 1 / draws), size=SAMPLES)
    by_draw = np.concatenate(
        [right @ drawn.T for drawn in resampling.drawn(images, SAMPLES, 0)], axis=2
    )
    return np.einsum("mds,sd->ms", by_draw, counts) / (draws * images)


def effects(models: Sequence[Checkpoint]) -> list[Effect]:
    """Returns the pairs of models that tell the effect of one ingredient.

    They are found by the names and sizes of models: a student beside the control of its
    size; a larger student beside a smaller one, or else a larger control beside the
    teacher; a student beside one of its size that was trained without noise.

    Args:
      models: the models.
    """
    named = {one.name: one for one in models}
    students = [one for one in models if one.name.startswith(STUDENT)]
    found = []

    def beside(name: str, effect: str) -> None:
        """Adds the last student that is as large as a model of this name."""
        other = named.get(name)
        alike = [one for one in students if other and is_alike(one, other)]
        if other and alike:
            found.append(Effect(effect, alike[-1].name, name))

    beside(CONTROL, "self-training")
    largest = max(students, key=lambda one: one.parameters, default=None)
    smallest = min(students, key=lambda one: one.parameters, default=None)
    teacher, control = named.get(TEACHER), named.get(CONTROL)
    if largest and smallest and largest.parameters > smallest.parameters:
        found.append(Effect("capacity", largest.name, smallest.name))
    elif teacher and control and control.parameters > teacher.parameters:
        found.append(Effect("capacity", CONTROL, TEACHER))
    beside(WITHOUT_NOISE, "noise")
    return found


def is_alike(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two models have backbones of one architecture and size."""
    architectures = {one.bundle.architecture, other.bundle.architecture}
    return len(architectures) == 1 and one.parameters == other.parameters

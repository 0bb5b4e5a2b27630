"""Predictions for labeled images by heads that have not learned from them.

Trainings that leave labeled images out in turn write them beside the model. They tell
what to expect of pseudo-labels before a student learns from them, and take the place of
validation images where a dataset is cross-fitted.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from noisy_student_jax.config import ConfigDict
from noisy_student_jax.core import files
from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.data.sources import Dataset, labels_of
from noisy_student_jax.evaluation import statistics
from noisy_student_jax.features.heads import FOLDS
from noisy_student_jax.runs.paths import OUT_OF_FOLD
from noisy_student_jax.runs.run import Generation
from noisy_student_jax.runs.spec import compared_with, solves

MOST_FOLD_LABELS = 1 << 28
"""Probabilities, over folds and pool, up to which students are cross-fitted."""

NAMED = 10
"""Number of classes that a sentence names."""


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Predictions for labeled images, each by a head that it was left out of.

    Attributes:
      keys: key of each image.
      truth: int ``[images]``.
      predictions: predictions as a task gives them, ``[images, …]``.
    """

    keys: list[str]
    truth: np.ndarray
    predictions: Arrays


def left_out(student: Generation) -> LeftOut | None:
    """Reads a training's predictions for images left out, or None without any."""
    path = student.paths.training / OUT_OF_FOLD
    if not files.is_file(path):
        return None
    table = files.read_parquet(path, columns=["key", "truth", "probabilities"])
    probabilities = np.array(table["probabilities"].to_pylist(), np.float32)
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    predictions = student.run.task.predict({"logits": jnp.asarray(logits)})
    arrays = {name: np.asarray(value) for name, value in predictions.items()}
    if "probabilities" in arrays:
        arrays["probabilities"] = probabilities  # not rounded once more
    return LeftOut(
        keys=table["key"].to_pylist(),
        truth=table["truth"].to_numpy(),
        predictions=arrays,
    )


def cross_fitted(student: Generation) -> LeftOut:
    """Returns the predictions that take the place of those for validation images.

    Raises:
      UserError: the training has left no image out.
    """
    found = left_out(student)
    if found is None:
        raise UserError(_refused(f"{student.spec.name} was trained without"))
    return found


def refuse(config: ConfigDict, *, dataset: Dataset | None = None) -> None:
    """Checks that labeled images can be left out of all trainings of a run in turn.

    Args:
      config: a complete config.
      dataset: the data; None to check what the config alone tells.

    Raises:
      UserError: they cannot.
    """
    why = obstacle(config)
    if why is None and dataset is not None:
        sizes = np.unique(labels_of(dataset.labeled), return_counts=True)[1]
        if sizes.max() < 2:
            why = "no class has two of them"
        if is_too_much(len(dataset.pool), len(dataset.classes)):
            why = "the pool is too large to be labeled once for each part of them"
    if why is not None:
        raise UserError(_refused(why))


def _refused(why: str) -> str:
    return (
        "config.data.validation_fraction is 0, so that each labeled image would be left"
        f" out of all trainings in turn, but {why}: hold some out with"
        " --config.data.validation_fraction=0.1, or give others with"
        " --config.validation=DIR"
    )


def obstacle(config: ConfigDict) -> str | None:
    """Says why labeled images cannot be left out of a config's trainings in turn.

    Args:
      config: a complete config.

    Returns:
      A phrase; None if they can.
    """
    if config.teacher is not None:
        return "the teacher that is given may have learned from any"
    trained = [(f"generation_{k}", one) for k, one in enumerate(config.generations)]
    trained += [(name, config[name]) for name in compared_with(config)]
    for name, sections in trained:
        if not solves(sections):
            return (
                f"{name} is no head that is solved (--config.train=head"
                " --config.train.optimizer=lbfgs)"
            )
    for number, sections in enumerate(config.generations[1:], 1):
        selection = sections.selection
        if selection.method != "all" or (selection.relabel and number > 1):
            return (
                f"generation_{number} does not learn from pseudo-labels at their"
                " natural shares (--config.selection.method=all, and no relabel)"
            )
    return None


def is_too_much(pool: int, classes: int) -> bool:
    """Whether a pool has too many labels to be kept once for each fold."""
    return FOLDS * pool * classes > MOST_FOLD_LABELS


@dataclasses.dataclass(frozen=True)
class Precision:
    """How many selected pseudo-labels are right, going by labeled images left out.

    Attributes:
      images: number of labeled images that were left out in turn.
      taken: int ``[classes]``, those of them that are given the class and score as its
        selected pseudo-labels do.
      right: int ``[classes]``, those of these that are of the class.
    """

    images: int
    taken: np.ndarray
    right: np.ndarray

    @property
    def overall(self) -> float | None:
        """The share that is right; None if no image scores as the selected do."""
        taken = int(self.taken.sum())
        return int(self.right.sum()) / taken if taken else None

    def classes(self) -> list[int]:
        """Returns the classes with such an image, the least precise first."""
        share = self.right / np.maximum(self.taken, 1)
        order = np.lexsort((-self.taken, share)).tolist()
        return [label for label in order if self.taken[label]]


def expected_precision(
    teacher: Generation, selection: dict[str, Any]
) -> Precision | None:
    """Counts how many of the selected pseudo-labels are expected to be right.

    Args:
      teacher: the model that labeled.
      selection: the contents of ``selection.json``.

    Returns:
      None without images left out.
    """
    found = left_out(teacher)
    if found is None:
        return None
    task = teacher.run.task
    lowest = [np.inf if one is None else one for one in selection["thresholds"]]
    if selection["method"] == "all":
        # One threshold for all classes.
        lowest = [min(lowest)] * len(lowest)
    label, score = task.bucket(found.predictions), task.score(found.predictions)
    taken, right = statistics.taken_and_right(
        label, score, found.truth, lowest=np.array(lowest)
    )
    return Precision(len(label), taken, right)


def told(precision: Precision, classes: Sequence[str]) -> str:
    """Says how many of the selected pseudo-labels are expected to be right.

    Args:
      precision: see `expected_precision`.
      classes: class names in index order.
    """
    if precision.overall is None:
        return (
            f"none of the {precision.images:,} labeled images, each left out in turn,"
            " scores as the selected do: what to expect of these is not known"
        )
    taken, right = precision.taken, precision.right
    names, order = [printable(str(name)) for name in classes], precision.classes()
    said = [f"{names[k]} {right[k] / taken[k]:.0%} of {taken[k]:,}" for k in order]
    if len(order) > NAMED:
        said[NAMED:] = [f"{len(order) - NAMED:,} more, no less precise"]
    if bare := [names[k] for k in np.flatnonzero(taken == 0)]:
        more = f" and {len(bare) - NAMED:,} more" if len(bare) > NAMED else ""
        said.append(f"no such image of {', '.join(bare[:NAMED])}{more}")
    return (
        f"expected to be right: {precision.overall:.1%} of the selected, if all are of"
        f" these classes, going by {taken.sum():,} labeled images that were left out"
        f" and score as they do; by class {', '.join(said)}"
    )

"""Predictions for labeled images by heads that have not learned from them.

Trainings that leave labeled images out in turn write them beside the model. They tell
what to expect of pseudo-labels before a student learns from them.
"""

import dataclasses
from typing import Any

import numpy as np

from noisy_student_jax.core import files
from noisy_student_jax.core.console import printable
from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.evaluation import statistics
from noisy_student_jax.runs.paths import OUT_OF_FOLD
from noisy_student_jax.runs.run import Generation

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
    return LeftOut(
        keys=table["key"].to_pylist(),
        truth=table["truth"].to_numpy(),
        predictions={"probabilities": probabilities},
    )


def expected_precision(teacher: Generation, selection: dict[str, Any]) -> str | None:
    """Says how many of the selected pseudo-labels are right, going by images left out.

    Args:
      teacher: the model that labeled.
      selection: the contents of ``selection.json``.

    Returns:
      A sentence with the classes of lowest precision; None without images left out.
    """
    found, task = left_out(teacher), teacher.run.task
    if found is None:
        return None
    lowest = [np.inf if one is None else one for one in selection["thresholds"]]
    if selection["method"] == "all":
        # One threshold for all classes.
        lowest = [min(lowest)] * len(lowest)
    label, score = task.bucket(found.predictions), task.score(found.predictions)
    taken, right = statistics.taken_and_right(
        label, score, found.truth, lowest=np.array(lowest)
    )
    if not taken.any():
        return (
            f"none of the {len(label):,} labeled images, each left out in turn, scores"
            " as the selected do: what to expect of these is not known"
        )
    share = np.divide(right, taken, out=np.ones(len(taken)), where=taken > 0)
    order = [k for k in np.lexsort((-taken, share)).tolist() if taken[k]]
    names = [printable(str(name)) for name in teacher.run.dataset.classes]
    told = [f"{names[k]} {share[k]:.0%} of {taken[k]:,}" for k in order[:NAMED]]
    if len(order) > NAMED:
        told.append(f"{len(order) - NAMED:,} more, no less precise")
    if unknown := int((taken == 0).sum()):
        told.append(f"{unknown:,} class{'es' * (unknown > 1)} without such an image")
    return (
        f"expected to be right: {right.sum() / taken.sum():.1%} of the selected, going"
        f" by {taken.sum():,} labeled images that were left out and score as they do;"
        f" by class {', '.join(told)}"
    )

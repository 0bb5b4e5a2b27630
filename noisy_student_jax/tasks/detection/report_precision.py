"""The report's section on precision and recall: curves, and scores to cut at."""

import math
from collections.abc import Sequence

import numpy as np

from noisy_student_jax.core.errors import UserError, cause
from noisy_student_jax.core.protocols import ReportContext
from noisy_student_jax.core.sections import (
    Beside,
    Block,
    Curve,
    Curves,
    Heading,
    Model,
    Section,
    Table,
    Text,
)
from noisy_student_jax.tasks.detection import average_precision, judged
from noisy_student_jax.tasks.detection.judged import Judged

MOST_CLASSES = 6
"""Number of classes that have charts, those with the most boxes."""
MOST_POINTS = 300
"""Points of a curve that are drawn."""


def section(context: ReportContext, names: Sequence[str]) -> Section:
    """Returns the table of scores to cut at, and precision–recall curves."""
    blocks: list[Block] = []
    best = context.best
    test = _read(best, blocks)
    if test is not None:
        blocks += [Heading("Scores to cut at"), _cuts(best, test, names)]
        rival = _rival(context)
        other = None if rival is None else _read(rival, blocks)
        blocks += _curves([(best, test), (rival, other)], names)
    return Section("precision", "Precision", "Precision and recall", blocks)


def _rival(context: ReportContext) -> Model | None:
    """Returns the control, or the last generation where the control is the best."""
    best = context.best
    others = [one for one in context.models if one.is_generation != best.is_generation]
    if best.is_generation:
        others = [one for one in others if one.title == "control"]
    return others[-1] if others else None


def _read(one: Model, blocks: list[Block]) -> Judged | None:
    try:
        return judged.read(one.predictions)
    except (UserError, OSError, ValueError) as error:
        blocks.append(
            Text(f"{one.title} cannot be shown: {cause(error)}.", missing=True)
        )
        return None


def _cuts(model: Model, test: Judged, names: Sequence[str]) -> Block:
    """Returns which score to cut at, by validation, and what comes of it on test."""
    try:
        lowest = judged.cuts(judged.read(model.validation).statistics)
    except (UserError, OSError, ValueError) as error:
        return Text(f"No score to cut at is known: {cause(error)}.", missing=True)
    rows = []
    curves = average_precision.curves(test.statistics)
    for name, score, curve in zip(names, lowest.tolist(), curves, strict=True):
        precision, recall = map(_defined, judged.at(curve, score))
        rows.append([name, f"{score:.2f}", precision, recall])
    return Table(
        "Scores to cut at",
        f"Where to cut the boxes of {model.title}: the score with the highest F1 on"
        " validation images, and what it gives on test images (a hit overlaps by half)",
        ("Class", "Score", "Precision", "Recall"),
        rows,
    )


def _curves(
    models: Sequence[tuple[Model | None, Judged | None]], names: Sequence[str]
) -> list[Block]:
    found = [
        (model.title, average_precision.curves(one.statistics))
        for model, one in models
        if model is not None and one is not None
    ]
    boxes = [curve.boxes for curve in found[0][1]]
    charts: list[Block] = []
    for label in most_frequent(boxes):
        lines = [
            _line(title, curves[label], dashed=number > 0)
            for number, (title, curves) in enumerate(found)
        ]
        charts.append(Curves(names[label], "recall", "precision", lines))
    if not charts:
        return []
    says = (
        "Precision by recall as boxes of lower and lower scores are taken in. A box is"
        " right if it overlaps a true one of its class by half (an IoU of 0.5)."
    )
    says += left_out(len(names))
    return [Heading("Precision by recall"), Text(says), Beside(charts)]


def most_frequent(boxes: Sequence[int]) -> list[int]:
    """Returns the `MOST_CLASSES` classes with the most boxes, in their order."""
    order = sorted(range(len(boxes)), key=lambda n: (-boxes[n], n))
    return sorted(label for label in order[:MOST_CLASSES] if boxes[label])


def left_out(classes: int) -> str:
    """Says that not all classes have a chart, where they have not."""
    if classes <= MOST_CLASSES:
        return ""
    return f" Of {classes:,} classes the {MOST_CLASSES} with the most boxes are drawn."


def _line(title: str, curve: average_precision.Curve, *, dashed: bool) -> Curve:
    points = np.stack([curve.recall, curve.precision], axis=1)
    if len(points) > MOST_POINTS:
        points = points[np.linspace(0, len(points) - 1, MOST_POINTS).astype(int)]
    return Curve(title, points, dashed=dashed, kind=1 if dashed else 0)


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value

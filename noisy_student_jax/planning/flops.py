"""Counts a student's images, passes over the data, FLOPs and chip-hours."""

import math

from noisy_student_jax import models
from noisy_student_jax.config import ConfigDict
from noisy_student_jax.config.accelerators import CHIPS
from noisy_student_jax.generation.streams import labeled_draws
from noisy_student_jax.runs.run import Generation

BACKWARD = 2
"""FLOPs of the backward pass relative to the forward pass, approximately."""


def images(student: Generation) -> dict[str, int]:
    """Counts the images in the forward passes of a student's model, once for each view.

    Returns:
      ``train``: images drawn in training, which are passed backward too; ``label``:
      images of the pool, 0 for the last generation and the baselines; ``evaluate``:
      validation images during training, and validation and test images after it, with
      raw and averaged weights.
    """
    run, spec = student.run, student.spec
    labels = not spec.role.labels_only and spec.generation != run.last
    steps = spec.schedule.steps
    validations = math.ceil(steps / run.config.log.validate_every_steps)
    evaluated = validations * len(run.dataset.validation)
    if not spec.refined:
        evaluated += sum(map(len, run.dataset.predicted().values()))
    else:
        # The model fine-tuned by FixRes labels the pool and is tested.
        labels = False
    views = spec.model.views
    return {
        "train": steps * spec.layout.total,
        "label": views * labels * len(run.dataset.pool),
        "evaluate": 2 * views * evaluated,
    }


def feature_images(student: Generation) -> dict[str, int]:
    """Counts the images whose features a frozen backbone computes, by stage.

    Students reuse the features of an earlier model of the same backbone, and baselines
    the last student's.
    """
    data, labels = student.run.dataset, student.spec.generation != student.run.last
    if student.spec.role.labels_only or _has_a_known_backbone(student):
        return {"train": 0, "label": 0, "evaluate": 0}
    pool, seen = len(data.pool), student.spec.model.views
    taught = bool(student.spec.teacher)
    return {
        "train": seen * (len(data.labeled) + taught * pool),
        "label": seen * pool if labels and not taught else 0,
        "evaluate": seen * sum(map(len, data.predicted().values())),
    }


def solved_rows(student: Generation) -> int:
    """Returns the most rows, views of images, that a head is solved on."""
    data, spec = student.run.dataset, student.spec
    records = len(data.labeled) + bool(spec.teacher) * len(data.pool)
    return records * spec.model.views


def _has_a_known_backbone(student: Generation) -> bool:
    """Whether earlier generations have computed features of all of its networks."""
    known: set[tuple] = set()
    for earlier in student.run.students:
        if earlier.spec.name == student.spec.name:
            break
        if earlier.spec.config.train.part == "head":
            known |= _networks(earlier)
    return _networks(student) <= known


def _networks(student: Generation) -> set[tuple]:
    """Returns the networks of a student's model, once for each view."""
    model, spec = student.spec.config.model, student.spec.model
    return {
        (member, spec.resolution, model.init, view)
        for member in models.members(spec.name, model.members)
        for view in range(spec.views)
    }


def flops(student: Generation) -> dict[str, float]:
    """Returns the FLOPs for the counts of `images`.

    A block that is recomputed for the backward pass (``model.remat``) counts once. A
    head on a frozen backbone counts as nothing.
    """
    counts = images(student)
    counts["train"] *= 1 + BACKWARD
    if student.spec.config.train.part == "head":
        counts = feature_images(student)
    found = {name: float(student.cost.flops * count) for name, count in counts.items()}
    if shown := student.spec.taught_by:
        taught = student.spec.schedule.steps * student.spec.layout.pseudo * shown.views
        found["train"] += float(taught * student.run.costs.of(shown).flops)
    return found


def draws_per_epoch(student: Generation) -> int:
    """Returns the number of draws in an epoch of a student's second stream.

    For pseudo-labels it is an upper bound, reached if every class has a record to draw:
    the number of records that pass the score threshold is unknown before labeling, and
    so are draws that a task's chooser adds.
    """
    data, selection = student.run.dataset, student.spec.config.selection
    if not student.spec.teacher:
        return len(labeled_draws(student.run))
    if selection.method == "all":
        return max(1, round(selection.share * len(data.pool)))
    full = selection.per_class * len(data.classes)
    if selection.max_copies is None:
        return full
    return min(full, selection.max_copies * len(data.pool))


def passes(student: Generation) -> dict[str, float]:
    """Returns the number of passes of each stream over its records."""
    layout, steps = student.spec.layout, student.spec.schedule.steps
    found = {"labeled": steps * layout.labeled / len(labeled_draws(student.run))}
    if layout.pseudo:
        found["pseudo"] = steps * layout.pseudo / draws_per_epoch(student)
    return found


def chip_hours(operations: float, plan: ConfigDict) -> float:
    """Converts FLOPs to hours of one chip.

    Args:
      operations: FLOPs.
      plan: the config's ``plan`` section, with a chip and its utilization.
    """
    return operations / (CHIPS[plan.chip].peak_flops * plan.utilization) / 3600

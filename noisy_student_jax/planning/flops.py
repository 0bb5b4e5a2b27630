"""What a student takes: images, passes over the data, FLOPs, hours of a chip."""

import math

from noisy_student_jax.config import ConfigDict
from noisy_student_jax.config.accelerators import CHIPS
from noisy_student_jax.runs.run import Generation

BACKWARD = 2
"""The backward pass costs about twice the forward one."""


def images(student: Generation) -> dict[str, int]:
    """Returns how many images pass through a student's model, forward.

    Returns:
      ``train``: drawn in training, and passed backward too; ``label``: of the pool,
      which the last generation, and what it is compared with, do not; ``evaluate``:
      with raw and averaged weights, on validation images in training and on
      validation and test images after it.
    """
    run, spec = student.run, student.spec
    labels = not spec.role.labels_only and spec.generation != run.last
    steps = spec.schedule.steps
    validations = math.ceil(steps / run.config.log.validate_every_steps)
    evaluated = validations * len(run.dataset.validation)
    if not spec.refined:
        evaluated += len(run.dataset.validation) + len(run.dataset.test)
    else:
        # What FixRes makes of it labels, and is tested.
        labels = False
    return {
        "train": steps * spec.layout.total,
        "label": labels * len(run.dataset.pool),
        "evaluate": 2 * evaluated,
    }


def passed_once(student: Generation) -> dict[str, int]:
    """Returns the images that a frozen body computes features of, and in which stage.

    What a model learns from alone to be compared with has the last student's features.
    """
    data, labels = student.run.dataset, student.spec.generation != student.run.last
    if student.spec.role.labels_only:
        return {"train": 0, "label": 0, "evaluate": 0}
    pool = len(data.pool)
    return {
        "train": len(data.labeled) + bool(student.spec.teacher) * pool,
        "label": pool if labels and not student.spec.teacher else 0,
        "evaluate": len(data.validation) + len(data.test),
    }


def flops(student: Generation) -> dict[str, float]:
    """Returns the floating point operations behind `images`.

    A block that is computed again for the backward pass (``model.remat``) counts
    once: it is a price, not a use. A head on a frozen body costs next to nothing.
    """
    counts = images(student)
    counts["train"] *= 1 + BACKWARD
    if student.spec.config.train.part == "head":
        counts = passed_once(student)
    found = {name: float(student.cost.flops * count) for name, count in counts.items()}
    if shown := student.spec.taught_by:
        taught = student.spec.schedule.steps * student.spec.layout.pseudo
        found["train"] += float(taught * student.run.costs.of(shown).flops)
    return found


def draws_an_epoch(student: Generation) -> int:
    """Returns how many draws make an epoch of a student's second stream.

    For pseudo-labels it is an upper bound, which is reached if every class has a
    record to be drawn; how many records have a score that is high enough, no plan
    knows.
    """
    data, selection = student.run.dataset, student.spec.config.selection
    if not student.spec.teacher:
        return len(data.labeled)
    if selection.method == "all":
        return len(data.pool)
    full = selection.per_class * len(data.classes)
    if selection.max_copies is None:
        return full
    return min(full, selection.max_copies * len(data.pool))


def passes(student: Generation) -> dict[str, float]:
    """Returns how often each stream goes through its records."""
    layout, steps = student.spec.layout, student.spec.schedule.steps
    found = {"labeled": steps * layout.labeled / len(student.run.dataset.labeled)}
    if layout.pseudo:
        found["pseudo"] = steps * layout.pseudo / draws_an_epoch(student)
    return found


def chip_hours(operations: float, plan: ConfigDict) -> float:
    """Returns hours of one chip.

    Args:
      operations: floating point operations.
      plan: the config's ``plan`` section, with a chip and how much of its peak is
        used.
    """
    return operations / (CHIPS[plan.chip].peak_flops * plan.utilization) / 3600

"""Fits a config to a time budget with the smallest possible reductions.

The duration of a run on this machine is predicted from measured speeds: training,
labeling and evaluation of every generation and baseline. Nine tenths of the budget are
allotted; the rest covers reading, compiling and saving, which are not predicted.

A config that fits is left unchanged. Otherwise:

1. The steps of all models are reduced by one common whole percentage, to no less than
   40 %. Heads that are solved give up views in the same measure, down to one.
2. Where that is not enough, all images get smaller, in strides of 1.19 (two of them
   halve the work): to multiples of 16 pixels, of 8 below 128, never below 32. The
   largest size at which 40 % of the steps fit is chosen, with as many steps as fit. The
   cost of an image is assumed to be proportional to its area; the chosen size is also
   measured, and the next smaller one tried if it is slower than predicted. Models from
   outside the package keep their size, since they may not support another.
3. At the smallest size, steps are reduced below 40 %, with a warning.

Dependent fields follow. Warm-up and decay keep their share of the steps. Crops and
noise in pixels keep their share of the side, rounded to whole pixels but never to zero.

A larger budget therefore never gives smaller images, nor, for the same images, fewer
steps.
"""

import bisect
import functools
import itertools
import math
from typing import Any

from noisy_student_jax import models
from noisy_student_jax.config import decisions
from noisy_student_jax.config.decisions import Decision
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.planning import throughput
from noisy_student_jax.planning.speeds import of_machine
from noisy_student_jax.planning.throughput import Speed, Speeds
from noisy_student_jax.runs.run import Generation, Run

MARGIN = 0.9
LEAST_PERCENT = 40
LEAST_SIDE = 32
STRIDE = 1.19
IN_PIXELS = (
    "model.crop_padding",
    "fixres.resolution",
    *(
        f"noise.{stream}.{name}"
        for stream in ("labeled", "pseudo")
        for name in (
            "crop_padding",
            "cutout_size",
            "randaugment_cutout",
            "randaugment_translate",
        )
    ),
)


def fit(run: Run, *, hours: float, speeds: Speeds | None = None) -> list[Decision]:
    """Returns the reductions with which a run fits a time budget.

    Args:
      run: the run as configured.
      hours: the budget in hours, above 0.
      speeds: measures this machine's speed with a student; called once for students
        with the same cost. None for `of_machine`.

    Returns:
      The changes to the config, for `decisions.apply`; empty if the run fits.

    Raises:
      UserError: not even the smallest run fits.
    """
    speeds = throughput.remembered(speeds or of_machine(hours=hours))
    allowed = MARGIN * hours
    last = _last_stride(run)
    measured: dict[str, tuple[int, Speed]] = {}
    for strides in range(last + 1):
        if (
            0 < strides < last
            and _hours(run, strides, measured, LEAST_PERCENT) > allowed
        ):
            continue
        measured = _measured(_changed(run, strides, 100), speeds)
        taken = functools.partial(_hours, run, strides, measured)
        # The number of percentages that fit equals the largest of them.
        percent = bisect.bisect_right(range(1, 101), allowed, key=taken)
        if percent >= LEAST_PERCENT or (percent and strides == last):
            return _given_up(run, strides, percent, to_fit=f"fitted to {hours:g} h")
    # Five per cent more, so that two digits do not round below the need.
    needed = 1.05 * taken(1) / MARGIN
    raise UserError(
        f"config.budget_hours is {hours:g}, but here a hundredth of the steps, on the"
        f" smallest images, needs a budget of {needed:.2g}: give that, smaller models"
        " or a smaller pool"
    )


def _hours(
    run: Run, strides: int, measured: dict[str, tuple[int, Speed]], percent: int
) -> float:
    """Predicts the hours of a run with smaller images and fewer steps.

    Args:
      run: the run as configured.
      strides: number of strides by which the images are smaller.
      measured: measured side and speed of each student.
      percent: percentage of the steps that is kept.
    """
    total = 0.0
    for student in _changed(run, strides, percent):
        side, speed = measured[student.spec.name]
        speed = speed.scaled((side / student.spec.model.resolution) ** 2)
        total += throughput.hours(student, speed)["total"]
    return total


def _measured(
    students: list[Generation], speeds: Speeds
) -> dict[str, tuple[int, Speed]]:
    return {one.spec.name: (one.spec.model.resolution, speeds(one)) for one in students}


def _changed(run: Run, strides: int, percent: int) -> list[Generation]:
    """Returns the run's students with smaller images and fewer steps."""
    config = decisions.apply(run.config, _given_up(run, strides, percent))
    return run.reconfigured(config).students


def _given_up(
    run: Run, strides: int, percent: int, *, to_fit: str = ""
) -> list[Decision]:
    return [
        Decision(f"{student.spec.owner}.{field}", value, f"{to_fit}: {what}")
        for student in run.students
        # An adopted teacher cannot change.
        if not student.spec.adopted
        for field, value, what in [
            *_smaller_images(student, strides),
            *_fewer_steps(student, percent),
            *_fewer_views(student, percent),
        ]
    ]


def _fewer_steps(student: Generation, percent: int) -> list[tuple[str, Any, str]]:
    """Returns fields, their new values and the reasons."""
    train, asked = student.spec.config.train, student.spec.schedule.steps
    steps = max(1, asked * percent // 100)
    if percent == 100 or steps == asked or student.spec.solves:
        return []
    told = f"steps {asked:,} → {steps:,}"
    if percent < LEAST_PERCENT:
        told += ", too little to learn from: expect a poor result"
    changed: list[tuple[str, Any, str]] = [("train.steps", steps, told)]
    if train.epochs is not None:
        changed.append(("train.epochs", None, told))
    if student.spec.refined:
        finer = student.final.spec.schedule.steps
        fewer = max(1, round(finer * steps / asked))
        changed.append(("fixres.steps", fewer, told))
    for name in ("warmup_epochs", "decay_epochs"):
        value = train[name] * steps / asked
        if value != train[name]:
            told = "warm-up and decay of the learning rate shortened with the steps"
            changed.append((f"train.{name}", value, told))
    return changed


def _fewer_views(student: Generation, percent: int) -> list[tuple[str, Any, str]]:
    """Returns the views that a solved head gives up where others give up steps."""
    asked = student.spec.model.views
    if not student.spec.solves:
        return []
    share = max(0, percent - LEAST_PERCENT) / (100 - LEAST_PERCENT)
    views = max(1, math.ceil(asked * share))
    if views == asked:
        return []
    return [("model.views", views, f"views of an image {asked} → {views}")]


def _smaller_images(student: Generation, strides: int) -> list[tuple[str, Any, str]]:
    """Returns fields, their new values and the reasons."""
    side, asked = _side(student, strides), student.spec.model.resolution
    if side == asked:
        return []
    changed = [("model.resolution", side, f"images {asked} → {side} px")]
    for field in IN_PIXELS:
        value = functools.reduce(
            lambda part, name: part[name], field.split("."), student.spec.config
        )
        if not value:
            continue  # none, or not there
        pixels = max(1, round(value * side / asked))
        if pixels != value:
            told = "crops and noise in pixels scaled with the images"
            changed.append((field, type(value)(pixels), told))
    return changed


def _side(student: Generation, strides: int) -> int:
    asked = student.spec.model.resolution
    fixed = student.spec.adopted or not _takes_any_size(student)
    if not strides or fixed or asked <= LEAST_SIDE:
        return asked
    exact = asked / STRIDE**strides
    multiple = 16 if exact >= 128 else 8
    return min(asked, max(LEAST_SIDE, round(exact / multiple) * multiple))


def _takes_any_size(student: Generation) -> bool:
    return student.spec.model.name in models.names()


def _last_stride(run: Run) -> int:
    """Returns the number of strides after which all images have their smallest size."""

    def sides(strides: int) -> list[int]:
        return [_side(student, strides) for student in run.students]

    least = sides(100)
    return next(n for n in itertools.count() if sides(n) == least)

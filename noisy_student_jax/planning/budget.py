"""Fitting a config to the time that there is, by giving up as little as possible.

The time that a run takes here is told from measured speeds: training, labeling and
evaluation of every generation and of the control. Nine tenths of the budget are handed
out; the rest is for what the prediction does not count (reading, compiling, saving).

What fits as it is stays as it is. Else:

1. The steps of all are cut, by one common whole percentage, to no less than 40 %.
2. Where that is not enough, images get smaller for all, in strides of 1.19 (two of
   them halve the work): to multiples of 16 pixels, of 8 below 128, never below 32. At
   the largest size that 40 % of the steps fit at, as many steps are kept as do fit. An
   image is taken to cost as its area; the size that is chosen is measured as well, and
   the next smaller one tried if it is slower than thought. Models from outside the
   package keep their size, as nobody knows whether they take another.
3. At the smallest size steps are cut below 40 %, with a warning.

What is counted in other units follows. Warm-up and decay keep their share of the
steps. Crops and noise in pixels keep their share of the side, rounded to whole pixels,
and are never rounded off to none.

So a larger budget never gives smaller images, nor, for the same images, fewer steps.
"""

import bisect
import functools
import itertools
from typing import Any

from noisy_student_jax import models
from noisy_student_jax.config import decisions
from noisy_student_jax.config.decisions import Decision
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.planning import throughput
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


def fit(
    run: Run, *, hours: float, speeds: Speeds = throughput.measure
) -> list[Decision]:
    """Says what a run has to give up to be finished in time.

    Args:
      run: as it was asked for.
      hours: the budget, above 0.
      speeds: tells how fast this machine is with a student; asked once for students
        that cost the same.

    Returns:
      What to change in the config, for `decisions.apply`; nothing if the run fits.

    Raises:
      UserError: not even the smallest run fits.
    """
    allowed, speeds = MARGIN * hours, throughput.remembered(speeds)
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
        # As many percentages fit as the largest that does.
        percent = bisect.bisect_right(range(1, 101), allowed, key=taken)
        if percent >= LEAST_PERCENT or (percent and strides == last):
            return _given_up(run, strides, percent, to_fit=f"fitted to {hours:g} h")
    # Rounded up.
    needed = 1.05 * taken(1) / MARGIN
    raise UserError(
        f"config.budget_hours is {hours:g}, but here a hundredth of the steps, on the"
        f" smallest images, needs a budget of {needed:.2g}: give that, smaller models"
        " or a smaller pool"
    )


def _hours(
    run: Run, strides: int, measured: dict[str, tuple[int, Speed]], percent: int
) -> float:
    """Tells how long the whole run takes, with less of both.

    Args:
      run: as it was asked for.
      strides: by how many the images are smaller.
      measured: for each student the side that it was measured at, and its speed.
      percent: of the steps.
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
        # A given teacher is what it is.
        if not student.spec.adopted
        for field, value, what in [
            *_smaller_images(student, strides),
            *_fewer_steps(student, percent),
        ]
    ]


def _fewer_steps(student: Generation, percent: int) -> list[tuple[str, Any, str]]:
    """Returns fields, values and what to tell."""
    train, asked = student.spec.config.train, student.spec.schedule.steps
    steps = max(1, asked * percent // 100)
    if percent == 100 or steps == asked:
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


def _smaller_images(student: Generation, strides: int) -> list[tuple[str, Any, str]]:
    """Returns fields, values and what to tell."""
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
    """Returns after how many strides all images are as small as they may be."""

    def sides(strides: int) -> list[int]:
        return [_side(student, strides) for student in run.students]

    least = sides(100)
    return next(n for n in itertools.count() if sides(n) == least)

"""Automatic decisions about config fields, each with its reason."""

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from ml_collections.config_flags import config_path

from noisy_student_jax.config import ConfigDict
from noisy_student_jax.config.schema import LABELS_ONLY, OWNER


@dataclasses.dataclass(frozen=True)
class Decision:
    """A new value for a config field.

    Attributes:
      field: its path in a complete config, as in ``generations[1].train.steps``.
      value: its new value.
      why: the reason, as a phrase for messages.
    """

    field: str
    value: Any
    why: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts about data and machine that decisions depend on.

    Attributes:
      machine: ``cpu`` or ``accelerator``.
      shorter_side: median of the images' shorter sides, in pixels.
      labeled: number of labeled training images.
      pool: number of unlabeled images.
      classes: number of classes.
      median_class: labeled images of the median class, without test images.
      pretrained: models with installed published weights.
      small_box: of boxes, the side that nine of ten exceed, in units of the image's
        longer side; None of images without boxes.
    """

    machine: str
    shorter_side: int
    labeled: int
    pool: int
    classes: int
    median_class: float
    pretrained: tuple[str, ...] = ()
    small_box: float | None = None


GENERATIONS = "generations"
"""The field of a decision about how many of the generations there are."""


def apply(config: ConfigDict, decisions: Sequence[Decision]) -> ConfigDict:
    """Returns a copy of a complete config with all decisions applied."""
    changed = copy.deepcopy(config)
    for decision in decisions:
        if decision.field == GENERATIONS:
            changed.generations = changed.generations[: decision.value]
        else:
            config_path.set_value(decision.field, changed, decision.value)
    return changed


def reasons(decisions: Sequence[Decision]) -> list[str]:
    """Returns the distinct reasons, each with the models that it is for.

    Those that are for all models that decisions are about are not named. Decisions
    without a reason are not told. What is decided of one field stands together.
    """
    owners: dict[str, list[str]] = {}
    fields: dict[str, list[str]] = {}
    for one in decisions:
        found = OWNER.match(one.field)
        field = OWNER.sub("", one.field)
        fields.setdefault(field, [])
        if one.why:
            owners.setdefault(one.why, []).extend(found.groups() if found else [])
            fields[field].append(one.why)
    every = set(itertools.chain(*owners.values()))
    return [
        f"{why} ({_named(every, own)})" if own and own != every else why
        for why in dict.fromkeys(itertools.chain(*fields.values()))
        for own in [set(owners[why])]
    ]


def _named(every: set[str], own: set[str]) -> str:
    """Returns the names of some owners of sections among all."""
    generations = {one for one in every if one.startswith(GENERATIONS)}
    first, *later = sorted(generations, key=lambda one: (len(one), one)) or [""]
    students = [one for one in later if one in own]
    names = ["teacher"] if first in own else []
    if students and students == later:
        names.append("students")
    elif students:
        numbers = ", ".join(str(later.index(one) + 1) for one in students)
        names.append(f"student{'s' * (len(students) > 1)} {numbers}")
    others = sorted(own - {first, *later})
    return ", ".join([*names, *(one.replace("_", "-") for one in others)])


def sections(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """Returns each path prefix with its sections, the shared ones last."""
    found = [(f"generations[{k}].", one) for k, one in enumerate(config.generations)]
    found += [(f"{name}.", config[name]) for name in LABELS_ONLY]
    return [*found, ("", config)]


def rung(owner: str, config: ConfigDict) -> int:
    """Returns the position on the ladder of an owner of sections."""
    if len(config.generations) == 1:
        return 0
    if owner.startswith("generations"):
        return int(owner.removeprefix("generations[").removesuffix("]."))
    return len(config.generations) - 1

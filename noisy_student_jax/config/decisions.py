"""Automatic decisions about config fields, each with its reason."""

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from ml_collections.config_flags import config_path

from noisy_student_jax.config import ConfigDict
from noisy_student_jax.config.schema import OWNER


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

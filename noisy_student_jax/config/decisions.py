"""Automatic decisions about config fields, each with its reason."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

from ml_collections.config_flags import config_path

from noisy_student_jax.config import ConfigDict


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


def apply(config: ConfigDict, decisions: Sequence[Decision]) -> ConfigDict:
    """Returns a copy of a complete config with all decisions applied."""
    changed = copy.deepcopy(config)
    for decision in decisions:
        config_path.set_value(decision.field, changed, decision.value)
    return changed


def reasons(decisions: Sequence[Decision]) -> list[str]:
    """Returns the distinct reasons, in order, of all decisions that have one."""
    return list(dict.fromkeys(one.why for one in decisions if one.why))

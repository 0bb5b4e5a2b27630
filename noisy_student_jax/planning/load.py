"""Loads the config of a run, with its open fields decided."""

import pathlib
from collections.abc import Sequence
from typing import Any

from noisy_student_jax import config as configs
from noisy_student_jax.config import ConfigDict, decisions
from noisy_student_jax.core import console
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.open import FOLDERS, absolute
from noisy_student_jax.generation import init_weights
from noisy_student_jax.planning import auto_config


def load(
    path: str | pathlib.Path,
    overrides: Sequence[str],
    workdir: pathlib.Path,
    interruption: Interruption,
    *,
    fit: bool = True,
) -> tuple[ConfigDict, dict[str, Any] | None]:
    """Reads a config and prints its decisions.

    Args:
      path: a config file.
      overrides: ``--config.key=value`` arguments.
      workdir: the run directory, which may hold decisions.
      interruption: checked while speeds are measured.
      fit: whether to fit the config to its time budget, if it has one.

    Returns:
      The config, and the record of its decisions, if any were made.

    Raises:
      UserError: see `config.load` and `auto_config.decided`.
    """
    record = None

    def decide(config: ConfigDict) -> ConfigDict:
        nonlocal record
        config = _with_absolute_places(config)
        config = init_weights.with_given(config)
        made = auto_config.decided(config, workdir, interruption, fit=fit)
        # A fit without reductions is a decision as well.
        if made or config.budget_hours:
            record = auto_config.record(config, made)
        for why in decisions.reasons(made):
            console.say(f"decided: {why}")
        return decisions.apply(config, made)

    return configs.load(path, overrides, decide=decide), record


def _with_absolute_places(config: ConfigDict) -> ConfigDict:
    """Returns a config whose places of images are found from every folder."""
    if config.data.name not in FOLDERS:
        return config
    config = config.copy_and_resolve_references()
    for name, place in config.data.sources.items():
        if place is not None:
            config.data.sources[name] = absolute(place)
    if config.data.cache is not None:
        config.data.cache = absolute(config.data.cache)
    return config

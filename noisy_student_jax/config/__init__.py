"""Configs: fields, files, overrides, checks and the paper's recipes."""

from ml_collections import ConfigDict

from noisy_student_jax.config.load import (
    check,
    complete,
    defaults,
    flatten,
    from_json,
    identity,
    load,
    plain,
    to_json,
)
from noisy_student_jax.config.schema import (
    GENERATION_SECTIONS,
    base_config,
)

__all__ = [
    "GENERATION_SECTIONS",
    "ConfigDict",
    "base_config",
    "check",
    "complete",
    "defaults",
    "flatten",
    "from_json",
    "identity",
    "load",
    "plain",
    "to_json",
]

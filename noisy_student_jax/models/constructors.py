"""Constructors of networks, and the ranges of the arguments that they share."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.linen as nn

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.model_arguments import ModelArguments
from noisy_student_jax.models import views
from noisy_student_jax.models.architectures import Architecture
from noisy_student_jax.models.depthwise import IMPLEMENTATIONS
from noisy_student_jax.models.layers import LAYERS
from noisy_student_jax.models.network import Network

CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "depthwise": IMPLEMENTATIONS,
    "layers": LAYERS,
}
"""Valid values of some arguments."""
AnyNetwork = TypeVar("AnyNetwork", bound=Network)
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def build(
    kind: type[AnyNetwork],
    architecture: Architecture,
    *,
    outputs: int,
    frozen_blocks: int = -1,
    **arguments: Any,
) -> AnyNetwork:
    """Creates a network.

    Args:
      kind: its class.
      architecture: stem, stages and head.
      outputs: see `Network`.
      frozen_blocks: see `Network`.
      **arguments: fields of `ModelArguments`.

    Raises:
      UserError: If an argument is out of its range.
    """
    given = checked_arguments(architecture.dropout_rate, outputs, arguments)
    blocks = len(architecture.blocks)
    _check(
        -1 <= frozen_blocks <= blocks,
        "frozen_blocks",
        frozen_blocks,
        f"0 (the stem alone) to {blocks}, the number of its blocks",
    )
    return kind(architecture, outputs, given, frozen_blocks)


def checked_arguments(
    dropout_rate: float, outputs: int, arguments: Mapping[str, Any]
) -> ModelArguments:
    """Checks the arguments that all models of this package share.

    Args:
      dropout_rate: the architecture's default.
      outputs: number of logits.
      arguments: fields of `ModelArguments`.

    Raises:
      UserError: If an argument is out of its range.
    """
    given = ModelArguments(**arguments)
    if given.dropout_rate is None:
        given = dataclasses.replace(given, dropout_rate=dropout_rate)
    _check(outputs >= 0, "outputs", outputs, "0 or more")
    for name in ("dropout_rate", "stochastic_depth", "batch_norm_momentum"):
        rate = getattr(given, name)
        _check(0 <= rate < 1, name, rate, "at least 0 and below 1")
    epsilon, group = given.batch_norm_epsilon, given.batch_norm_group
    _check(epsilon > 0, "batch_norm_epsilon", epsilon, "positive")
    _check(group >= 0, "batch_norm_group", group, "0 or more")
    _check(1 <= given.views <= views.MOST, "views", given.views, f"1 to {views.MOST}")
    for name, known in CHOICES.items():
        value = getattr(given, name)
        expected = f"{', '.join(known[:-1])} or {known[-1]}"
        _check(value in known, name, value, expected)
    return given


def _check(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise UserError(f"The model's {name} must be {expected}, not {value!r}.")


_SIGNATURE = inspect.Signature(
    [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
        for name in (
            "outputs",
            *(field.name for field in dataclasses.fields(ModelArguments)),
            "frozen_blocks",
        )
    ]
)
"""The arguments of all members, for `models.accepted_arguments`."""


class _Member(functools.partial[Any]):
    """A constructor of a model, with the attributes that `models` reads."""

    __signature__: inspect.Signature
    default_resolution: int
    default_mean: tuple[float, ...]
    default_std: tuple[float, ...]
    backbone: str | None


def member(
    build: Callable[..., AnyModule],
    architecture: Architecture,
    *,
    backbone: str | None = None,
) -> Callable[..., AnyModule]:
    """Returns the constructor of a model, with the attributes that `models` reads.

    Args:
      build: creates it from an architecture.
      architecture: its architecture.
      backbone: name of the classifier whose weights start it; None for its own.
    """
    made = _Member(build, architecture)
    made.__signature__ = _SIGNATURE
    made.default_resolution = architecture.resolution
    made.default_mean = architecture.mean
    made.default_std = architecture.std
    made.backbone = backbone
    return made

"""The registry of models.

A model is a function that takes `outputs` and keyword arguments and returns a Linen
module, which is called as ``module.apply(variables, images, train=False, noise=None)``
on normalized images ``[batch, height, width, channels]`` and returns ``{"logits":
float32 [batch, outputs], "features": {stride: [batch, h, w, c]}}``. To add one, write
the function in a file of this package and register it in the table below; or name it in
a config as ``package.module:function``, without changing this package.

Models are imported lazily.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from noisy_student_jax.core.errors import UserError, nearest
from noisy_student_jax.core.model_arguments import ModelArguments
from noisy_student_jax.core.registry import find
from noisy_student_jax.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    import flax.linen as nn

_EFFICIENTNET = "noisy_student_jax.models.efficientnet:"
_MODELS = {
    name: _EFFICIENTNET + name
    for name in (
        "efficientnet_b0",
        "efficientnet_b1",
        "efficientnet_b2",
        "efficientnet_b3",
        "efficientnet_b4",
        "efficientnet_b5",
        "efficientnet_b6",
        "efficientnet_b7",
        "efficientnet_b8",
        "efficientnet_l0",
        "efficientnet_l1",
        "efficientnet_l2",
        "efficientnet_lite0",
        "efficientnet_lite1",
        "efficientnet_lite2",
        "efficientnet_lite3",
        "efficientnet_lite4",
        "efficientnet_b0_small",
        "efficientnet_b1_small",
        "efficientnet_b2_small",
        "efficientnet_b3_small",
        "efficientnet_lite0_small",
        "efficientnet_mini_s",
        "efficientnet_mini_m",
        "efficientnet_mini_l",
        "efficientnet_tiny_s",
        "efficientnet_tiny_m",
        "efficientnet_tiny_l",
        "efficientnet_test",
    )
}
# An alias: the authors use it for SVHN.
_MODELS["efficientnet_b0_svhn"] = _MODELS["efficientnet_b0_small"]


def names() -> tuple[str, ...]:
    """Returns the names of the package's own models."""
    return tuple(_MODELS)


def create(name: str, *, outputs: int, **arguments: Any) -> "nn.Module":
    """Creates a model by name.

    Args:
      name: one of `names()`, or ``package.module:function``.
      outputs: number of logits; 0 for features only.
      **arguments: of the model; None selects its default. The package's models take
        the fields of `ModelArguments`, and `frozen_blocks`. (A model that takes
        `frozen_blocks` has an attribute `frozen`, the names of the modules that are
        then not trained.)

    Raises:
      UserError: If the name or an argument is unknown, or out of its range.
    """
    function = _function(name)
    given = {key: value for key, value in arguments.items() if value is not None}
    given["outputs"] = outputs
    known = accepted_arguments(name, among=tuple(given))
    for key in given:
        if key not in known:
            raise UserError(
                f"Model '{name}' takes no argument '{key}'{nearest(key, known)}"
            )
    return function(**given)


def accepted_arguments(name: str, *, among: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Returns the names of a model's arguments, or `among` if it takes any.

    Raises:
      UserError: If the name is unknown.
    """
    parameters = inspect.signature(_function(name)).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return among
    return tuple(
        p.name
        for p in parameters
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    )


def arguments_of(section: Mapping[str, Any], *, outputs: int) -> dict[str, Any]:
    """Returns the arguments of `create` for a config.

    Args:
      section: the config's ``model`` section.
      outputs: see `create`.

    Returns:
      ``outputs``, and the fields of `ModelArguments` that the model takes.

    Raises:
      UserError: If the name is unknown.
    """
    wanted = {
        field.name: section[field.name] for field in dataclasses.fields(ModelArguments)
    }
    wanted["batch_norm_group"] = wanted["batch_norm_group"] or 0
    accepted = accepted_arguments(section["name"], among=tuple(wanted))
    given = {key: value for key, value in wanted.items() if key in accepted}
    return {"outputs": outputs, **given}


def resolution(name: str) -> int:
    """Returns the default image height and width of a model.

    Raises:
      UserError: If the name is unknown, or a user-defined model has no
        ``default_resolution``.
    """
    size = getattr(_function(name), "default_resolution", None)
    if size is None:
        raise UserError(
            f"Model '{name}' has no attribute 'default_resolution', so the "
            "configuration must say its resolution."
        )
    return size


def normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the default mean and standard deviation of a model's images.

    Each is per channel, on the 0–1 scale. User-defined models can set the attributes
    ``default_mean`` and ``default_std``; otherwise ImageNet's values apply.

    Raises:
      UserError: If the name is unknown.
    """
    function = _function(name)
    mean = getattr(function, "default_mean", Preprocessing.mean)
    std = getattr(function, "default_std", Preprocessing.std)
    return tuple(mean), tuple(std)


def _function(name: str) -> "Callable[..., nn.Module]":
    return find(name, _MODELS, "model")

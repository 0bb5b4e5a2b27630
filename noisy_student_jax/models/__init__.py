"""The registry of models.

A model is a function that takes `outputs` and keyword arguments and returns a Linen
module, which is called as ``module.apply(variables, images, train=False, noise=None)``
on normalized images ``[batch, height, width, channels]`` and returns ``{"logits":
float32 [batch, outputs], "features": {stride: [batch, h, w, c]}}``, or the outputs that
its task reads, as a detector's (`models.fcos`). To add one, write
the function in a file of this package and register it in the table below; or name it in
a config as ``package.module:function``, without changing this package.

Models are imported lazily.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noisy_student_jax.core.errors import UserError, nearest
from noisy_student_jax.core.model_arguments import ModelArguments
from noisy_student_jax.core.registry import find
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import onnx_backbone

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
FAMILY = tuple(_MODELS)
"""Names of the EfficientNets, each a single network."""
RESIDUAL = ("resnet50", "wrn_28_2")
"""Names of the residual networks."""
_MODELS |= {name: f"noisy_student_jax.models.resnet:{name}" for name in RESIDUAL}
DETECTORS = (
    "fcos_b0",
    "fcos_b1",
    "fcos_b2",
    "fcos_b3",
    "fcos_b4",
    "fcos_b5",
    "fcos_b6",
    "fcos_b7",
    "fcos_lite0",
    "fcos_lite1",
    "fcos_lite2",
    "fcos_lite3",
    "fcos_lite4",
    "fcos_mini_s",
    "fcos_mini_m",
    "fcos_mini_l",
    "fcos_tiny_s",
    "fcos_tiny_m",
    "fcos_tiny_l",
    "fcos_test",
)
"""Names of the detectors, each on one of the `FAMILY`."""
_MODELS |= {name: f"noisy_student_jax.models.fcos:{name}" for name in DETECTORS}
CONCATENATED = "concatenated"
"""The model that consists of several of the `FAMILY`."""
_MODELS[CONCATENATED] = "noisy_student_jax.models.concatenated:concatenated"
ANY_RESOLUTION = 224
"""Default of `CONCATENATED` where all members take images of any size."""
MEMBERS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
"""Networks of `CONCATENATED` where none are given."""


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
        then not trained. One that takes `views` predicts from the mean of its "pooled"
        over so many of `models.views`.)

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


def takes_views(name: str) -> bool:
    """Whether a model can predict from several views of an image."""
    return "views" in accepted_arguments(name, among=("views",))


def arguments_of(section: Mapping[str, Any], *, outputs: int) -> dict[str, Any]:
    """Returns the arguments of `create` for a config.

    Args:
      section: the config's ``model`` section.
      outputs: see `create`.

    Returns:
      ``outputs``, the fields of `ModelArguments` that the model takes, and members,
      mean and standard deviation if it takes them.

    Raises:
      UserError: If the name is unknown.
    """
    wanted = {
        field.name: section[field.name] for field in dataclasses.fields(ModelArguments)
    }
    wanted["batch_norm_group"] = wanted["batch_norm_group"] or 0
    if section["name"] == CONCATENATED:
        wanted |= {name: section[name] for name in ("members", "mean", "std")}
    accepted = accepted_arguments(section["name"], among=tuple(wanted))
    given = {key: value for key, value in wanted.items() if key in accepted}
    return {"outputs": outputs, **given}


def members(name: str, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """Returns the names of the networks that a model consists of.

    Args:
      name: of the model.
      given: the members of `CONCATENATED`; None for `MEMBERS`. Other models are
        themselves.

    Raises:
      UserError: If a member is neither of the `FAMILY` nor `outside`, or given twice.
    """
    if name != CONCATENATED:
        return (name,)
    found = MEMBERS if given is None else tuple(given)
    for member in found:
        if member not in FAMILY and not outside((member,)):
            raise UserError(
                f"Model '{CONCATENATED}' has no member '{member}': its members are"
                " EfficientNets of this package, or ONNX files as onnx:PATH"
                f"{nearest(str(member), FAMILY)}"
            )
    if not found or len(set(found)) < len(found):
        raise UserError(
            f"Model '{CONCATENATED}' needs different members, got"
            f" {', '.join(found) or 'none'}."
        )
    return found


def outside(members: Sequence[str]) -> tuple[str, ...]:
    """Returns the members that are backbones from outside, in ONNX files."""
    prefix = onnx_backbone.PREFIX
    return tuple(member for member in members if str(member).startswith(prefix))


def backbone(name: str) -> str:
    """Returns the model whose weights start a model; itself, if its own do.

    Raises:
      UserError: If the name is unknown.
    """
    return getattr(_function(name), "backbone", None) or name


def resolution(name: str, given: Sequence[str] | None = None) -> int:
    """Returns the default image height and width of a model.

    Members of one model see images of one size: the one that a member from outside
    asks for, or the largest of their defaults, so that none sees fewer pixels than it
    was made for.

    Args:
      name: of the model.
      given: see `members`.

    Raises:
      UserError: If the name is unknown, or a user-defined model has no
        ``default_resolution``.
    """
    if name == CONCATENATED:
        found = members(name, given)
        own = [resolution(one) for one in found if not outside((one,))]
        return fixed_resolution(found) or max(own, default=ANY_RESOLUTION)
    size = getattr(_function(name), "default_resolution", None)
    if size is None:
        raise UserError(
            f"Model '{name}' has no attribute 'default_resolution', so the "
            "configuration must say its resolution."
        )
    return size


def fixed_resolution(given: Sequence[str]) -> int | None:
    """Returns the image side that a member from outside asks for, if any."""
    sides = [onnx_backbone.opened(member).side for member in outside(given)]
    return next((side for side in sides if side is not None), None)


def normalization(
    name: str, given: Sequence[str] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the default mean and standard deviation of a model's images.

    Each is per channel, on the 0–1 scale. User-defined models can set the attributes
    ``default_mean`` and ``default_std``; otherwise ImageNet's values apply. Those of
    several members are the first one's, or ImageNet's where any is from outside.

    Args:
      name: of the model.
      given: see `members`.

    Raises:
      UserError: If the name is unknown.
    """
    found = members(name, given)
    if outside((name, *found)):
        return Preprocessing.mean, Preprocessing.std
    function = _function(found[0])
    mean = getattr(function, "default_mean", Preprocessing.mean)
    std = getattr(function, "default_std", Preprocessing.std)
    return tuple(mean), tuple(std)


def _function(name: str) -> "Callable[..., nn.Module]":
    return find(name, _MODELS, "model")

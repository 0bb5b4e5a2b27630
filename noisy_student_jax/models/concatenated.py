"""Several networks side by side, with one head on all of their pooled features.

An ensemble of backbones as one module: ``pooled`` is the concatenation of its members'
pooled features, and the head reads it, so that training (the head alone, or
everything), labeling, prediction, bundles and exports take it as any other model. All
members see the same pixels; each sees them with its own mean and standard deviation.
Members are EfficientNets, or backbones from outside (`onnx_backbone`), whose features
the host computes and gives to the module.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from noisy_student_jax import models
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.model_arguments import ModelArguments
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import constructors, onnx_backbone
from noisy_student_jax.models.architectures import Architecture
from noisy_student_jax.models.efficientnet import EfficientNet
from noisy_student_jax.models.head import Head
from noisy_student_jax.models.layers import classify
from noisy_student_jax.models.network import Network, Noise

CLASSIFIER = "classifier"
"""The module that reads the features of all members."""
DROPOUT_RATE = 0.2
"""Default where all members are from outside."""
Affine = tuple[tuple[float, ...], tuple[float, ...]]
"""Scale and offset of each channel."""


class Concatenated(nn.Module):
    """Networks without classifiers, and one classifier of them all.

    The variables of a member are nested under its name.

    Attributes:
      members: names of the members, in the order of their features.
      outputs: number of logits; 0 leaves out heads and classifier.
      arguments: options of noise, batch norm and computation, of every member.
      mean: of the images given, per channel, on the 0–1 scale.
      std: of the images given, per channel, on the 0–1 scale.
      blank: whether features of members from outside are zeros where none are given,
        for shapes and operations alone.
      headless: see `Network`.
    """

    members: tuple[str, ...]
    outputs: int
    arguments: ModelArguments
    mean: tuple[float, ...]
    std: tuple[float, ...]
    blank: bool = False
    headless: bool = False

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        noise: Noise | None = None,
        outside: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Returns logits and features; see `Network`.

        Args:
          images: normalized, floating point ``[batch, height, width, channels]``.
          train: see `Network`.
          noise: see `Network`.
          outside: features of the members from outside, in their order: float32
            ``[batch, channels]``.

        Returns:
          ``{"logits", "pooled", "features"}`` as of a `Network`, with the
          members' channels one after the other; "features" has the strides that all
          members have, and none if any is from outside.

        Raises:
          UserError: there are members from outside, but none of their features.
        """
        given = self._given(outside, images.shape[0])
        found = [
            given[member]
            if member in given
            else self._network(member, name=member)(
                self._own(images, member), train=train, noise=noise
            )
            for member in self.members
        ]
        strides = set.intersection(*(set(one["features"]) for one in found))
        features = {
            stride: jnp.concatenate([one["features"][stride] for one in found], -1)
            for stride in sorted(strides)
        }
        if not self.outputs:
            return {"features": features}
        pooled = jnp.concatenate([one["pooled"] for one in found], -1)
        if self.headless:
            return {"pooled": pooled, "features": features}
        rate = self._dropout_rate if train else 0.0
        logits = classify(
            pooled,
            self.outputs,
            rate=rate,
            key=self.make_rng("dropout") if rate else None,
            noise=(noise or {}).get("dropout"),
        )
        return {"logits": logits, "pooled": pooled, "features": features}

    @property
    def networks(self) -> tuple[EfficientNet, ...]:
        """The members, each as a module of its own; without those from outside."""
        return tuple(
            self._network(member, parent=None)
            for member in self.members
            if member not in self.outside
        )

    @property
    def outside(self) -> tuple[str, ...]:
        """The members whose features the host computes."""
        return models.outside(self.members)

    @property
    def head(self) -> Head:
        """The layers after ``pooled`` as a module: dropout and classifier."""
        return Head(self.outputs, self._dropout_rate)

    def affine(self, member: str) -> Affine | None:
        """Returns what takes the images given to a member's own mean and std.

        Returns:
          Scale and offset of each channel; None if they are the same.
        """
        mean, std = models.normalization(member)
        if (mean, std) == (self.mean, self.std):
            return None
        scale = np.asarray(self.std) / np.asarray(std)
        offset = (np.asarray(self.mean) - np.asarray(mean)) / np.asarray(std)
        return tuple(scale.tolist()), tuple(offset.tolist())

    @nn.nowrap
    def _given(
        self, outside: jax.Array | None, batch: int
    ) -> dict[str, dict[str, Any]]:
        """Returns what members from outside put out, by member."""
        if not self.outside:
            return {}
        widths = [onnx_backbone.opened(member).channels for member in self.outside]
        if outside is None:
            if not (self.blank or self.is_initializing()):
                raise UserError(
                    f"of '{self.outside[0]}' there is a program for onnxruntime alone:"
                    " what needs the network itself cannot be done with it; its head"
                    " can be trained (train.part=head), and predicts"
                )
            outside = jnp.zeros((batch, sum(widths)))
        ends = np.cumsum(widths)[:-1].tolist()
        parts = jnp.split(outside, ends, axis=-1)
        return {
            member: {"pooled": part, "features": {}}
            for member, part in zip(self.outside, parts, strict=True)
        }

    @nn.nowrap
    def _own(self, images: jax.Array, member: str) -> jax.Array:
        change = self.affine(member)
        if change is None:
            return images
        scale, offset = (
            jax.lax.broadcast_to_rank(jnp.asarray(one, images.dtype), images.ndim)
            for one in change
        )
        return images * scale + offset

    @nn.nowrap
    def _network(self, member: str, **place: Any) -> EfficientNet:
        return EfficientNet(
            _architecture(member),
            self.outputs,
            self.arguments,
            headless=True,
            **place,
        )

    @property
    def _dropout_rate(self) -> float:
        rate = self.arguments.dropout_rate
        assert rate is not None, "`concatenated` fills it in"
        return rate


def concatenated(  # noqa: D417 - the other arguments are in its signature
    *,
    outputs: int,
    members: tuple[str, ...] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    **arguments: Any,
) -> Concatenated:
    """Creates a model out of several members of the family.

    Other arguments are fields of `ModelArguments`; the default dropout rate is the
    members' largest.

    Args:
      outputs: see `Concatenated`.
      members: different names of EfficientNets, or ``onnx:PATH``; None for
        `models.MEMBERS`.
      mean: of the images given; None for the first member's.
      std: of the images given; None for the first member's.

    Raises:
      UserError: If a member is unknown or given twice, or an argument is out of its
        range.
    """
    names = models.members(models.CONCATENATED, members)
    own = [name for name in names if name not in models.outside(names)]
    rates = [_architecture(name).dropout_rate for name in own] or [DROPOUT_RATE]
    usual = models.normalization(models.CONCATENATED, names)
    return Concatenated(
        names,
        outputs,
        constructors.checked_arguments(max(rates), outputs, arguments),
        mean=usual[0] if mean is None else tuple(mean),
        std=usual[1] if std is None else tuple(std),
    )


concatenated.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
        for name in (
            *("outputs", "members", "mean", "std"),
            *inspect.signature(ModelArguments).parameters,
        )
    ]
)


def _architecture(member: str) -> Architecture:
    return models.create(member, outputs=1).architecture


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network without a classifier, whose features are the same in any model.

    Attributes:
      name: of the network.
      module: the network; its last output is ``pooled``.
      variables: its variables.
      preprocessing: preprocessing of its images.
    """

    name: str
    module: nn.Module
    variables: PyTree
    preprocessing: Preprocessing

    @property
    def described(self) -> str:
        """Its name; of a network from outside, the content of its file."""
        if models.outside((self.name,)):
            return onnx_backbone.opened(self.name).sha256
        return self.name


def backbones(
    name: str, module: nn.Module, variables: PyTree, preprocessing: Preprocessing
) -> tuple[Backbone, ...]:
    """Returns the networks whose features, one after the other, a model's head reads.

    Args:
      name: of the model.
      module: the model, of one view.
      variables: its variables, with or without a classifier.
      preprocessing: preprocessing of its images.
    """
    if not isinstance(module, Concatenated):
        own = {n: v for n, v in variables["params"].items() if n != CLASSIFIER}
        if isinstance(module, Network):
            module = module.clone(headless=True)
            variables = {**variables, "params": own}
        return (Backbone(name, module, variables, preprocessing),)
    found = []
    for member in module.members:
        if member in module.outside:
            alone = module.clone(members=(member,), headless=True)
            nothing: PyTree = {"params": {}, "batch_stats": {}}
            found.append(Backbone(member, alone, nothing, preprocessing))
            continue
        mean, std = models.normalization(member)
        seen = dataclasses.replace(preprocessing, mean=mean, std=std)
        network = module._network(member, parent=None)
        own = separate(variables, member)
        found.append(Backbone(member, network, own, seen))
    return tuple(found)


def networks(module: nn.Module) -> tuple[Network, ...]:
    """Returns the networks that a module consists of; none of a foreign one."""
    if isinstance(module, Network):
        return (module,)
    return getattr(module, "networks", ())


def joined(variables: Mapping[str, PyTree]) -> PyTree:
    """Returns the variables of a `Concatenated` without those of its classifier.

    Args:
      variables: those of each member by name, with or without a classifier.
    """
    return {
        collection: {
            member: {
                name: value
                for name, value in own.get(collection, {}).items()
                if name != CLASSIFIER
            }
            for member, own in variables.items()
        }
        for collection in ("params", "batch_stats")
    }


def separate(variables: PyTree, member: str) -> PyTree:
    """Returns a member's own variables out of those of a `Concatenated`."""
    return {name: one[member] for name, one in variables.items() if member in one}

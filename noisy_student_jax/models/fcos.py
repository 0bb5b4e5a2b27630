"""A small one-stage detector without anchors on an EfficientNet.

Tian et al., "FCOS" (2019), without centerness: the quality that a class's score is
trained to (Li et al., "Generalized Focal Loss", 2020) takes its place. A pyramid of up
to three levels (Lin et al., "Feature Pyramid Networks", 2017) feeds one head that all
levels share.

The backbone's variables have the names that they have in a classifier, so that
classification weights start a detector.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.model_arguments import ModelArguments
from noisy_student_jax.models import architectures, constructors, initialize
from noisy_student_jax.models.architectures import Architecture
from noisy_student_jax.models.efficientnet import EfficientNet
from noisy_student_jax.models.initialize import Initializer
from noisy_student_jax.models.layers import chosen, convolution, keep_factors
from noisy_student_jax.models.network import Noise
from noisy_student_jax.models.parts import Parts

STRIDES = (8, 16, 32)
"""Levels of the pyramid, where the backbone has them all."""
WIDTH = 64
"""Channels of pyramid and head."""
CONVOLUTIONS = 2
CHANNELS_PER_GROUP = 8
"""Of group norm."""
PRIOR = -4.6
"""Initial logit: a location is of a class with probability 0.01, so that the many
locations without an object do not swamp the first steps (Lin et al., 2017)."""
VIEWS = 2
_SMALL = Initializer("normal", lambda _: 0.01)
# softplus(1.85) = 2: a first box reaches two strides to each side, the middle of the
# range of a level.
_REACH = Initializer("constant", lambda _: 1.85)
_PRIOR = Initializer("constant", lambda _: PRIOR)


class Detector(nn.Module):
    """A detector: backbone, pyramid, and one head for all of its levels.

    Attributes:
      architecture: the backbone's.
      outputs: number of classes; 0 leaves out pyramid and head.
      arguments: options of noise, batch norm and computation. `dropout_rate` is that
        of whole channels before the class logits; `views` 2 predicts from the image
        and its mirror.
      frozen_blocks: see `Network`.
      width: channels of pyramid and head.
    """

    architecture: Architecture
    outputs: int
    arguments: ModelArguments
    frozen_blocks: int = -1
    width: int = WIDTH

    view_names = ("whole", "mirrored")
    parts = Parts(
        classes=("detector/logits",),
        own=("neck", "detector"),
        unused=("head_conv", "head_bn", "classifier"),
    )

    def setup(self) -> None:
        """Gives the backbone's variables their names in a classifier."""
        self.backbone = self._backbone()
        nn.share_scope(self, self.backbone)

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, noise: Noise | None = None
    ) -> dict[str, Any]:
        """Returns class logits and boxes of all locations.

        Training needs the mutable collection "batch_stats" and the PRNG streams
        "dropout" and "stochastic_depth".

        Args:
          images: normalized, floating point ``[batch, height, width, channels]``.
          train: whether to use batch statistics, dropout and stochastic depth.
          noise: see `Network`.

        Returns:
          ``logits``, float32 ``[batch, views, locations, outputs]``; ``distances``,
          float32 ``[batch, views, locations, 4]``: from a location to the left, top,
          right and bottom of its box, at least 0, in units of the images' longer side;
          ``locations``, float32 ``[locations, 3]``: x, y and stride, in the same unit;
          and ``features`` ``{stride: [batch, h, w, c]}``, as of a `Network`. The
          second view is the mirrored image, and its boxes lie in the mirror. Only
          features if `outputs` is 0.

        Raises:
          UserError: see `Network`.
        """
        batch, height, width = images.shape[:3]
        count = 1 if train or not self.outputs else self.arguments.views
        if count == VIEWS:
            images = jnp.concatenate([images, images[:, :, ::-1]])
        features = self.backbone(images, train=train, noise=noise)["features"]
        own = {stride: one[:batch] for stride, one in features.items()}
        if not self.outputs:
            return {"features": own}

        strides = levels(self.architecture)
        dtype = jnp.dtype(self.arguments.dtype)
        conv = functools.partial(
            convolution, dtype=dtype, implementation=chosen(self.arguments.layers)
        )
        pyramid = Neck(strides, self.width, conv, name="neck")(features)
        unit = max(height, width)
        head = DetectionHead(self.outputs, self.width, conv, dtype, name="detector")
        found = head(
            pyramid,
            [stride / unit for stride in strides],
            self._kept(len(images), noise or {}) if train else None,
        )
        # Views lie one after the other in the batch.
        by_view = {
            name: one.reshape(count, batch, *one.shape[1:]).swapaxes(0, 1)
            for name, one in found.items()
        }
        where = locations(height, width, strides)
        return {**by_view, "locations": jnp.asarray(where), "features": own}

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the modules that are not trained."""
        return self._backbone(parent=None).frozen

    @property
    def networks(self) -> tuple[EfficientNet, ...]:
        """The backbone, as a module of its own."""
        return (self._backbone(parent=None),)

    @nn.nowrap
    def _backbone(self, **place: Any) -> EfficientNet:
        return EfficientNet(
            self.architecture, 0, self.arguments, self.frozen_blocks, **place
        )

    def _kept(self, batch: int, noise: Noise) -> jax.Array | None:
        """Draws dropout: factors ``[batch, 1, 1, width]``; None for none."""
        rate = self.arguments.dropout_rate
        if not rate:
            return None
        applies = noise.get("dropout")
        return keep_factors(
            self.make_rng("dropout"),
            (batch, 1, 1, self.width),
            rate=rate,
            noise=None if applies is None else applies[:, None, None, None],
        )


class Neck(nn.Module):
    """A feature pyramid: every level is added to the next finer one.

    Attributes:
      strides: of the levels, the finest first.
      width: channels of a level.
      conv: creates convolutions.
    """

    strides: tuple[int, ...]
    width: int
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, features: dict[int, jax.Array]) -> list[jax.Array]:
        """Maps features by stride to levels ``[batch, h, w, width]``."""
        found: list[jax.Array] = []
        for level in reversed(range(len(self.strides))):
            lateral = self.conv(self.width, bias=True, name=f"lateral_{level}_conv")
            finer = lateral(features[self.strides[level]])
            if found:
                ratio = self.strides[level + 1] // self.strides[level]
                finer = finer + enlarged(found[0], ratio, finer.shape)
            found.insert(0, finer)
        return found


class DetectionHead(nn.Module):
    """Convolutions, class logits and distances, shared by all levels.

    Attributes:
      classes: number of classes.
      width: channels of a level.
      conv: creates convolutions.
      dtype: of the computation; logits and distances are float32.
    """

    classes: int
    width: int
    conv: Callable[..., nn.Module]
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        pyramid: Sequence[jax.Array],
        strides: Sequence[float],
        kept: jax.Array | None,
    ) -> dict[str, jax.Array]:
        """Returns logits and distances of all levels, one after the other.

        Args:
          pyramid: levels ``[batch, h, w, width]``.
          strides: of the levels, in units of the images' longer side.
          kept: float32 ``[batch, 1, 1, width]``, factors before the logits, for
            dropout; None for 1. Distances are a regression, whose mean dropout
            would move.

        Returns:
          ``{"logits": float32 [batch, locations, classes], "distances": float32
          [batch, locations, 4]}``.
        """
        numbers = range(CONVOLUTIONS)
        convs = [self.conv(self.width, kernel=3, name=f"conv_{n}") for n in numbers]
        norms = [
            nn.GroupNorm(
                num_groups=None,
                group_size=CHANNELS_PER_GROUP,
                dtype=self.dtype,
                scale_init=initialize.ONES,
                bias_init=initialize.ZEROS,
                name=f"conv_{n}_gn",
            )
            for n in numbers
        ]
        logits = _output(self.classes, _PRIOR, "logits")
        distances = _output(4, _REACH, "distances")
        # A factor per level, as powers, so that weight decay draws it to one.
        powers = self.param("scales", initialize.ZEROS, (len(pyramid),), jnp.float32)
        found: dict[str, list[jax.Array]] = {"logits": [], "distances": []}
        for level, (hidden, stride) in enumerate(zip(pyramid, strides, strict=True)):
            for conv, norm in zip(convs, norms, strict=True):
                hidden = nn.swish(norm(conv(hidden)))
            hidden = hidden.astype(jnp.float32)
            reach = nn.softplus(distances(hidden)) * (stride * jnp.exp(powers[level]))
            noised = hidden if kept is None else hidden * kept
            found["logits"].append(_in_a_row(logits(noised)))
            found["distances"].append(_in_a_row(reach))
        return {name: jnp.concatenate(parts, 1) for name, parts in found.items()}


def _output(channels: int, bias: Initializer, name: str) -> nn.Conv:
    return nn.Conv(
        channels,
        (3, 3),
        padding="SAME",
        kernel_init=_SMALL,
        bias_init=bias,
        name=name,
    )


def _in_a_row(level: jax.Array) -> jax.Array:
    batch, _, _, channels = level.shape
    return level.reshape(batch, -1, channels)


def enlarged(level: jax.Array, ratio: int, shape: Sequence[int]) -> jax.Array:
    """Repeats every cell of a level, and cuts the result to a size.

    Args:
      level: ``[batch, h, w, channels]``.
      ratio: number of repetitions in both directions.
      shape: of a level ``[batch, height, width, …]``, at most `ratio` times as large.

    Returns:
      ``[batch, height, width, channels]``.
    """
    for axis in (1, 2):
        level = jnp.repeat(level, ratio, axis=axis)
    return level[:, : shape[1], : shape[2]]


def levels(architecture: Architecture) -> tuple[int, ...]:
    """Returns the strides of a backbone's pyramid: `STRIDES`, or its last three."""
    stride = architecture.stem_stride
    found = [stride]
    for stage in architecture.stages:
        if stage.stride > 1:
            stride *= stage.stride
            found.append(stride)
    return STRIDES if set(STRIDES) <= set(found) else tuple(found[-3:])


def locations(height: int, width: int, strides: Sequence[int]) -> np.ndarray:
    """Returns the centers of all cells of a pyramid.

    Args:
      height: of the images, in pixels.
      width: of the images, in pixels.
      strides: of the levels, in pixels.

    Returns:
      float32 ``[locations, 3]``: x, y and stride, in units of the longer side; level
      by level, row by row.
    """
    parts = []
    for stride in strides:
        rows, columns = (-(-side // stride) for side in (height, width))
        y, x = np.mgrid[:rows, :columns].reshape(2, -1) + 0.5
        parts.append(np.stack([x * stride, y * stride, np.full_like(x, stride)], 1))
    return (np.concatenate(parts) / max(height, width)).astype(np.float32)


def fcos(
    architecture: Architecture,
    *,
    outputs: int,
    frozen_blocks: int = -1,
    width: int = WIDTH,
    **arguments: Any,
) -> Detector:
    """Creates a detector.

    Args:
      architecture: the backbone's.
      outputs: see `Detector`.
      frozen_blocks: see `Detector`.
      width: see `Detector`.
      **arguments: fields of `ModelArguments`.

    Raises:
      UserError: If an argument is out of its range.
    """
    backbone = constructors.build(
        EfficientNet,
        architecture,
        outputs=outputs,
        frozen_blocks=frozen_blocks,
        **arguments,
    )
    given = backbone.arguments
    if given.views > VIEWS:
        raise UserError(
            "The model's views must be 1, or 2 for the image and its mirror, not"
            f" {given.views}: a detector has no other."
        )
    return Detector(architecture, outputs, given, frozen_blocks, width)


def _on(
    name: str, resolution: int, *, width: int = WIDTH, **changed: Any
) -> Callable[..., Detector]:
    """Returns the constructor of a detector on a member of the family."""
    own = dataclasses.replace(
        architectures.MEMBERS[name], resolution=resolution, **changed
    )
    build = functools.partial(fcos, width=width)
    return constructors.member(build, own, backbone=f"efficientnet_{name}")


# Resolutions of EfficientDet (Tan et al., 2020) and of EfficientDet-Lite.
fcos_b0 = _on("b0", 512)
fcos_b1 = _on("b1", 640)
fcos_b2 = _on("b2", 768)
fcos_b3 = _on("b3", 896)
fcos_b4 = _on("b4", 1024)
fcos_b5 = _on("b5", 1280)
fcos_b6 = _on("b6", 1280)
fcos_b7 = _on("b7", 1536)
fcos_lite0 = _on("lite0", 320)
fcos_lite1 = _on("lite1", 384)
fcos_lite2 = _on("lite2", 448)
fcos_lite3 = _on("lite3", 512)
fcos_lite4 = _on("lite4", 640)
fcos_mini_s = _on("mini_s", 128)
fcos_mini_m = _on("mini_m", 128)
fcos_mini_l = _on("mini_l", 128)
fcos_tiny_s = _on("tiny_s", 64)
fcos_tiny_m = _on("tiny_m", 64)
fcos_tiny_l = _on("tiny_l", 64)
# The backbone sees twice as far as the classifier, with the same variables.
fcos_test = _on("test", 64, width=16, stem_stride=2)

"""EfficientNet with the model noise of Noisy Student: dropout and stochastic depth.

Tan and Le, "EfficientNet" (2019), as in `efficientnet_model.py` of the authors' code.
A module takes normalized images and returns logits and the last features of each
stride, for use as the backbone of a detector.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.model_arguments import ModelArguments
from noisy_student_jax.models import architectures, views
from noisy_student_jax.models.architectures import Architecture, Stage
from noisy_student_jax.models.depthwise import IMPLEMENTATIONS
from noisy_student_jax.models.head import Head
from noisy_student_jax.models.layers import (
    LAYERS,
    DepthwiseConv,
    batch_norm,
    chosen,
    classify,
    convolution,
    keep_factors,
)

CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "depthwise": IMPLEMENTATIONS,
    "layers": LAYERS,
}
"""Valid values of some arguments."""
Noise = dict[str, jax.Array]
Network = TypeVar("Network", bound=nn.Module)


class Block(nn.Module):
    """MBConv, or its fused form: expand, filter, gate, project, add.

    Attributes:
      stage: an entry of `Architecture.blocks`.
      conv: creates convolutions.
      norm: applies batch norm and an activation.
      activation: inside squeeze-and-excitation, and passed to `norm`.
      dtype: of the computation.
      depthwise: as in `depthwise_conv`.
    """

    stage: Stage
    conv: Callable[..., nn.Module]
    norm: Callable[..., jax.Array]
    activation: Callable[[jax.Array], jax.Array]
    dtype: DTypeLike
    depthwise: str

    @nn.compact
    def __call__(self, images: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """Maps ``[batch, h, w, inputs]`` to ``[batch, ⌈h/s⌉, ⌈w/s⌉, outputs]``.

        Args:
          images: the input activations.
          kept: float32 ``[batch]``, factors of the residual branch per example, for
            stochastic depth; None for 1.
        """
        stage, inputs = self.stage, self.stage.inputs
        conv, norm, activation = self.conv, self.norm, self.activation
        hidden = images
        if stage.fused:
            expand = conv(
                inputs * stage.expand,
                kernel=stage.kernel,
                stride=stage.stride,
                name="expand_conv",
            )
            hidden = norm(expand(hidden), activation, name="expand_bn")
        else:
            if stage.expand != 1:
                expand = conv(inputs * stage.expand, name="expand_conv")
                hidden = norm(expand(hidden), activation, name="expand_bn")
            depthwise = DepthwiseConv(
                stage.kernel,
                stage.stride,
                self.depthwise,
                self.dtype,
                name="depthwise_conv",
            )
            hidden = norm(depthwise(hidden), activation, name="depthwise_bn")
        if stage.se_ratio:
            # The squeeze width follows the block's input, not the expanded width.
            squeezed = max(1, int(inputs * stage.se_ratio))
            gate = hidden.mean((1, 2), keepdims=True, dtype=jnp.float32)
            gate = activation(conv(squeezed, bias=True, name="se_reduce")(gate))
            gate = conv(hidden.shape[-1], bias=True, name="se_expand")(gate)
            hidden = hidden * nn.sigmoid(gate)
        hidden = conv(stage.outputs, name="project_conv")(hidden)
        hidden = norm(hidden, name="project_bn")
        if stage.adds:
            if kept is not None:
                hidden = hidden * kept[:, None, None, None].astype(hidden.dtype)
            hidden = hidden + images
        return hidden


class EfficientNet(nn.Module):
    """A member of the family.

    Attributes:
      architecture: stem, stages and head.
      outputs: number of logits; 0 leaves out head and classifier.
      arguments: options of noise, batch norm and computation.
      frozen_blocks: the stem and this number of blocks are not trained: in training
        they run as in inference, including batch norm, and receive no gradient (the
        authors' ``fix_layer_num``); -1 trains everything, including the stem.
      headless: whether "pooled" is the last of its outputs, without a classifier.
    """

    architecture: Architecture
    outputs: int
    arguments: ModelArguments
    frozen_blocks: int = -1
    headless: bool = False

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the modules that are not trained."""
        if self.frozen_blocks < 0:
            return ()
        blocks = (f"blocks_{index}" for index in range(self.frozen_blocks))
        return ("stem_conv", "stem_bn", *blocks)

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, noise: Noise | None = None
    ) -> dict[str, Any]:
        """Returns logits and features.

        Training needs the mutable collection "batch_stats" and the PRNG streams
        "dropout" and "stochastic_depth".

        Args:
          images: normalized, floating point ``[batch, height, width, channels]``.
          train: whether to use batch statistics, dropout and stochastic depth.
          noise: ``{"dropout", "stochastic_depth"}``, each float32 ``[batch]``, 1
            where this noise applies to the example; None applies both to all.

        Returns:
          ``{"logits": float32 [batch, outputs], "pooled": float32 [batch, channels],
          "features": {stride: [batch, h, w, c]}}``: "pooled" is the classifier's
          input, and "features" are the last activations of each stride, before the
          head. Only features if `outputs` is 0; no logits if `headless`.

        Raises:
          UserError: In training, if the batch does not divide into groups of
            `batch_norm_group`.
        """
        noise = noise or {}
        conv, norm = self._conv_and_norm()
        count = 1 if train or not self.outputs else self.arguments.views
        batch, images = images.shape[0], views.stacked(images, count)
        features = self._features(images, train, noise, conv, norm)
        if not self.outputs:
            return {"features": features}

        architecture = self.architecture
        hidden = conv(architecture.head, name="head_conv")(features[max(features)])
        hidden = norm(hidden, architecture.activation, train=train, name="head_bn")
        pooled = views.averaged(hidden.mean((1, 2), dtype=jnp.float32), count)
        features = {stride: one[:batch] for stride, one in features.items()}
        if self.headless:
            return {"pooled": pooled, "features": features}
        rate = self._dropout_rate if train else 0.0
        logits = classify(
            pooled,
            self.outputs,
            rate=rate,
            key=self.make_rng("dropout") if rate else None,
            noise=noise.get("dropout"),
        )
        return {"logits": logits, "pooled": pooled, "features": features}

    def _conv_and_norm(
        self,
    ) -> tuple[Callable[..., nn.Module], Callable[..., jax.Array]]:
        given = self.arguments
        dtype, layers = jnp.dtype(given.dtype), chosen(given.layers)
        conv = functools.partial(convolution, dtype=dtype, implementation=layers)
        norm = functools.partial(
            batch_norm,
            group=given.batch_norm_group,
            momentum=given.batch_norm_momentum,
            epsilon=given.batch_norm_epsilon,
            dtype=dtype,
            implementation=layers,
        )
        return conv, norm

    @nn.nowrap  # so that profiles show blocks under their own names
    def _features(
        self,
        images: jax.Array,
        train: bool,
        noise: Noise,
        conv: Callable[..., nn.Module],
        norm: Callable[..., jax.Array],
    ) -> dict[int, jax.Array]:
        """Returns the last activations of each stride, of stem and blocks."""
        architecture, dtype = self.architecture, jnp.dtype(self.arguments.dtype)
        activation, stride = architecture.activation, architecture.stem_stride
        stem = conv(architecture.stem, kernel=3, stride=stride, name="stem_conv")
        stem_trained = train and self.frozen_blocks < 0
        hidden = stem(images.astype(dtype))
        hidden = norm(hidden, activation, train=stem_trained, name="stem_bn")
        # The features of every frozen stride are cut off: a detector reads them too.
        if self.frozen_blocks >= 0:
            hidden = jax.lax.stop_gradient(hidden)

        features = {stride: hidden}
        kept = self._kept(images.shape[0], noise) if train else {}
        build = self._block_class(images)
        norms = [functools.partial(norm, train=when) for when in (False, True)]
        for index, stage in enumerate(architecture.blocks):
            block = build(
                stage=stage,
                conv=conv,
                norm=norms[train and index >= self.frozen_blocks],
                activation=activation,
                dtype=dtype,
                depthwise=self.arguments.depthwise,
                name=f"blocks_{index}",
            )
            hidden = block(hidden, kept.get(index))
            if index < self.frozen_blocks:
                hidden = jax.lax.stop_gradient(hidden)
            stride *= stage.stride
            features[stride] = hidden
        return features

    def _block_class(self, images: jax.Array) -> Callable[..., Block]:
        build = nn.remat(Block) if self.arguments.remat else Block
        if self.is_initializing() or not isinstance(images, jax.core.Tracer):
            return build
        # Equal blocks are traced, differentiated and lowered once, and inlined by the
        # compiler. The jitted class is created per call, as Flax compares `conv` and
        # `norm` by identity. A block draws no random numbers.
        return nn.jit(build, rngs=False)

    def _kept(self, batch: int, noise: Noise) -> dict[int, jax.Array]:
        """Draws stochastic depth for all blocks at once.

        Returns:
          Factors of the residual branch, float32 ``[batch]``, by the index of each
          block that can be dropped.
        """
        blocks = self.architecture.blocks
        # As in the authors' code, the first block is never dropped, and the last stays
        # one step below the full rate.
        rates = {
            index: self.arguments.stochastic_depth * index / len(blocks)
            for index, stage in enumerate(blocks)
            if stage.adds and index >= self.frozen_blocks
        }
        rates = {index: rate for index, rate in rates.items() if rate}
        if not rates:
            return {}
        factors = keep_factors(
            self.make_rng("stochastic_depth"),
            (len(rates), batch),
            rate=jnp.array(list(rates.values()), jnp.float32)[:, None],
            noise=noise.get("stochastic_depth"),
        )
        return dict(zip(rates, factors, strict=True))

    @property
    def _dropout_rate(self) -> float:
        given = self.arguments.dropout_rate
        return self.architecture.dropout_rate if given is None else given

    @property
    def head(self) -> Head:
        """The layers after ``pooled`` as a module: dropout and classifier."""
        return Head(self.outputs, self._dropout_rate)


def efficientnet(
    architecture: Architecture,
    *,
    outputs: int,
    frozen_blocks: int = -1,
    **arguments: Any,
) -> EfficientNet:
    """Creates a member of the family.

    Args:
      architecture: stem, stages and head.
      outputs: see `EfficientNet`.
      frozen_blocks: see `EfficientNet`.
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
    return EfficientNet(architecture, outputs, given, frozen_blocks)


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
    build: Callable[..., Network],
    architecture: Architecture,
    *,
    backbone: str | None = None,
) -> Callable[..., Network]:
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


def _member(name: str) -> Callable[..., EfficientNet]:
    return member(efficientnet, architectures.MEMBERS[name])


efficientnet_b0 = _member("b0")
efficientnet_b1 = _member("b1")
efficientnet_b2 = _member("b2")
efficientnet_b3 = _member("b3")
efficientnet_b4 = _member("b4")
efficientnet_b5 = _member("b5")
efficientnet_b6 = _member("b6")
efficientnet_b7 = _member("b7")
efficientnet_b8 = _member("b8")
efficientnet_l0 = _member("l0")
efficientnet_l1 = _member("l1")
efficientnet_l2 = _member("l2")
efficientnet_lite0 = _member("lite0")
efficientnet_lite1 = _member("lite1")
efficientnet_lite2 = _member("lite2")
efficientnet_lite3 = _member("lite3")
efficientnet_lite4 = _member("lite4")
efficientnet_b0_small = _member("b0_small")
efficientnet_b1_small = _member("b1_small")
efficientnet_b2_small = _member("b2_small")
efficientnet_b3_small = _member("b3_small")
efficientnet_lite0_small = _member("lite0_small")
efficientnet_mini_s = _member("mini_s")
efficientnet_mini_m = _member("mini_m")
efficientnet_mini_l = _member("mini_l")
efficientnet_tiny_s = _member("tiny_s")
efficientnet_tiny_m = _member("tiny_m")
efficientnet_tiny_l = _member("tiny_l")
efficientnet_test = _member("test")

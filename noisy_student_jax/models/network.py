"""What the networks of this package share: model noise, batch norm, features, head.

A network is a stem, blocks, and a classifier on the mean of the last map. Its kind
(`models.efficientnet`, `models.resnet`) says what stem and block compute, and what lies
between the last block and the mean. A module takes normalized images and returns logits
and the last features of each stride, for use as the backbone of a detector.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from noisy_student_jax.core.model_arguments import ModelArguments
from noisy_student_jax.models import views
from noisy_student_jax.models.architectures import Architecture
from noisy_student_jax.models.head import Head
from noisy_student_jax.models.layers import (
    batch_norm,
    chosen,
    classify,
    convolution,
    keep_factors,
)

Noise = dict[str, jax.Array]
Conv = Callable[..., nn.Module]
"""Creates convolutions, as `layers.convolution`."""
Norm = Callable[..., jax.Array]
"""Applies batch norm and an activation, as `layers.batch_norm`."""


class Network(nn.Module):
    """A network of one kind, which a subclass defines.

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

    BLOCK: ClassVar[type[nn.Module]]
    """Built with an entry of `Architecture.blocks` as ``stage``, with ``conv``,
    ``norm`` and the `_options`; called with a map and the factors of its residual
    branch."""

    @property
    def _options(self) -> dict[str, Any]:
        """Further attributes of each block."""
        return {"activation": self.architecture.activation}

    @nn.nowrap
    def _stem(self, images: jax.Array, conv: Conv, norm: Norm) -> jax.Array:
        """Maps images to what the first block takes."""
        raise NotImplementedError

    @nn.nowrap
    def _top(self, hidden: jax.Array, conv: Conv, norm: Norm) -> jax.Array:
        """Maps the last block's activations to those whose mean is "pooled"."""
        return hidden

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

        top = functools.partial(norm, train=train)
        hidden = self._top(features[max(features)], conv, top)
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

    def _conv_and_norm(self) -> tuple[Conv, Norm]:
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
        conv: Conv,
        norm: Norm,
    ) -> dict[int, jax.Array]:
        """Returns the last activations of each stride, of stem and blocks."""
        norms = [functools.partial(norm, train=when) for when in (False, True)]
        hidden = images.astype(jnp.dtype(self.arguments.dtype))
        hidden = self._stem(hidden, conv, norms[train and self.frozen_blocks < 0])
        # The features of every frozen stride are cut off: a detector reads them too.
        if self.frozen_blocks >= 0:
            hidden = jax.lax.stop_gradient(hidden)

        stride = self.architecture.stem_stride
        features = {stride: hidden}
        kept = self._kept(images.shape[0], noise) if train else {}
        build = self._block_class(images)
        for index, stage in enumerate(self.architecture.blocks):
            block = build(
                stage=stage,
                conv=conv,
                norm=norms[train and index >= self.frozen_blocks],
                name=f"blocks_{index}",
                **self._options,
            )
            hidden = block(hidden, kept.get(index))
            if index < self.frozen_blocks:
                hidden = jax.lax.stop_gradient(hidden)
            stride *= stage.stride
            features[stride] = hidden
        return features

    def _block_class(self, images: jax.Array) -> Callable[..., nn.Module]:
        build = nn.remat(self.BLOCK) if self.arguments.remat else self.BLOCK
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

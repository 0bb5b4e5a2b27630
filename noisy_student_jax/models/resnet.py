"""Residual networks with model noise: ResNet-50, and Wide ResNet-28-2.

He et al., "Deep Residual Learning" (2016), with a stride in the 3×3 convolution as in
torchvision and timm (v1.5); Zagoruyko and Komodakis, "Wide Residual Networks" (2016),
as semi-supervised learning is compared on (Oliver et al., 2018), with leaky ReLUs.
Both keep this package's initial weights, which are He's, with the classifier's
as in EfficientNet; its dropout; and its stochastic depth, whose rate grows with the
block's index and stays one step below the full one.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax

from noisy_student_jax.models import constructors, initialize
from noisy_student_jax.models.architectures import Architecture
from noisy_student_jax.models.batch_norm import Activation
from noisy_student_jax.models.layers import branch
from noisy_student_jax.models.network import Conv, Network, Norm

BOTTLENECK = 4
"""Channels of a bottleneck's result, for each of its 3×3 convolution."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A sequence of residual blocks with the same number of output channels.

    Attributes:
      repeats: number of blocks.
      stride: of the first block.
      inputs: input channels of the stage.
      outputs: output channels of each block.
      pooled: whether a maximum over 3×3 pixels takes the stride of the first block.
    """

    repeats: int
    stride: int
    inputs: int
    outputs: int
    pooled: bool = False

    @property
    def adds(self) -> bool:
        """Whether a single block is residual, and can be dropped."""
        return True


def leaky_relu(values: jax.Array) -> jax.Array:
    """Returns leaky ReLU with the slope of the semi-supervised field's networks."""
    return jax.nn.leaky_relu(values, 0.1)


class Bottleneck(nn.Module):
    """Reduce, filter, expand, add, and the activation.

    The last scale starts at zero, so that a block starts as its shortcut (Goyal et
    al., 2017).

    Attributes:
      stage: an entry of `Architecture.blocks`.
      conv: creates convolutions.
      norm: applies batch norm and an activation.
      activation: of the network.
    """

    stage: Stage
    conv: Conv
    norm: Norm
    activation: Activation

    @nn.compact
    def __call__(self, images: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """Maps ``[batch, h, w, inputs]`` to ``[batch, ⌈h/s⌉, ⌈w/s⌉, outputs]``.

        Args:
          images: the input activations.
          kept: float32 ``[batch]``, factors of the residual branch per example, for
            stochastic depth; None for 1.
        """
        stage, conv, norm = self.stage, self.conv, self.norm
        activation = self.activation
        stride, width = stage.stride, stage.outputs // BOTTLENECK
        if stage.pooled and stride > 1:
            edges = ((1, 1), (1, 1))
            images = nn.max_pool(images, (3, 3), (stride, stride), edges)
            stride = 1
        hidden = conv(width, name="reduce_conv")(images)
        hidden = norm(hidden, activation, name="reduce_bn")
        spatial = conv(width, kernel=3, stride=stride, padding=1, name="spatial_conv")
        hidden = norm(spatial(hidden), activation, name="spatial_bn")
        hidden = conv(stage.outputs, name="expand_conv")(hidden)
        hidden = norm(hidden, scale_init=initialize.ZEROS, name="expand_bn")
        shortcut = images
        if stride > 1 or stage.inputs != stage.outputs:
            shortcut = conv(stage.outputs, name="shortcut_conv")(_every(images, stride))
            shortcut = norm(shortcut, name="shortcut_bn")
        return activation(branch(hidden, kept) + shortcut)


class PreActivation(nn.Module):
    """Batch norm, activation and 3×3 convolution twice, and add.

    Attributes:
      stage: an entry of `Architecture.blocks`.
      conv: creates convolutions.
      norm: applies batch norm and an activation.
      activation: of the network.
    """

    stage: Stage
    conv: Conv
    norm: Norm
    activation: Activation

    @nn.compact
    def __call__(self, images: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """See `Bottleneck`."""
        stage, conv, norm = self.stage, self.conv, self.norm
        activation = self.activation
        wider = stage.inputs != stage.outputs
        activated = norm(images, activation, name="first_bn")
        first = conv(stage.outputs, kernel=3, stride=stage.stride, name="first_conv")
        hidden = norm(first(activated), activation, name="second_bn")
        hidden = conv(stage.outputs, kernel=3, name="second_conv")(hidden)
        # The network's first block, which is wider only, projects what is activated.
        shortcut = activated if wider and stage.stride == 1 else images
        if wider or stage.stride > 1:
            shortcut = _every(shortcut, stage.stride)
            shortcut = conv(stage.outputs, name="shortcut_conv")(shortcut)
        return branch(hidden, kept) + shortcut


def _every(images: jax.Array, stride: int) -> jax.Array:
    """Returns the pixels that a strided 1×1 convolution reads."""
    return images[:, ::stride, ::stride] if stride > 1 else images


class ResNet(Network):
    """A residual network of bottlenecks."""

    BLOCK = Bottleneck

    @nn.nowrap
    def _stem(self, images: jax.Array, conv: Conv, norm: Norm) -> jax.Array:
        own = self.architecture
        stem = conv(
            own.stem, kernel=7, stride=own.stem_stride, padding=3, name="stem_conv"
        )
        return norm(stem(images), own.activation, name="stem_bn")


class WideResNet(Network):
    """A wide residual network; its features are not normalized or activated yet."""

    BLOCK = PreActivation

    @nn.nowrap
    def _stem(self, images: jax.Array, conv: Conv, norm: Norm) -> jax.Array:
        own = self.architecture
        return conv(own.stem, kernel=3, stride=own.stem_stride, name="stem_conv")(
            images
        )

    @nn.nowrap
    def _top(self, hidden: jax.Array, conv: Conv, norm: Norm) -> jax.Array:
        return norm(hidden, self.architecture.activation, name="head_bn")


RESNET50 = Architecture(
    stem=64,
    stages=(
        Stage(3, 2, 64, 256, pooled=True),
        Stage(4, 2, 256, 512),
        Stage(6, 2, 512, 1024),
        Stage(3, 2, 1024, 2048),
    ),
    head=2048,
    resolution=224,
    dropout_rate=0.0,
    activation=jax.nn.relu,
)
WRN_28_2 = Architecture(
    stem=16,
    stages=(Stage(4, 1, 16, 32), Stage(4, 2, 32, 64), Stage(4, 2, 64, 128)),
    head=128,
    resolution=32,
    stem_stride=1,
    dropout_rate=0.0,
    activation=leaky_relu,
)


def _member(kind: type[Network], architecture: Architecture) -> Any:
    build = functools.partial(constructors.build, kind)
    return constructors.member(build, architecture)


resnet50 = _member(ResNet, RESNET50)
wrn_28_2 = _member(WideResNet, WRN_28_2)

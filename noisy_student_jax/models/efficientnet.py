"""EfficientNet with the model noise of Noisy Student: dropout and stochastic depth.

Tan and Le, "EfficientNet" (2019), as in `efficientnet_model.py` of the authors' code.
A module takes normalized images and returns logits and the last features of each
stride, for use as the backbone of a detector.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from noisy_student_jax.models import architectures, constructors
from noisy_student_jax.models.architectures import Stage
from noisy_student_jax.models.layers import DepthwiseConv, branch
from noisy_student_jax.models.network import Conv, Network, Norm


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
    conv: Conv
    norm: Norm
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
            hidden = branch(hidden, kept) + images
        return hidden


class EfficientNet(Network):
    """A member of the family."""

    BLOCK = Block

    @property
    def _options(self) -> dict[str, Any]:
        given = self.arguments
        own = {"dtype": jnp.dtype(given.dtype), "depthwise": given.depthwise}
        return super()._options | own

    @nn.nowrap
    def _stem(self, images: jax.Array, conv: Conv, norm: Norm) -> jax.Array:
        own = self.architecture
        stem = conv(own.stem, kernel=3, stride=own.stem_stride, name="stem_conv")
        return norm(stem(images), own.activation, name="stem_bn")

    @nn.nowrap
    def _top(self, hidden: jax.Array, conv: Conv, norm: Norm) -> jax.Array:
        hidden = conv(self.architecture.head, name="head_conv")(hidden)
        return norm(hidden, self.architecture.activation, name="head_bn")


def _member(name: str) -> Callable[..., EfficientNet]:
    build = functools.partial(constructors.build, EfficientNet)
    return constructors.member(build, architectures.MEMBERS[name])


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

"""Any member of the family as a PyTorch user would write it, for an equal comparison.

It is built from the same table of shapes, with TensorFlow's SAME padding (a separate
pad only where it is uneven), and with batch norm, activation and squeeze-and-excitation
in place.
"""

import itertools
import operator

import jax
import numpy as np
import torch
from flax import traverse_util
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from noisy_student_jax.core.types import PyTree
from noisy_student_jax.interop import timm_names
from noisy_student_jax.models.architectures import Architecture, Stage

STEM = 3
"""Layers of a stem."""
BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}


class Same(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride=1, groups=1):
        super().__init__(
            inputs,
            outputs,
            kernel,
            stride=stride,
            groups=groups,
            bias=False,
            padding=(kernel - 1) // 2 if stride == 1 else 0,
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps ``[n, inputs, h, w]`` to ``[n, outputs, ⌈h/s⌉, ⌈w/s⌉]``."""
        if self.stride[0] == 1:
            return super().forward(images)
        (height, width), pads = images.shape[-2:], []
        for side in (width, height):
            output = -(-side // self.stride[0])
            total = (output - 1) * self.stride[0] + self.kernel_size[0] - side
            pads += [max(total, 0) // 2, max(total, 0) - max(total, 0) // 2]
        return super().forward(nn.functional.pad(images, pads))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, squeezed: int, act: type[nn.Module]):
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.act = act(inplace=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Keeps the shape."""
        gate = images.mean((2, 3), keepdim=True)
        return images * self.expand(self.act(self.reduce(gate))).sigmoid()


class Block(nn.Module):
    """MBConv, or its fused form."""

    def __init__(
        self, stage: Stage, inputs: int, stride: int, drop: float, act: type[nn.Module]
    ):
        super().__init__()
        self.residual = stride == 1 and inputs == stage.outputs
        self.drop = drop
        middle = inputs * stage.expand
        layers: list[nn.Module] = []

        def normed(conv: nn.Module, channels: int) -> list[nn.Module]:
            norm = nn.BatchNorm2d(channels, **BATCH_NORM)
            return [conv, norm, act(inplace=True)]

        if stage.fused:
            layers += normed(Same(inputs, middle, stage.kernel, stride=stride), middle)
        else:
            if stage.expand != 1:
                layers += normed(Same(inputs, middle, 1), middle)
            depthwise = Same(middle, middle, stage.kernel, stride=stride, groups=middle)
            layers += normed(depthwise, middle)
        if stage.se_ratio:
            layers.append(Gate(middle, max(1, int(inputs * stage.se_ratio)), act))
        layers += normed(Same(middle, stage.outputs, 1), stage.outputs)[:2]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps ``[n, inputs, h, w]`` to ``[n, outputs, ⌈h/s⌉, ⌈w/s⌉]``."""
        hidden = self.layers(images)
        if not self.residual:
            return hidden
        return dropped(hidden, self) + images


def dropped(hidden: torch.Tensor, block: nn.Module) -> torch.Tensor:
    """Applies stochastic depth at the rate `drop` of a block in training."""
    if not (block.training and block.drop):
        return hidden
    keep = 1 - block.drop
    mask = torch.empty(len(hidden), 1, 1, 1).bernoulli_(keep).div_(keep)
    return hidden * mask


def torch_twin(
    architecture: Architecture, *, outputs: int, stochastic_depth: float = 0.2
) -> nn.Module:
    """Builds the PyTorch module of an architecture, for images ``[n, 3, h, w]``."""
    act = activation(architecture)
    return nn.Sequential(
        *stem_and_blocks(architecture, act, stochastic_depth),
        Same(architecture.stages[-1].outputs, architecture.head, 1),
        nn.BatchNorm2d(architecture.head, **BATCH_NORM),
        act(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(architecture.dropout_rate),
        nn.Linear(architecture.head, outputs),
    )


def activation(architecture: Architecture) -> type[nn.Module]:
    return nn.ReLU6 if architecture.activation is jax.nn.relu6 else nn.SiLU


def stem_and_blocks(
    architecture: Architecture, act: type[nn.Module], stochastic_depth: float
) -> list[nn.Module]:
    """Returns the stem's `STEM` layers, and the blocks."""
    blocks = architecture.blocks
    return [
        Same(3, architecture.stem, 3, stride=architecture.stem_stride),
        nn.BatchNorm2d(architecture.stem, **BATCH_NORM),
        act(inplace=True),
        *(
            Block(
                stage,
                stage.inputs,
                stage.stride,
                stochastic_depth * number / len(blocks),
                act,
            )
            for number, stage in enumerate(blocks)
        ),
    ]


class Backbone(nn.Module):
    """The stem and blocks of an architecture, for a detector.

    Attributes:
      channels: of the last activations of each stride.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        stochastic_depth: float = 0.2,
        frozen_blocks: int = -1,
    ):
        """Builds it.

        Args:
          architecture: its stages; their head is left out.
          stochastic_depth: the drop rate that the rates of the blocks approach.
          frozen_blocks: the stem and this number of blocks are not trained, and keep
            their batch norm; -1 trains everything.
        """
        super().__init__()
        layers = stem_and_blocks(
            architecture, activation(architecture), stochastic_depth
        )
        self.stem = nn.Sequential(*layers[:STEM])
        self.blocks = nn.ModuleList(layers[STEM:])
        steps = (architecture.stem_stride, *(one.stride for one in architecture.blocks))
        self.strides = list(itertools.accumulate(steps, operator.mul))[1:]
        outputs = (stage.outputs for stage in architecture.blocks)
        self.channels = dict(zip(self.strides, outputs, strict=True))
        self.frozen = [self.stem, *self.blocks][: frozen_blocks + 1]
        for part in self.frozen:
            part.requires_grad_(False)
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 0.1

    def train(self, mode: bool = True) -> "Backbone":
        """Leaves what is frozen in evaluation mode."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def forward(self, images: torch.Tensor) -> dict[int, torch.Tensor]:
        """Maps ``[n, 3, h, w]`` to the last activations of each stride of blocks."""
        hidden, found = self.stem(images), {}
        for block, stride in zip(self.blocks, self.strides, strict=True):
            hidden = block(hidden)
            found[stride] = hidden
        return found

    def load(self, architecture: Architecture, variables: PyTree) -> None:
        """Copies our variables, whose order is that of the module's own."""
        ours = traverse_util.flatten_dict(variables, sep="/")
        names = [name for name in self.state_dict() if not name.endswith("_tracked")]
        rows = timm_names.rows(architecture)[: len(names)]
        self.load_state_dict(
            {
                name: torch.tensor(row.to_theirs(np.asarray(ours[row.ours])))
                for name, row in zip(names, rows, strict=True)
            },
            strict=False,
        )


def fold_batch_norm(module: nn.Module) -> None:
    """Folds each batch norm of an evaluated module into the convolution before it."""
    for child in list(module.modules()):
        if not isinstance(child, nn.Sequential):
            continue
        for index in range(len(child) - 1):
            first, second = child[index], child[index + 1]
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                child[index] = fuse_conv_bn_eval(first, second)
                child[index + 1] = nn.Identity()

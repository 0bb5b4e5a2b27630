"""Any member of the family as a PyTorch user would write it, for an equal comparison.

It is built from the same table of shapes, with TensorFlow's SAME padding (a separate
pad only where it is uneven), and with batch norm, activation and squeeze-and-excitation
in place.
"""

import itertools

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from noisy_student_jax.models.architectures import Architecture, Stage

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
        if self.training and self.drop:
            keep = 1 - self.drop
            mask = torch.empty(len(hidden), 1, 1, 1).bernoulli_(keep).div_(keep)
            hidden = hidden * mask
        return hidden + images


def torch_twin(
    architecture: Architecture, *, outputs: int, stochastic_depth: float = 0.2
) -> nn.Module:
    """Builds the PyTorch module of an architecture, for images ``[n, 3, h, w]``."""
    swish = architecture.activation is not None and "relu" not in str(
        architecture.activation
    )
    act = nn.SiLU if swish else nn.ReLU6
    plan = [
        (stage, index)
        for stage, index in itertools.chain.from_iterable(
            ((stage, index) for index in range(stage.repeats))
            for stage in architecture.stages
        )
    ]
    layers: list[nn.Module] = [
        Same(3, architecture.stem, 3, stride=architecture.stem_stride),
        nn.BatchNorm2d(architecture.stem, **BATCH_NORM),
        act(inplace=True),
    ]
    for number, (stage, index) in enumerate(plan):
        layers.append(
            Block(
                stage,
                stage.outputs if index else stage.inputs,
                1 if index else stage.stride,
                stochastic_depth * number / len(plan),
                act,
            )
        )
    layers += [
        Same(architecture.stages[-1].outputs, architecture.head, 1),
        nn.BatchNorm2d(architecture.head, **BATCH_NORM),
        act(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(architecture.dropout_rate),
        nn.Linear(architecture.head, outputs),
    ]
    return nn.Sequential(*layers)


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

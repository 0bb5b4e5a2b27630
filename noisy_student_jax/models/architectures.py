"""Architectures: those of the EfficientNet family, with stages and scaling rules.

The numbers are from the authors' `efficientnet_builder.py`; those of L2 from
`noisystudent`'s, those of L0 and L1 from the first version of the paper, those of Lite
from `efficientnet_lite_builder.py`. The tiny and mini members are specific to this
project, for small images and small photographs on a CPU.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from noisy_student_jax.images.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class Stage:
    """A sequence of blocks with the same number of output channels.

    Only the first block changes resolution and width.

    Attributes:
      repeats: number of blocks.
      kernel: size of the spatial convolution.
      stride: of the first block.
      expand: expansion ratio of a block, relative to its input channels.
      inputs: input channels of the stage.
      outputs: output channels of each block.
      fused: whether one full convolution replaces the 1×1 expansion and the
        depthwise convolution.
      se_ratio: squeeze width relative to the block's input channels; 0 for none.
    """

    repeats: int
    kernel: int
    stride: int
    expand: int
    inputs: int
    outputs: int
    fused: bool = False
    se_ratio: float = 0.25

    @property
    def adds(self) -> bool:
        """Whether a single block is residual, and can be dropped."""
        return self.stride == 1 and self.inputs == self.outputs


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network's dimensions, with its defaults.

    Attributes:
      stem: channels of the first convolution.
      stages: the stages between stem and head: each a `Stage`, or of another kind of
        network (`models.resnet`).
      head: input channels of the classifier.
      resolution: default height and width of the images.
      stem_stride: of the first convolution.
      dropout_rate: before the classifier.
      activation: after every batch norm but a block's last, and inside
        squeeze-and-excitation; of a residual network, where it has one.
      mean: of the images per channel, on the 0–1 scale.
      std: of the images per channel, on the 0–1 scale.
    """

    stem: int
    stages: tuple[Any, ...]
    head: int
    resolution: int
    stem_stride: int = 2
    dropout_rate: float = 0.2
    activation: Callable[[jax.Array], jax.Array] = jax.nn.swish
    mean: tuple[float, ...] = Preprocessing.mean
    std: tuple[float, ...] = Preprocessing.std

    @property
    def blocks(self) -> tuple[Any, ...]:
        """All blocks in order, each as a stage with one block."""
        return tuple(
            dataclasses.replace(stage, repeats=1)
            if number == 0
            else dataclasses.replace(stage, repeats=1, stride=1, inputs=stage.outputs)
            for stage in self.stages
            for number in range(stage.repeats)
        )


_B0_STAGES = (
    Stage(1, 3, 1, 1, 32, 16),
    Stage(2, 3, 2, 6, 16, 24),
    Stage(2, 5, 2, 6, 24, 40),
    Stage(3, 3, 2, 6, 40, 80),
    Stage(3, 5, 1, 6, 80, 112),
    Stage(4, 5, 2, 6, 112, 192),
    Stage(1, 3, 1, 6, 192, 320),
)


def round_filters(channels: int, width: float) -> int:
    """Scales channels and rounds to a multiple of 8, to at least 90 % of the scaled."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def round_repeats(repeats: int, depth: float) -> int:
    """Scales a number of blocks, rounding up."""
    return math.ceil(depth * repeats)


def scaled(
    width: float, depth: float, resolution: int, dropout_rate: float
) -> Architecture:
    """Scales B0 in width, including stem and head, and depth."""
    stages = tuple(
        dataclasses.replace(
            stage,
            repeats=round_repeats(stage.repeats, depth),
            inputs=round_filters(stage.inputs, width),
            outputs=round_filters(stage.outputs, width),
        )
        for stage in _B0_STAGES
    )
    return Architecture(
        stem=round_filters(32, width),
        stages=stages,
        head=round_filters(1280, width),
        resolution=resolution,
        dropout_rate=dropout_rate,
    )


def lite(
    width: float, depth: float, resolution: int, dropout_rate: float
) -> Architecture:
    """Scales Lite0 in width and depth.

    Stem and head keep their width, the first and the last stage their depth.
    """
    whole = scaled(width, depth, resolution, dropout_rate)
    first, *middle, last = whole.stages
    first = dataclasses.replace(first, repeats=_B0_STAGES[0].repeats, inputs=32)
    last = dataclasses.replace(last, repeats=_B0_STAGES[-1].repeats)
    return dataclasses.replace(
        whole,
        stem=32,
        stages=tuple(
            dataclasses.replace(stage, se_ratio=0.0) for stage in (first, *middle, last)
        ),
        head=1280,
        activation=jax.nn.relu6,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )


def _small(architecture: Architecture) -> Architecture:
    """Applies the authors' change for SVHN: stages 2 and 3 have stride 1."""
    first, second, third, *others = architecture.stages
    second = dataclasses.replace(second, stride=1)
    third = dataclasses.replace(third, stride=1)
    return dataclasses.replace(
        architecture, stages=(first, second, third, *others), resolution=32
    )


def _mini(stem: int, stages: tuple[Stage, ...], head: int) -> Architecture:
    return Architecture(stem, stages, head, resolution=64)


def _tiny(stem: int, stages: tuple[Stage, ...], head: int) -> Architecture:
    return Architecture(stem, stages, head, resolution=16, stem_stride=1)


_B0 = scaled(1.0, 1.0, 224, 0.2)
_B1 = scaled(1.0, 1.1, 240, 0.2)
_B2 = scaled(1.1, 1.2, 260, 0.3)
_B3 = scaled(1.2, 1.4, 300, 0.3)
_LITE0 = lite(1.0, 1.0, 224, 0.2)

MEMBERS: dict[str, Architecture] = {
    "b0": _B0,
    "b1": _B1,
    "b2": _B2,
    "b3": _B3,
    "b4": scaled(1.4, 1.8, 380, 0.4),
    "b5": scaled(1.6, 2.2, 456, 0.4),
    "b6": scaled(1.8, 2.6, 528, 0.5),
    "b7": scaled(2.0, 3.1, 600, 0.5),
    "b8": scaled(2.2, 3.6, 672, 0.5),
    # The paper trains these three at a lower resolution than it tests them.
    "l0": scaled(2.8, 3.7, 380, 0.5),
    "l1": scaled(3.9, 3.7, 380, 0.5),
    "l2": scaled(4.3, 5.3, 475, 0.5),
    "lite0": _LITE0,
    "lite1": lite(1.0, 1.1, 240, 0.2),
    "lite2": lite(1.1, 1.2, 260, 0.3),
    "lite3": lite(1.2, 1.4, 280, 0.3),
    "lite4": lite(1.4, 1.8, 300, 0.3),
    "b0_small": _small(_B0),
    "b1_small": _small(_B1),
    "b2_small": _small(_B2),
    "b3_small": _small(_B3),
    "lite0_small": _small(_LITE0),
    "mini_s": _mini(
        16,
        (
            Stage(1, 3, 2, 3, 16, 24, fused=True, se_ratio=0.0),
            Stage(2, 3, 2, 3, 24, 32, fused=True, se_ratio=0.0),
            Stage(2, 3, 2, 3, 32, 56, fused=True),
        ),
        192,
    ),
    "mini_m": _mini(
        16,
        (
            Stage(1, 3, 2, 4, 16, 32, fused=True, se_ratio=0.0),
            Stage(2, 3, 2, 4, 32, 48, fused=True, se_ratio=0.0),
            Stage(3, 3, 2, 3, 48, 80, fused=True),
        ),
        256,
    ),
    "mini_l": _mini(
        24,
        (
            Stage(1, 3, 2, 4, 24, 32, fused=True, se_ratio=0.0),
            Stage(3, 3, 2, 4, 32, 64, fused=True, se_ratio=0.0),
            Stage(3, 3, 2, 4, 64, 112, fused=True),
        ),
        384,
    ),
    "tiny_s": _tiny(
        8,
        (
            Stage(1, 3, 2, 3, 8, 16, fused=True),
            Stage(2, 3, 2, 2, 16, 24, fused=True),
        ),
        64,
    ),
    "tiny_m": _tiny(
        12,
        (
            Stage(1, 3, 2, 3, 12, 24, fused=True),
            Stage(2, 3, 2, 3, 24, 32, fused=True),
        ),
        128,
    ),
    "tiny_l": _tiny(
        16,
        (
            Stage(2, 3, 2, 3, 16, 24, fused=True),
            Stage(3, 3, 2, 3, 24, 40, fused=True),
        ),
        192,
    ),
    # A strided, a fused and a residual block, with the least code to compile.
    "test": Architecture(
        stem=8,
        stages=(
            Stage(1, 3, 2, 2, 8, 16),
            Stage(1, 3, 1, 2, 16, 16, fused=True),
        ),
        head=32,
        resolution=8,
        stem_stride=1,
    ),
}

"""The shapes of the EfficientNet family: stages, scaling rules, members.

Numbers from the authors' `efficientnet_builder.py`; those of L2 from
`noisystudent`'s. The tiny members are this project's, for small images on a CPU.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run of blocks at one width.

    Stride and change of width belong to the first block alone.

    Attributes:
      repeats: number of blocks.
      kernel: size of the spatial convolution.
      stride: of the first block.
      expand: widening inside a block, relative to its input.
      inputs: channels that enter the stage.
      outputs: channels that leave each block.
      fused: whether one full convolution stands for the 1×1 expansion and the
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


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A member of the family, with what it is used at by default."""

    stem: int
    stages: tuple[Stage, ...]
    head: int
    resolution: int
    stem_stride: int = 2
    dropout_rate: float = 0.2


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
    """Scales a number of channels to a multiple of 8, never below 90 % of the exact."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def round_repeats(repeats: int, depth: float) -> int:
    """Scales a number of blocks, upwards."""
    return math.ceil(depth * repeats)


def scaled(
    width: float, depth: float, resolution: int, dropout_rate: float
) -> Architecture:
    """B0 at another width and depth; stem and head widen with the rest."""
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


def _small_image(architecture: Architecture, resolution: int) -> Architecture:
    """The authors' change for SVHN: stages 2 and 3 keep their resolution."""
    first, second, third, *others = architecture.stages
    second = dataclasses.replace(second, stride=1)
    third = dataclasses.replace(third, stride=1)
    return dataclasses.replace(
        architecture, stages=(first, second, third, *others), resolution=resolution
    )


def _tiny(stem: int, stages: tuple[Stage, ...], head: int) -> Architecture:
    return Architecture(stem, stages, head, resolution=16, stem_stride=1)


MEMBERS: dict[str, Architecture] = {
    "b0": scaled(1.0, 1.0, 224, 0.2),
    "b1": scaled(1.0, 1.1, 240, 0.2),
    "b2": scaled(1.1, 1.2, 260, 0.3),
    "b3": scaled(1.2, 1.4, 300, 0.3),
    "b4": scaled(1.4, 1.8, 380, 0.4),
    "b5": scaled(1.6, 2.2, 456, 0.4),
    "b6": scaled(1.8, 2.6, 528, 0.5),
    "b7": scaled(2.0, 3.1, 600, 0.5),
    "l2": scaled(4.3, 5.3, 475, 0.5),
    "b0_svhn": _small_image(scaled(1.0, 1.0, 224, 0.2), 32),
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
    # One of each kind in the least code to compile: strided, fused, residual.
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

"""The options of input noise, and the numbering of its random streams.

This module is independent of JAX and shared by the device backend (``noise.py``), the
host's draws (``host_draws.py``, ``crops.py``) and TensorFlow's backend
(``data/streaming/noise.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from noisy_student_jax.augment.randaugment_table import (
    IMAGENET_CONSTANTS,
    RandAugmentConstants,
    check_behavior,
)
from noisy_student_jax.core.errors import UserError, nearest

# Each source's number is folded into the example's key, so switching one source off
# does not change the draws of the others. Never renumber.
FLIP, RANDAUGMENT, CUTOUT, CROP, RESIZED_CROP = range(5)

_IN_CONFIG = {"form": "randaugment_form"}
"""Names of fields in configs, where they differ."""

FORMS = ("auto", "one_by_one", "together")
"""Ways to compute RandAugment of a batch on the device; see `augment_batch`."""


@dataclass(frozen=True)
class InputNoise:
    """The input noise of one stream; all off by default.

    Attributes:
        randaugment_layers: the paper's N; 0 is off.
        randaugment_magnitude: the paper's M.
        randaugment_behavior: ``reference`` or ``clean``: see ``randaugment_table.py``.
        constants: RandAugment's dataset-dependent constants.
        flip: whether to flip horizontally with probability 1/2.
        crop_padding: reflection padding in pixels before a random crop to the original
            size; 0 is off.
        cutout_size: side of a gray square with its center anywhere in the image; 0 is
            off. The authors use 16 on SVHN.
        crop_area: the least area of a random resized crop, as a fraction of the
            original image, 0.08 in the authors' ImageNet pipeline; 0 is off and takes
            the center crop of evaluation. This crop is applied first, where the
            original image is decoded (``crops.py``): `augment_image` and
            `augment_batch` receive its result and ignore this field.
        form: how `augment_batch` computes RandAugment, one of `FORMS`; the pixels
            are the same.
    """

    randaugment_layers: int = 0
    randaugment_magnitude: float = 0.0
    constants: RandAugmentConstants = IMAGENET_CONSTANTS
    flip: bool = False
    crop_padding: int = 0
    cutout_size: int = 0
    crop_area: float = 0.0
    randaugment_behavior: str = "reference"
    form: str = "auto"

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> "InputNoise":
        """Takes the fields of a stream's ``noise`` section."""
        taken = {
            field.name: section[name]
            for field in fields(cls)
            if (name := _IN_CONFIG.get(field.name, field.name)) in section
        }
        constants = RandAugmentConstants(
            translate=section["randaugment_translate"],
            cutout=section["randaugment_cutout"],
        )
        return cls(**taken, constants=constants)

    @property
    def is_off(self) -> bool:
        """Whether `augment_batch` returns images unchanged."""
        return not (
            self.randaugment_layers
            or self.flip
            or self.crop_padding
            or self.cutout_size
        )

    def check(self, *, height: int, width: int) -> None:
        """Checks that images are large enough.

        Raises:
            UserError: the crop's reflection padding exceeds the image.
        """
        if self.crop_padding > min(height, width) - 1:
            raise UserError(
                f"crop_padding={self.crop_padding} is too large for images of "
                f"{height}×{width} pixels, whose reflection reaches "
                f"{min(height, width) - 1}."
            )

    def __post_init__(self) -> None:
        check_behavior(self.randaugment_behavior)
        if self.form not in FORMS:
            raise UserError(
                f"RandAugment's form is '{self.form}', but may only be one of"
                f" {', '.join(FORMS)}{nearest(self.form, FORMS)}."
            )
        for name in (
            "randaugment_layers",
            "randaugment_magnitude",
            "crop_padding",
            "cutout_size",
        ):
            if getattr(self, name) < 0:
                raise UserError(
                    f"Input noise has {name}={getattr(self, name)}; it must be 0 "
                    "(off) or more."
                )
        if not 0 <= self.crop_area <= 1:
            raise UserError(
                f"Input noise has crop_area={self.crop_area}; it must be a share of "
                "the image's area, above 0 and up to 1, or 0 (off)."
            )

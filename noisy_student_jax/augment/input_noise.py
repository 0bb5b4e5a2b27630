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
FLIP, RANDAUGMENT, CUTOUT, CROP, RESIZED_CROP, ZOOM, TURNS = range(7)

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
        zoom: the largest factor by which the picture is enlarged or reduced, to a
            random place; the factor is uniform on a logarithmic scale. 0 is off.
        turns: whether to turn by 0 to 3 quarters, each with probability 1/4. Zoom and
            turns need targets that move: `augment_moved` alone applies them.
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
    zoom: float = 0.0
    turns: bool = False
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
        """Whether `augment_batch` and `augment_moved` return images unchanged."""
        return not (self.moves or self.cutout_size)

    @property
    def moves(self) -> bool:
        """Whether something in an image may be elsewhere afterwards."""
        return bool(
            self.randaugment_layers
            or self.flip
            or self.crop_padding
            or self.needs_moved_targets
        )

    @property
    def needs_moved_targets(self) -> bool:
        """Whether a source is on that only `augment_moved` applies."""
        return self.zoom > 1 or self.turns

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
        if self.zoom and not 1 <= self.zoom < float("inf"):
            raise UserError(
                f"Input noise has zoom={self.zoom}; it must be the largest factor of"
                " an enlargement, 1 or more, or 0 (off)."
            )

"""Image preprocessing: crop and resize, shared by all input pipelines.

`label`, `evaluate`, `predict` and resident training images all use this module, so
weights always see the preprocessing they were trained with. It needs only Pillow and
NumPy.
"""

import dataclasses
import functools
import json
import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from noisy_student_jax.augment.randaugment_table import FILL
from noisy_student_jax.core import console
from noisy_student_jax.core.errors import UserError, one_line
from noisy_student_jax.images import resize_tf1
from noisy_student_jax.images.letterbox import letterbox
from noisy_student_jax.images.resize import (
    BICUBIC_TF1,
    INTERPOLATIONS,
    Bicubic,
    Box,
)

MOST_SIDE = 1 << 14
"""Largest side of a model's input, in pixels."""

CENTER_CROP, LETTERBOX = FRAMINGS = "center_crop", "letterbox"
"""Ways to make a square of an image: its middle, or all of it beside gray."""


@functools.cache
def compiled_bicubic() -> Bicubic | None:
    """Returns Pillow's bicubic resize compiled by Numba; None without Numba.

    It gives the same pixels several times faster (``resize_numba.py``). Loading takes a
    second, and longer the first time, so it only pays off for many images.
    """
    try:
        from noisy_student_jax.images import resize_numba

        return resize_numba.load()
    except ImportError:
        return None
    except Exception as error:  # Numba raises many kinds if it cannot compile or cache
        console.warn(
            f"Numba cannot be used here ({one_line(error)}): images are resized by"
            " Pillow, which takes longer"
        )
        return None


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The preprocessing that a model's weights expect.

    Attributes:
      resolution: side of the square model input, in pixels.
      crop_padding: the center crop is ``resolution / (resolution + crop_padding)``
        of the shorter side (32 in the authors' ``preprocessing.py``; 0 takes the
        whole shorter side).
      interpolation: Pillow's ``bicubic`` or ``bilinear``; or ``bicubic_tf1``, which the
        authors used.
      mean: per channel, on the 0–1 scale.
      std: per channel, on the 0–1 scale.
      framing: ``center_crop``, or ``letterbox`` for whole images at their aspect
        (``images/letterbox.py``), by one of Pillow's interpolations.
    """

    resolution: int
    crop_padding: int = 32
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    framing: str = CENTER_CROP

    def __post_init__(self) -> None:
        if self.interpolation not in (*INTERPOLATIONS, BICUBIC_TF1):
            known = ", ".join((*INTERPOLATIONS, BICUBIC_TF1))
            raise UserError(
                f"interpolation '{self.interpolation}' is not known: choose {known}"
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(
                isinstance(value, numbers.Real)
                and not isinstance(value, bool)
                and math.isfinite(value)
                for value in values
            ):
                raise UserError(
                    f"preprocessing needs a {name} of three finite numbers, got"
                    f" {_told(values)}"
                )
        if not all(value > 0 for value in self.std):
            raise UserError(
                f"preprocessing divides by std, so that each must be above 0, got"
                f" {_told(self.std)}"
            )
        for name, least in (("resolution", 1), ("crop_padding", 0)):
            value = getattr(self, name)
            if (
                not isinstance(value, numbers.Integral)
                or isinstance(value, bool)
                or not least <= int(value) <= MOST_SIDE
            ):
                raise UserError(
                    f"preprocessing needs a {name} from {least} to {MOST_SIDE:,}"
                    f" pixels, got {_told(value)}"
                )
        if self.framing not in FRAMINGS:
            raise UserError(
                f"framing '{self.framing}' is not known: choose {', '.join(FRAMINGS)}"
            )
        if self.framing == LETTERBOX and self.interpolation == BICUBIC_TF1:
            raise UserError(
                f"framing 'letterbox' cannot be resized by '{BICUBIC_TF1}': choose"
                f" interpolation {' or '.join(INTERPOLATIONS)}"
            )
        if self.framing == LETTERBOX and self.crop_padding:
            raise UserError(
                "framing 'letterbox' shows whole images, but crop_padding is"
                f" {self.crop_padding}: set crop_padding to 0"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the fields for JSON and identities; the usual framing is left out.

        Models and runs from before there was a choice are thereby the same.
        """
        fields = dataclasses.asdict(self)
        if self.framing == CENTER_CROP:
            del fields["framing"]
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Preprocessing":
        """Inverts `to_json`, also after a round trip through JSON."""
        fields = dict(fields)
        fields["mean"], fields["std"] = tuple(fields["mean"]), tuple(fields["std"])
        return cls(**fields)

    @property
    def dtype(self) -> type[np.generic]:
        """The dtype of `apply`'s result.

        The authors neither clip nor round evaluation images, so ``bicubic_tf1`` gives
        float32; Pillow gives uint8.
        """
        return np.float32 if self.interpolation == BICUBIC_TF1 else np.uint8

    def apply(self, image: np.ndarray, *, bicubic: Bicubic | None = None) -> np.ndarray:
        """Frames and resizes one image for evaluation.

        Args:
          image: uint8 ``[height, width, 3]``.
          bicubic: a resize function to use instead of Pillow's, with equal results.

        Returns:
          `dtype` ``[resolution, resolution, 3]``.
        """
        if self.framing == LETTERBOX:
            how = INTERPOLATIONS[self.interpolation]
            return letterbox(image, self.resolution, how)
        ((top, left, side, _),) = self.center_crop(*np.array(image.shape[:2])[:, None])
        return self.resized(
            image[top : top + side, left : left + side], bicubic=bicubic
        )

    def center_crop(self, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """Returns the crops of evaluation, with the framing ``center_crop``.

        Args:
          heights: int64 ``[images]``.
          widths: int64 ``[images]``.

        Returns:
          int64 ``[images, 4]``: top, left, height and width.
        """
        fraction = self.resolution / (self.resolution + self.crop_padding)
        short = np.minimum(heights, widths)
        side = np.maximum(1, (fraction * short).astype(np.int64))
        top, left = (heights - side + 1) // 2, (widths - side + 1) // 2
        return np.stack([top, left, side, side], axis=-1)

    def apply_box(
        self,
        image: np.ndarray,
        top: int,
        left: int,
        height: int,
        width: int,
        *,
        bicubic: Bicubic | None = None,
    ) -> np.ndarray:
        """Crops a box of one image and resizes it, for training.

        Args:
          image: uint8 ``[height, width, 3]``.
          top: of the box.
          left: of the box.
          height: of the box.
          width: of the box.
          bicubic: see `apply`.

        Returns:
          uint8 ``[resolution, resolution, 3]``.
        """
        part = image[top : top + height, left : left + width]
        return to_uint8(self.resized(part, bicubic=bicubic))

    def apply_crop(
        self,
        image: np.ndarray,
        box: tuple[int, int, int, int],
        *,
        bicubic: Bicubic | None = None,
    ) -> np.ndarray:
        """Crops and resizes a box from `augment.crops.crop_boxes`, for training.

        Args:
          image: uint8 ``[height, width, 3]``.
          box: top, left, height and width; height 0 selects the framing of evaluation.
          bicubic: see `apply`.

        Returns:
          uint8 ``[resolution, resolution, 3]``.
        """
        if box[2]:
            return self.apply_box(image, *box, bicubic=bicubic)
        return to_uint8(self.apply(image, bicubic=bicubic))

    def apply_all(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Preprocesses many images; returns `dtype` ``[count, side, side, 3]``."""
        done = [self.apply(image) for image in images]
        shape = (0, self.resolution, self.resolution, 3)
        return np.stack(done) if done else np.zeros(shape, self.dtype)

    def apply_all_to_train_on(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Preprocesses images to be augmented: `apply_all`, converted to uint8."""
        return to_uint8(self.apply_all(images))

    def refuse_letterbox(self, where: str, *, instead: str) -> None:
        """Checks that images are framed as a program without letterboxes frames them.

        Args:
          where: the program, for the message.
          instead: what to do, for the message.

        Raises:
          UserError: the framing is ``letterbox``.
        """
        if self.framing == LETTERBOX:
            raise UserError(
                f"{where} only crops the middle of images, but this model's framing is"
                " 'letterbox', which shows them whole:"
                f" {instead}"
            )

    def blank(self) -> np.ndarray:
        """Returns a placeholder image: uint8 ``[side, side, 3]``, mid-gray."""
        return np.full((self.resolution, self.resolution, 3), FILL, np.uint8)

    def resized(
        self,
        part: np.ndarray,
        *,
        box: Box | None = None,
        bicubic: Bicubic | None = None,
    ) -> np.ndarray:
        """Resizes one image.

        Args:
          part: uint8 ``[height, width, 3]``.
          box: the part to resize; None for all. ``bicubic_tf1`` does not support it.
          bicubic: see `apply`.

        Returns:
          `dtype` ``[resolution, resolution, 3]``.
        """
        side = self.resolution
        if box is None and part.shape[:2] == (side, side):
            return np.ascontiguousarray(part, self.dtype)
        if self.interpolation == BICUBIC_TF1:
            return resize_tf1.resize(np.ascontiguousarray(part), side, side)
        if bicubic and self.interpolation == "bicubic":
            return bicubic(part, side, box)
        how = INTERPOLATIONS[self.interpolation]
        image = Image.fromarray(np.ascontiguousarray(part))
        return np.asarray(image.resize((side, side), how, box=box))


def _told(value: Any) -> str:
    """Writes a value of a model card or config as these do; numbers as they are."""
    plain = list(value) if isinstance(value, tuple) else value
    return json.dumps(plain, default=str)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Clips to 0–255 and truncates, as the authors do before augmentation."""
    if images.dtype == np.uint8:
        return images
    return np.clip(images, 0, 255).astype(np.uint8)

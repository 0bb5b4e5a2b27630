"""Evaluation preprocessing: decode, crop, resize — once, for every road.

`label`, `evaluate` and `predict` all come through here, as do resident training
images, so that weights are only ever read with the preprocessing they know. Pillow
and NumPy only.
"""

import dataclasses
import io
import math
import pathlib
import warnings
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from noisy_student_jax.errors import UserError

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
MAX_PIXELS = 64_000_000


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What has to happen to an image before a model may see it.

    Attributes:
      resolution: side of the square that the model reads, in pixels.
      crop_padding: the centre crop is ``resolution / (resolution + crop_padding)``
        of the shorter side (32 in the authors' ``preprocessing.py``; 0 takes the
        whole shorter side).
      interpolation: ``bicubic``, ``bilinear`` or ``nearest``.
      mean: per channel, on the 0–1 scale.
      std: per channel, on the 0–1 scale.
    """

    resolution: int
    crop_padding: int = 32
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise UserError(
                f"interpolation '{self.interpolation}' is not known: choose {known}"
            )
        if not all(value > 0 for value in self.std):
            raise UserError(
                f"preprocessing divides by std, so that each must be above 0, got"
                f" {self.std}"
            )
        if self.resolution < 1 or self.crop_padding < 0:
            raise UserError(
                f"preprocessing needs resolution >= 1 and crop_padding >= 0, got"
                f" {self.resolution} and {self.crop_padding}"
            )

    @classmethod
    def from_json(cls, fields: dict) -> "Preprocessing":
        """Reads what `dataclasses.asdict` wrote."""
        fields = dict(fields)
        fields["mean"], fields["std"] = tuple(fields["mean"]), tuple(fields["std"])
        return cls(**fields)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Crops and resizes one image.

        Args:
          image: uint8 ``[height, width, 3]``.

        Returns:
          uint8 ``[resolution, resolution, 3]``.
        """
        height, width = image.shape[:2]
        short = min(height, width)
        fraction = self.resolution / (self.resolution + self.crop_padding)
        crop = max(1, int(fraction * short))
        top, left = (height - crop + 1) // 2, (width - crop + 1) // 2
        square = image[top : top + crop, left : left + crop]
        if crop == self.resolution:
            return np.ascontiguousarray(square)
        size = (self.resolution, self.resolution)
        resized = Image.fromarray(square).resize(
            size, INTERPOLATIONS[self.interpolation]
        )
        return np.asarray(resized)

    def apply_all(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Applies to many images; returns uint8 ``[count, side, side, 3]``."""
        done = [self.apply(image) for image in images]
        shape = (0, self.resolution, self.resolution, 3)
        return np.stack(done) if done else np.zeros(shape, np.uint8)


class UndecodableImageError(Exception):
    """The bytes are no image that we read; the message says why."""


def decode(source: str | pathlib.Path | bytes) -> np.ndarray:
    """Decodes an image file to RGB, upright by its EXIF orientation.

    Args:
      source: a path, or the file's bytes.

    Returns:
      uint8 ``[height, width, 3]``.

    Raises:
      UndecodableImageError: missing, truncated, not an image, or more than
        `MAX_PIXELS` by its header (checked before any pixel is decoded).
    """
    try:
        data = (
            source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
        )
        with _open(data) as image:
            pixels = math.prod(image.size)
            if pixels > MAX_PIXELS:
                raise UndecodableImageError(
                    f"{pixels:,} pixels by its header, more than {MAX_PIXELS:,}"
                )
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except UndecodableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UndecodableImageError(str(error)) from error
    except UnidentifiedImageError as error:
        # Pillow's own words hold the address of the buffer, another in every run.
        raise UndecodableImageError("not an image of a known format") from error
    except OSError as error:
        reason = error.strerror or str(error).replace("\n", " ")
        raise UndecodableImageError(reason) from error
    except Exception as error:  # Pillow's plugins raise many kinds on broken files
        raise UndecodableImageError(f"{type(error).__name__}: {error}") from error


def _open(data: bytes) -> Image.Image:
    """Reads the header; Pillow's own warning at 89 megapixels is ours at 64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips 16-bit greys at 255 when converting: scale them instead.
        values = np.asarray(image, np.float64)
        deep = image.mode.startswith("I;16") or values.max(initial=0) > 255
        top = 65535 if deep else 255
        scaled = np.clip(values * (255 / top), 0, 255)
        image = Image.fromarray(scaled.astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        # Straight to RGB, Pillow warns of what we want: that transparency goes.
        image = image.convert("RGBA")
    return image.convert("RGB")

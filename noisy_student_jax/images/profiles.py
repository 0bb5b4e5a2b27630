"""Color profiles: pixels of other color spaces become sRGB.

Models see plain numbers, and take them for sRGB. A conversion is computed once for
each profile, relative colorimetric with black point compensation, and profiles that
change no color by more than `INVISIBLE` levels leave all pixels as they are.
"""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

INVISIBLE = 2
"""Levels of 255 that a profile may change colors by and still count as sRGB."""
MAX_BYTES = 16 * 2**20
UNREADABLE = "have a color profile that cannot be applied, and are taken for sRGB"
"""What is noted of images whose profile is damaged, or is for another kind of image."""

_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION


class UnusableProfileError(Exception):
    """The profile cannot be read, or is not for images of this kind."""


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts an image to sRGB.

    Args:
      image: of the mode L, RGB, CMYK or LAB.
      profile: the ICC profile that came with it; None or empty for none.

    Returns:
      An image of the mode RGB or, if there is nothing to convert, the image itself.

    Raises:
      UnusableProfileError: the image is to be used as it is.
    """
    found = conversion(profile, image.mode) if profile else None
    if found is None:
        return image
    if image.mode != found.input_mode:
        image = image.convert(found.input_mode)
    try:
        return found.apply(image)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise UnusableProfileError from error


def of_lab(image: Image.Image) -> Image.Image:
    """Converts an image of the mode LAB, which needs no profile."""
    return _lab_conversion().apply(image)


@functools.cache
def _lab_conversion() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    how = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB", how)


@functools.lru_cache(maxsize=64)
def conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the conversion from a profile to sRGB; None if it changes nothing.

    Args:
      profile: an ICC profile.
      mode: of the image: L, RGB, CMYK or LAB.

    Raises:
      UnusableProfileError: the profile cannot be read, or is for other images.
    """
    if len(profile) > MAX_BYTES:
        raise UnusableProfileError
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        own = _MODES.get(source.profile.xcolor_space.strip(), "")
        # Gray images often have the profile of the color images beside them.
        if own != mode and (own, mode) != ("RGB", "L"):
            raise UnusableProfileError
        found = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            own,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            _FLAGS,
        )
        return found if _is_seen(found, mode) else None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise UnusableProfileError from error


def _is_seen(found: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Returns whether a conversion changes any color visibly."""
    if found.input_mode not in ("L", "RGB"):
        return True
    grays = np.arange(256, dtype=np.uint8)
    if mode == "L":
        colors = np.stack([grays] * 3, axis=-1)[None]
    else:
        steps = np.arange(0, 256, 17, dtype=np.uint8)
        colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    before = Image.fromarray(colors).convert(found.input_mode)
    after = np.asarray(found.apply(before)).astype(int)
    return bool(np.abs(after - colors).max() > INVISIBLE)

"""The usual input pipeline of PyTorch users: Pillow, one image at a time.

``input_pipeline.py`` compares with it: decode the whole image, crop and resize in one
call, flip, and RandAugment with Pillow's operations, at the magnitudes of our table.
The crops and the operations are those that ours draws, so both do the same work.
"""

import io

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from noisy_student_jax.augment import affine
from noisy_student_jax.augment import randaugment_table as table

BICUBIC = Image.Resampling.BICUBIC
_GRAY = (table.FILL,) * 3


def image(
    data: bytes,
    box: tuple[int, int, int, int],
    draws: dict[str, np.ndarray],
    *,
    side: int,
    magnitude: float,
) -> np.ndarray:
    """Makes one training image.

    Args:
      data: bytes of an image file.
      box: top, left, height and width of the crop.
      draws: one example's draws of ``host_draws.draw``; none for no noise.
      side: side of the result, in pixels.
      magnitude: magnitude of RandAugment.

    Returns:
      uint8 ``[side, side, 3]``.
    """
    top, left, height, width = box
    with Image.open(io.BytesIO(data)) as opened:
        whole = opened.convert("RGB")
    cut = (left, top, left + width, top + height) if height else None
    result = whole.resize((side, side), BICUBIC, box=cut)
    if draws and draws["flip"]:
        result = ImageOps.mirror(result)
    for layer in range(len(draws["randaugment_op"]) if draws else 0):
        op = table.OPS[draws["randaugment_op"][layer]]
        value = table.argument(op, magnitude)
        if op.signed and draws["randaugment_negative"][layer]:
            value = -value
        where = draws["randaugment_row"][layer], draws["randaugment_column"][layer]
        result = _applied(op.name, result, value, where)
    return np.asarray(result)


def _applied(name: str, image: Image.Image, value, where) -> Image.Image:
    if name in affine.COEFFICIENTS:
        six = affine.COEFFICIENTS[name](value, image.height, image.width)
        how = Image.Transform.AFFINE
        return image.transform(image.size, how, tuple(map(float, six)), fillcolor=_GRAY)
    if name in ENHANCED:
        return ENHANCED[name](image).enhance(value)
    if name == "Cutout":
        row, column = map(int, where)
        result = image.copy()
        result.paste(_GRAY, (column - value, row - value, column + value, row + value))
        return result
    if name == "SolarizeAdd":
        levels = [min(v + value, 255) if v < 128 else v for v in range(256)]
        return image.point(levels * 3)
    if name == "Posterize":
        return ImageOps.posterize(image, 8 - value)
    if name == "Solarize":
        return ImageOps.solarize(image, value)
    return PLAIN[name](image)


ENHANCED = {
    "Color": ImageEnhance.Color,
    "Contrast": ImageEnhance.Contrast,
    "Brightness": ImageEnhance.Brightness,
    "Sharpness": ImageEnhance.Sharpness,
}
PLAIN = {
    "AutoContrast": ImageOps.autocontrast,
    "Equalize": ImageOps.equalize,
    "Invert": ImageOps.invert,
}

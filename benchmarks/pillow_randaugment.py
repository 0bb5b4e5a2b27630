"""RandAugment as it is usually written with Pillow, the peer of ours.

It reads this package's table, so both do the same to an image; pixels differ where
Pillow rounds differently.
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from noisy_student_jax.augment import randaugment_table as table

_GRAY = (table.FILL,) * 3


def augment(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    layers: int,
    magnitude: float,
    constants: table.RandAugmentConstants = table.IMAGENET_CONSTANTS,
) -> np.ndarray:
    """Flips half of the images and applies random operations.

    Args:
      image: uint8 `[height, width, 3]`.
      rng: source of the random draws.
      layers: number of operations.
      magnitude: magnitude of each.
      constants: constants that depend on the dataset.

    Returns:
      uint8 `[height, width, 3]`.
    """
    picture = Image.fromarray(image)
    if rng.integers(2):
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for number in rng.integers(len(table.OPS), size=layers):
        op = table.OPS[number]
        argument = table.argument(op, magnitude, constants=constants)
        if op.signed and rng.integers(2):
            argument = -argument
        picture = _apply(picture, op.name, argument, rng)
    return np.asarray(picture)


def _apply(
    picture: Image.Image, name: str, argument: table.Argument, rng: np.random.Generator
) -> Image.Image:
    match name:
        case "AutoContrast" | "Equalize" | "Invert":
            return getattr(ImageOps, name.lower())(picture)
        case "Posterize":
            return ImageOps.posterize(picture, 8 - argument)
        case "Solarize":
            return ImageOps.solarize(picture, argument)
        case "SolarizeAdd":
            values = np.arange(256)
            added = np.minimum(values + argument, 255)
            below = values < table.SOLARIZE_ADD_BELOW
            return picture.point(np.where(below, added, values).tolist() * 3)
        case "Color" | "Contrast" | "Brightness" | "Sharpness":
            return getattr(ImageEnhance, name)(picture).enhance(argument)
        case "Rotate":
            return picture.rotate(argument, fillcolor=_GRAY)
        case "Cutout":
            row, column = rng.integers(picture.height), rng.integers(picture.width)
            corners = (column - argument, row - argument)
            corners += (column + argument, row + argument)
            picture = picture.copy()
            picture.paste(_GRAY, tuple(int(max(0, one)) for one in corners))
            return picture
    coefficients = {
        "ShearX": (1, argument, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, argument, 1, 0),
        "TranslateX": (1, 0, argument, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, argument),
    }[name]
    return picture.transform(
        picture.size, Image.Transform.AFFINE, coefficients, fillcolor=_GRAY
    )

"""RandAugment on the device.

Drawing and applying are separate, so a batch's random numbers are drawn at once,
outside the loop over its images.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from noisy_student_jax.augment import color, geometry
from noisy_student_jax.augment import randaugment_table as table
from noisy_student_jax.augment.randaugment_table import (
    FILL,
    IMAGENET_CONSTANTS,
    RandAugmentConstants,
)
from noisy_student_jax.core.errors import UserError


class Draws(NamedTuple):
    """The random numbers of RandAugment, one per layer, all `[layers]`.

    Attributes:
        op: int32, the row of the table.
        negative: bool, whether a signed argument is negated.
        row: int32, of the center of Cutout.
        column: int32, of the center of Cutout.
    """

    op: jax.Array
    negative: jax.Array
    row: jax.Array
    column: jax.Array


FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    "AutoContrast": color.autocontrast,
    "Equalize": color.equalize,
    "Invert": color.invert,
    "Rotate": geometry.rotate,
    "Posterize": color.posterize,
    "Solarize": color.solarize,
    "Color": color.color,
    "Contrast": color.contrast,
    "ContrastFromMean": color.contrast_from_mean,
    "Brightness": color.brightness,
    "Sharpness": color.sharpness,
    "ShearX": geometry.shear_x,
    "ShearY": geometry.shear_y,
    "TranslateX": geometry.translate_x,
    "TranslateY": geometry.translate_y,
    "SolarizeAdd": color.solarize_add,
}
"""Functions by `Op.function`, except for Cutout, which also needs a position."""


def randaugment(
    key: jax.Array,
    image: jax.Array,
    *,
    layers: int,
    magnitude: float,
    constants: RandAugmentConstants = IMAGENET_CONSTANTS,
    behavior: str = "reference",
) -> jax.Array:
    """Applies `layers` operations, each drawn uniformly and with replacement.

    Args:
        key: the random key `[]` of this image.
        image: uint8 `[height, width, channels]`, of 1 or 3 channels.
        layers: the paper's N.
        magnitude: the paper's M.
        constants: the dataset-dependent constants.
        behavior: one of the table's `BEHAVIORS`.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        UserError: the image is not uint8, the magnitude is negative, or there is no
            such behavior.
    """
    height, width, _ = image.shape
    draws = draw(key, layers=layers, height=height, width=width)
    return apply(
        image, draws, magnitude=magnitude, constants=constants, behavior=behavior
    )


def draw(key: jax.Array, *, layers: int, height: int, width: int) -> Draws:
    """Draws the operations, signs and positions for one image.

    A layer's draws depend on its index, not on the number of layers.

    Args:
        key: the random key `[]` of this image.
        layers: the number of operations.
        height: of the image.
        width: of the image.

    Returns:
        The draws, each `[layers]`.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(layers))
    bits = jax.vmap(lambda k: jax.random.bits(k, (4,), jnp.uint32))(keys)

    def below(count: int, words: jax.Array) -> jax.Array:
        # The bias is at most count/2³², and zero for the table's sixteen rows.
        return (words % count).astype(jnp.int32)

    return Draws(
        op=below(len(table.OPS), bits[:, 0]),
        negative=below(2, bits[:, 1]) == 1,
        row=below(height, bits[:, 2]),
        column=below(width, bits[:, 3]),
    )


def apply(
    image: jax.Array,
    draws: Draws,
    *,
    magnitude: float,
    constants: RandAugmentConstants = IMAGENET_CONSTANTS,
    behavior: str = "reference",
    without: Collection[str] = (),
) -> jax.Array:
    """Applies drawn operations, first to last.

    Args:
        image: uint8 `[height, width, channels]`, of 1 or 3 channels.
        draws: the result of `draw`, each `[layers]`.
        magnitude: the paper's M.
        constants: the dataset-dependent constants.
        behavior: one of the table's `BEHAVIORS`.
        without: names of rows that do nothing.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        UserError: the image is not uint8, the magnitude is negative, or there is no
            such behavior.
    """
    if image.dtype != jnp.uint8:
        raise UserError(
            f"RandAugment works on uint8 images, values 0–255, not on {image.dtype}: "
            "augment before normalizing."
        )
    branches = [
        _unchanged
        if op.name in without
        else _branch(op, magnitude, constants, behavior)
        for op in table.OPS
    ]
    (layers,) = draws.op.shape
    for layer in range(layers):
        drawn = jax.tree.map(lambda leaf, layer=layer: leaf[layer], draws)
        image = lax.switch(drawn.op, branches, image, drawn)
    return image


def _unchanged(image: jax.Array, drawn: Draws) -> jax.Array:
    return image


def _branch(
    op: table.Op, magnitude: float, constants: RandAugmentConstants, behavior: str
) -> Callable[[jax.Array, Draws], jax.Array]:
    """Returns a row's operation as a function of an image and one layer's draws."""
    argument = table.argument(op, magnitude, constants=constants, behavior=behavior)
    if op.name == "Cutout":
        assert isinstance(argument, int), "half a side, in pixels"
        side = 2 * argument
        return lambda image, drawn: cutout(
            image, side, row=drawn.row, column=drawn.column
        )
    function = FUNCTIONS[op.function(behavior)]
    if op.signed:
        return lambda image, drawn: function(image, argument, negative=drawn.negative)
    if argument is None:
        return lambda image, drawn: function(image)
    return lambda image, drawn: function(image, argument)


def cutout(
    image: jax.Array,
    side: int | jax.Array,
    *,
    row: int | jax.Array,
    column: int | jax.Array,
) -> jax.Array:
    """Fills a square with mid-gray, clipped at the border.

    Args:
        image: uint8 `[height, width, channels]`.
        side: of the square; 0 fills nothing.
        row: of its center. An even side extends one pixel less after it than before
            it, as in the authors' code.
        column: likewise.

    Returns:
        uint8 `[height, width, channels]`.
    """
    height, width, _ = image.shape

    def covered(size: int, center: int | jax.Array) -> jax.Array:
        start = center - side // 2
        index = jnp.arange(size)
        return (index >= start) & (index < start + side)

    square = covered(height, row)[:, None] & covered(width, column)[None, :]
    return jnp.where(square[..., None], jnp.uint8(FILL), image)

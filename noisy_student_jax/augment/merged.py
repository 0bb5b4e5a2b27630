"""RandAugment without branches: what operations have in common is computed once.

Where images are taken together, a `switch` runs every branch for every image. But most
of the sixteen are one of two things with different numbers: eight give each value of a
channel another value, so that a table of 256 entries says what they do, and five take
each pixel from elsewhere, by six coefficients. Here each image has the table and the
coefficients of the operation that was drawn for it, or those that change nothing: one
gather and one look-up stand for thirteen operations. The others are computed as they
are, and selected.

The pixels are those of ``randaugment.apply``, to the last bit.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from noisy_student_jax import randaugment as table
from noisy_student_jax.augment import colour, geometry, randaugment
from noisy_student_jax.augment.affine import COEFFICIENTS
from noisy_student_jax.augment.randaugment import Draws
from noisy_student_jax.randaugment import (
    IMAGENET_CONSTANTS,
    Argument,
    RandAugmentConstants,
)

_STILL = (1, 0, 0, 0, 1, 0)

REMAPS: dict[str, Callable[[jax.Array, jax.Array, Argument], jax.Array]] = {
    "AutoContrast": lambda ramp, image, _: colour.stretched(ramp, *_extremes(image)),
    "Equalize": lambda ramp, image, _: colour.equalizing(colour.histogram(image)),
    "Invert": lambda ramp, image, _: colour.invert(ramp),
    "Posterize": lambda ramp, image, shift: colour.posterize(ramp, shift),
    "Solarize": lambda ramp, image, threshold: colour.solarize(ramp, threshold),
    "Contrast": lambda ramp, image, factor: colour.blend(
        jnp.full_like(ramp, colour.grey_level(image)), ramp, factor
    ),
    "ContrastFromMean": lambda ramp, image, factor: colour.blend(
        jnp.full_like(ramp, colour.mean_level(image)), ramp, factor
    ),
    "Brightness": lambda ramp, image, factor: colour.brightness(ramp, factor),
    "SolarizeAdd": lambda ramp, image, addition: colour.solarize_add(ramp, addition),
}
"""What becomes of each value, by what the table's rows call.

Each is given the values, uint8 `[256, channels]`, the image, to measure something of
it, and the row's argument, and returns uint8 `[256, channels]`.
"""


def apply(
    image: jax.Array,
    draws: Draws,
    *,
    magnitude: float,
    constants: RandAugmentConstants = IMAGENET_CONSTANTS,
    behavior: str = "reference",
) -> jax.Array:
    """Does what ``randaugment.apply`` does; meant for use under `vmap`.

    Args:
        image: uint8 `[height, width, channels]`, of 1 or 3 channels.
        draws: each `[layers]`.
        magnitude: the paper's M.
        constants: what depends on the data set.
        behavior: one of the table's `BEHAVIORS`.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        UserError: as ``randaugment.apply``.
    """
    randaugment.check(image)
    rows = [
        (op.function(behavior), table.argument(op, magnitude, constants, behavior))
        for op in table.OPS
    ]
    branches = [
        randaugment.branch(op, magnitude, constants, behavior) for op in table.OPS
    ]
    (layers,) = draws.op.shape
    for layer in range(layers):
        drawn = jax.tree.map(lambda leaf, layer=layer: leaf[layer], draws)
        # Several things read each pixel, some of them many pixels for one: the
        # compiler would rather make the image again, and the layers before it.
        image = lax.optimization_barrier(image)
        changed = _remapped(image, _moved(image, drawn, rows), drawn, rows)
        for number, (name, _) in enumerate(rows):
            if name not in REMAPS and name not in COEFFICIENTS:
                own = branches[number](image, drawn)
                changed = jnp.where(drawn.op == number, own, changed)
        image = changed
    return image


def _extremes(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns each channel's lowest and highest value, uint8 `[channels]`.

    From the histogram, which `Equalize` needs anyway: the compiler computes it once.
    """
    occurs = colour.histogram(image) > 0
    low, high = occurs.argmax(axis=0), 255 - occurs[::-1].argmax(axis=0)
    return low.astype(jnp.uint8), high.astype(jnp.uint8)


def _moved(
    image: jax.Array, drawn: Draws, rows: list[tuple[str, Argument]]
) -> jax.Array:
    """Applies the operation if it is a geometric one."""
    height, width, _ = image.shape
    coefficients = np.stack(
        [
            geometry.signed_coefficients(name, argument, height, width)
            if name in COEFFICIENTS
            else np.float32([_STILL, _STILL])
            for name, argument in rows
        ]
    )
    own = jnp.asarray(coefficients)[drawn.op, drawn.negative.astype(jnp.int32)]
    return geometry.transformed(image, list(own))


def _remapped(
    measured: jax.Array,
    image: jax.Array,
    drawn: Draws,
    rows: list[tuple[str, Argument]],
) -> jax.Array:
    """Applies the operation to an image if it is one on values."""
    ramp = lax.broadcasted_iota(jnp.uint8, (256, image.shape[-1]), 0)
    values = ramp
    for number, (name, argument) in enumerate(rows):
        if name in REMAPS:
            own = REMAPS[name](ramp, measured, argument)
            values = jnp.where(drawn.op == number, own, values)
    return colour.look_up(values, image)

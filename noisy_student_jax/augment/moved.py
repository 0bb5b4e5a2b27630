"""Input noise whose geometry is known, for targets that move with the image.

The draws are those of ``noise.py``; their application differs. All colors come first,
in their drawn order. All geometry is then composed into one affine and one bilinear
resample, gray outside, in the order zoom → quarter turns → flip → RandAugment's
rotations, shears and translations as drawn → the shift of the padded crop. That crop
shows gray and no reflection, in which objects would be seen twice. Cutouts come last.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from noisy_student_jax.augment import geometry, randaugment
from noisy_student_jax.augment import randaugment_table as table
from noisy_student_jax.augment.affine import COEFFICIENTS
from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.noise import ZOOMS, check, draw
from noisy_student_jax.augment.rounding import rounded
from noisy_student_jax.core.errors import UserError

Affine = tuple[jax.Array, ...]
"""Coefficients (a, b, c, d, e, f), float32 `[]`: (x, y) → (ax + by + c, dx + ey + f).

They map pixels of an output to pixels of its input, whose centers lie at integers."""

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_AFTER_COLORS = (*COEFFICIENTS, "Cutout")
_BEFORE_CUTOUT = tuple(op.name for op in table.OPS if op.name != "Cutout")


def augment_moved(
    keys: jax.Array, images: jax.Array, noise: InputNoise
) -> tuple[jax.Array, jax.Array]:
    """Applies a stream's input noise to a batch, and tells where everything went.

    The pixels are the same on every platform.

    Args:
        keys: the examples' keys `[batch]`.
        images: uint8 `[batch, height, width, channels]`; any dtype if the noise is off.
        noise: the noise to apply; its ``form`` as in `augment_batch`.

    Returns:
        The noised images, of the same dtype and shape, and float32 `[batch, 2, 3]`: the
        matrices that map a place (x, y, 1) in an image to its place in the noised
        image, both in units of the longer side, from the top-left corner.

    Raises:
        UserError: as `augment_batch`; or quarter turns of images that are not square.
    """
    count, *shape = images.shape
    if noise.is_off:
        identity = np.array(_IDENTITY, np.float32).reshape(2, 3)
        return images, jnp.broadcast_to(identity, (count, 2, 3))
    check(images.dtype, images.shape[1:], noise)
    draws = jax.vmap(lambda key: draw(key, tuple(shape), noise))(keys)
    height, width, _ = shape
    if noise.turns and height != width:
        raise UserError(
            f"quarter turns need square images, and these have {height}×{width} pixels"
        )
    affines = jax.vmap(lambda drawn: _composed(drawn, noise, height, width))(draws)
    matrices = jax.vmap(lambda affine: _forward(affine, max(height, width)))(affines)
    apply = _application(noise, moves=noise.moves)

    def together(*given: Any) -> jax.Array:
        return jax.vmap(apply)(*given)

    def one_by_one(*given: Any) -> jax.Array:
        return lax.map(lambda one: apply(*one), given)

    given = images, draws, affines
    if noise.form != "auto":
        made = (together if noise.form == "together" else one_by_one)(*given)
    else:
        made = lax.platform_dependent(*given, cpu=one_by_one, default=together)
    return made, matrices


def _application(
    noise: InputNoise, *, moves: bool
) -> Callable[[jax.Array, dict[str, Any], Affine], jax.Array]:
    """Returns a function that applies drawn noise to one image."""
    augment = functools.partial(
        randaugment.apply,
        magnitude=noise.randaugment_magnitude,
        constants=noise.constants,
        behavior=noise.randaugment_behavior,
    )

    def apply(image: jax.Array, draws: dict[str, Any], affine: Affine) -> jax.Array:
        own = draws.get("randaugment")
        if own is not None:
            image = augment(image, own, without=_AFTER_COLORS)
        if moves:
            image = geometry.resample(image, affine)
        if own is not None:
            image = augment(image, own, without=_BEFORE_CUTOUT)
        if "cutout" in draws:
            row, column = draws["cutout"]
            image = randaugment.cutout(image, noise.cutout_size, row=row, column=column)
        return image

    return apply


def _composed(
    draws: dict[str, Any], noise: InputNoise, height: int, width: int
) -> Affine:
    """Returns the map of one example's noised pixels to pixels of its image."""
    right, bottom = width - 1.0, height - 1.0
    total: Affine = tuple(jnp.float32(value) for value in _IDENTITY)
    if "zoom" in draws:
        total = _after(total, _zoomed(draws["zoom"], noise.zoom, height, width))
    if "turns" in draws:
        quarters = (
            _IDENTITY,
            (0, -1, right, 1, 0, 0),
            (-1, 0, right, 0, -1, bottom),
            (0, 1, 0, -1, 0, bottom),
        )
        total = _after(total, _row(quarters, draws["turns"]))
    if "flip" in draws:
        mirrored = (-1, 0, right, 0, 1, 0)
        flip = _row((_IDENTITY, mirrored), draws["flip"].astype(jnp.int32))
        total = _after(total, flip)
    if "randaugment" in draws:
        rows = _randaugment_rows(noise, height, width)
        own = draws["randaugment"]
        for layer in range(noise.randaugment_layers):
            number = 2 * own.op[layer] + own.negative[layer].astype(jnp.int32)
            total = _after(total, _row(rows, number))
    if "crop" in draws:
        top, left = (
            (start - noise.crop_padding).astype(jnp.float32) for start in draws["crop"]
        )
        one, zero = jnp.float32(1), jnp.float32(0)
        total = _after(total, (one, zero, left, zero, one, top))
    return total


def _zoomed(
    drawn: dict[str, jax.Array], zoom: float, height: int, width: int
) -> Affine:
    """Returns the map of a zoom to a random place.

    An enlarged picture is cut anywhere; a reduced one lies anywhere in the gray.
    """
    exponents = np.linspace(-1, 1, ZOOMS)
    factors = jnp.asarray((1 / zoom**exponents).astype(np.float32))
    inverse = factors[drawn["factor"]]

    def start(size: int, where: jax.Array) -> jax.Array:
        # The picture starts at size·(1 − factor)·where, in pixels.
        room = (size * (1 / zoom**exponents - 1)).astype(np.float32)
        begin = rounded(jnp.asarray(room)[drawn["factor"]] * where)
        return rounded(jnp.float32(0.5) * inverse) - begin - 0.5

    zero = jnp.float32(0)
    return (
        inverse,
        zero,
        start(width, drawn["left"]),
        zero,
        inverse,
        start(height, drawn["top"]),
    )


def _randaugment_rows(noise: InputNoise, height: int, width: int) -> np.ndarray:
    """Returns the coefficients of each row of the table and each sign.

    Returns:
        float32 `[2·rows, 6]`; those of row r are at 2r, and at 2r + 1 if it is negated.
    """
    rows: list[tuple[float, ...]] = []
    for op in table.OPS:
        if op.name not in COEFFICIENTS:
            rows += [_IDENTITY, _IDENTITY]
            continue
        argument = table.argument(
            op,
            noise.randaugment_magnitude,
            constants=noise.constants,
            behavior=noise.randaugment_behavior,
        )
        assert argument is not None, "geometry has an argument"
        of = COEFFICIENTS[op.name]
        rows += [of(argument, height, width), of(-argument, height, width)]
    return np.array(rows, np.float32)


def _row(rows: Any, number: jax.Array) -> Affine:
    """Returns the coefficients in a row of a table ``[rows, 6]``."""
    return tuple(jnp.asarray(np.array(rows, np.float32))[number])


def _after(outer: Affine, inner: Affine) -> Affine:
    """Returns the map that applies `inner` first, then `outer`.

    The sums are written out, since a device may multiply matrices less exactly.
    """
    a, b, c, d, e, f = outer
    p, q, r, s, t, u = inner

    def sum_of(x: jax.Array, y: jax.Array) -> jax.Array:
        return rounded(x) + rounded(y)

    return (
        sum_of(a * p, b * s),
        sum_of(a * q, b * t),
        sum_of(a * r, b * u) + c,
        sum_of(d * p, e * s),
        sum_of(d * q, e * t),
        sum_of(d * r, e * u) + f,
    )


def _forward(affine: Affine, side: int) -> jax.Array:
    """Inverts a map of pixels, as a matrix in units of the side, float32 `[2, 3]`."""
    a, b, c, d, e, f = affine
    # Pixel i has its center at (i + 1/2)/side.
    x = (c + 0.5 - rounded(0.5 * (a + b))) / side
    y = (f + 0.5 - rounded(0.5 * (d + e))) / side
    area = rounded(a * e) - rounded(b * d)
    rows = ((e, -b), (-d, a))
    return jnp.stack(
        [
            jnp.stack([p / area, q / area, -(rounded(p * x) + rounded(q * y)) / area])
            for p, q in rows
        ]
    )

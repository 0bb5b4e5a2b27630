"""Input noise on the device.

The order is flip → RandAugment → cutout → reflect-pad and crop, as in the authors' SVHN
pipeline (``preprocessing.py``). Images are uint8 throughout.

The random resized crop is separate: it needs the original image and is applied when
that is decoded (``crops.py``).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from noisy_student_jax.augment import randaugment
from noisy_student_jax.augment.input_noise import (
    CROP,
    CUTOUT,
    FLIP,
    RANDAUGMENT,
    TURNS,
    ZOOM,
    InputNoise,
)
from noisy_student_jax.core import random_keys
from noisy_student_jax.core.errors import UserError

ZOOMS = 256
"""Number of factors that a zoom is drawn from, evenly spaced in their logarithm."""


def augment_image(key: jax.Array, image: jax.Array, noise: InputNoise) -> jax.Array:
    """Applies a stream's input noise to one image.

    Args:
        key: the example's key `[]` from `example_key`.
        image: uint8 `[height, width, channels]`.
        noise: the noise to apply.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        UserError: the image is not uint8, or smaller than the crop's padding allows.
    """
    check(image.dtype, image.shape, noise)
    return _apply(image, draw(key, image.shape, noise), noise)


def augment_batch(keys: jax.Array, images: jax.Array, noise: InputNoise) -> jax.Array:
    """Applies a stream's input noise to a batch; the same pixels on every platform.

    ``noise.form`` selects how RandAugment is computed, which only affects the speed:

    - ``one_by_one``: loops over images and runs only the drawn operations; ``auto``
      uses it on CPU;
    - ``together``: vectorizes over images, runs all sixteen operations and selects one
      result; ``auto`` uses it elsewhere, where a loop over images leaves the device
      idle.

    Args:
        keys: the examples' keys `[batch]`.
        images: uint8 `[batch, height, width, channels]`; any dtype if the noise is off.
        noise: the noise to apply.

    Returns:
        The same dtype and shape.

    Raises:
        UserError: the images are not uint8, or smaller than the crop's padding allows.
    """
    if noise.is_off:
        return images
    shape = images.shape[1:]
    check(images.dtype, shape, noise)
    draws = jax.vmap(lambda key: draw(key, shape, noise))(keys)

    def together(images: jax.Array, draws: dict[str, Any]) -> jax.Array:
        return jax.vmap(lambda image, drawn: _apply(image, drawn, noise))(images, draws)

    def one_by_one(images: jax.Array, draws: dict[str, Any]) -> jax.Array:
        return lax.map(lambda pair: _apply(pair[0], pair[1], noise), (images, draws))

    if not noise.randaugment_layers or noise.form == "together":
        return together(images, draws)
    if noise.form == "one_by_one":
        return one_by_one(images, draws)
    return lax.platform_dependent(images, draws, cpu=one_by_one, default=together)


def stream_key(seed: int, generation: int, stream: int) -> jax.Array:
    """Returns the key `[]` of a stream in a generation, shared by its examples.

    Args:
        seed: the run's seed.
        generation: 0 for the first teacher.
        stream: `LABELED` or `PSEUDO` of ``core/types.py``.
    """
    key = jax.random.fold_in(random_keys.key(seed), generation)
    return jax.random.fold_in(key, stream)


def example_key(
    seed: int, generation: int, stream: int, position: np.ndarray | jax.Array
) -> jax.Array:
    """Returns the key `[]` of the example at a position of a stream's order.

    Args:
        seed: the run's seed.
        generation: 0 for the first teacher.
        stream: `LABELED` or `PSEUDO` of ``core/types.py``.
        position: uint32 `[2]`, high word first, from `split_positions`.
    """
    return _fold_position(stream_key(seed, generation, stream), jnp.asarray(position))


def example_keys(base_key: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns the keys `[batch]` of examples of one stream; works inside `jit`.

    Args:
        base_key: the stream's key `[]` from `stream_key`.
        positions: uint32 `[batch, 2]`, high word first.
    """
    return jax.vmap(_fold_position, (None, 0))(base_key, positions)


def split_positions(positions: int | np.ndarray) -> np.ndarray:
    """Splits 64-bit positions into 32-bit words, for devices without 64-bit integers.

    Args:
        positions: non-negative integers `[...]`.

    Returns:
        uint32 `[..., 2]`, high word first.
    """
    wide = np.asarray(positions).astype(np.uint64)
    words = (wide >> np.uint64(32), wide & np.uint64(0xFFFFFFFF))
    return np.stack(words, axis=-1).astype(np.uint32)


def _fold_position(key: jax.Array, position: jax.Array) -> jax.Array:
    key = jax.random.fold_in(key, position[0])
    return jax.random.fold_in(key, position[1])


def check(dtype: DTypeLike, shape: tuple[int, ...], noise: InputNoise) -> None:
    """Checks that images can be noised.

    Raises:
        UserError: they are not uint8, or too small.
    """
    if dtype != jnp.uint8:
        raise UserError(
            f"Input noise works on uint8 images, values 0–255, not on {dtype}: "
            "augment before normalizing."
        )
    height, width, _ = shape
    noise.check(height=height, width=width)


def draw(key: jax.Array, shape: tuple[int, ...], noise: InputNoise) -> dict[str, Any]:
    """Draws the random numbers of the enabled sources, for one image.

    Args:
        key: the example's key `[]`.
        shape: height, width and channels of the image.
        noise: the noise to draw for.

    Returns:
        A dictionary of int32 and bool `[]`, by source; of RandAugment its `Draws`; of
        the zoom the number of its ``factor``, below `ZOOMS`, and its place, ``top`` and
        ``left``, float32 in [0, 1).
    """
    height, width, _ = shape

    def words(source: int) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(key, source), (2,), jnp.uint32)

    def place(source: int, rows: int, columns: int) -> tuple[jax.Array, jax.Array]:
        row, column = words(source)
        return (row % rows).astype(jnp.int32), (column % columns).astype(jnp.int32)

    draws: dict[str, Any] = {}
    if noise.flip:
        draws["flip"] = words(FLIP)[0] % 2 == 1
    if noise.randaugment_layers:
        draws["randaugment"] = randaugment.draw(
            jax.random.fold_in(key, RANDAUGMENT),
            layers=noise.randaugment_layers,
            height=height,
            width=width,
        )
    if noise.cutout_size:
        draws["cutout"] = place(CUTOUT, height, width)
    if noise.crop_padding:
        offsets = 2 * noise.crop_padding + 1
        draws["crop"] = place(CROP, offsets, offsets)
    if noise.zoom > 1:
        own = jax.random.bits(jax.random.fold_in(key, ZOOM), (3,), jnp.uint32)
        top, left = (own[1:] >> 8).astype(jnp.float32) * np.float32(2**-24)
        factor = (own[0] % ZOOMS).astype(jnp.int32)
        draws["zoom"] = {"factor": factor, "top": top, "left": left}
    if noise.turns:
        draws["turns"] = (words(TURNS)[0] % 4).astype(jnp.int32)
    return draws


def _apply(image: jax.Array, draws: dict[str, Any], noise: InputNoise) -> jax.Array:
    """Applies drawn noise to one image, in the module's order."""
    if "flip" in draws:
        image = jnp.where(draws["flip"], image[:, ::-1], image)
    if "randaugment" in draws:
        image = randaugment.apply(
            image,
            draws["randaugment"],
            magnitude=noise.randaugment_magnitude,
            constants=noise.constants,
            behavior=noise.randaugment_behavior,
        )
    if "cutout" in draws:
        row, column = draws["cutout"]
        image = randaugment.cutout(image, noise.cutout_size, row=row, column=column)
    if "crop" in draws:
        image = _reflect_crop(image, noise.crop_padding, *draws["crop"])
    return image


def _reflect_crop(
    image: jax.Array, padding: int, top: jax.Array, left: jax.Array
) -> jax.Array:
    """Pads by reflection and crops to the original size; `top`, `left` in 0–2p."""
    wide = ((padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(image, wide, mode="reflect")
    return lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)

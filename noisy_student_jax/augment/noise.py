"""All input noise on the device, in its one order, each source with a switch.

Flip → RandAugment → cutout → reflect-pad and crop: the order of the authors' SVHN
pipeline (``preprocessing.py``), where the crop is last. Images are uint8 throughout.

The random resized crop is not among them: it needs the original image and is made
where that is decoded (``crops.py``).
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
    InputNoise,
)
from noisy_student_jax.core import random_keys
from noisy_student_jax.core.errors import UserError


def augment_image(key: jax.Array, image: jax.Array, noise: InputNoise) -> jax.Array:
    """Adds a stream's input noise to one image.

    Args:
        key: the example's key `[]`, as `example_key` gives it.
        image: uint8 `[height, width, channels]`.
        noise: what to add.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        UserError: the image is not uint8, or smaller than the crop's padding allows.
    """
    _check(image.dtype, image.shape, noise)
    return _apply(image, _draw(key, image.shape, noise), noise)


def augment_batch(keys: jax.Array, images: jax.Array, noise: InputNoise) -> jax.Array:
    """Adds a stream's input noise to a batch; the same pixels on every platform.

    How RandAugment is computed changes nothing but the time (``noise.form``):

    - ``one_by_one``: one image after the other, of which only the drawn operation
      runs; what ``auto`` does on CPU;
    - ``together``: all at once, where all sixteen operations run and one result is
      kept; what ``auto`` does elsewhere, where a loop over images leaves the device
      idle.

    Args:
        keys: the examples' keys `[batch]`.
        images: uint8 `[batch, height, width, channels]`; of any dtype if the noise is
            off.
        noise: what to add.

    Returns:
        The same dtype and shape.

    Raises:
        UserError: the images are not uint8, or smaller than the crop's padding allows.
    """
    if noise.is_off:
        return images
    shape = images.shape[1:]
    _check(images.dtype, shape, noise)
    draws = jax.vmap(lambda key: _draw(key, shape, noise))(keys)

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
    """Returns the key `[]` that all examples of a stream in a generation share.

    Args:
        seed: the run's seed.
        generation: 0 for the first teacher.
        stream: `LABELED` or `PSEUDO`, of ``noisy_student_jax.types``.
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
        stream: `LABELED` or `PSEUDO`, of ``noisy_student_jax.types``.
        position: uint32 `[2]`, the high word first, as `split_positions` gives it.
    """
    return _fold_position(stream_key(seed, generation, stream), jnp.asarray(position))


def example_keys(base_key: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns the keys `[batch]` of examples of one stream; fit for use in `jit`.

    Args:
        base_key: the stream's key `[]`, as `stream_key` gives it.
        positions: uint32 `[batch, 2]`, the high word first.
    """
    return jax.vmap(_fold_position, (None, 0))(base_key, positions)


def split_positions(positions: int | np.ndarray) -> np.ndarray:
    """Splits 64-bit positions into words that a device without 64-bit integers takes.

    Args:
        positions: integers `[...]`, 0 or more.

    Returns:
        uint32 `[..., 2]`, the high word first.
    """
    wide = np.asarray(positions).astype(np.uint64)
    words = (wide >> np.uint64(32), wide & np.uint64(0xFFFFFFFF))
    return np.stack(words, axis=-1).astype(np.uint32)


def _fold_position(key: jax.Array, position: jax.Array) -> jax.Array:
    key = jax.random.fold_in(key, position[0])
    return jax.random.fold_in(key, position[1])


def _check(dtype: DTypeLike, shape: tuple[int, ...], noise: InputNoise) -> None:
    if dtype != jnp.uint8:
        raise UserError(
            f"Input noise works on uint8 images, values 0–255, not on {dtype}: "
            "augment before normalizing."
        )
    height, width, _ = shape
    noise.check(height=height, width=width)


def _draw(key: jax.Array, shape: tuple[int, ...], noise: InputNoise) -> dict[str, Any]:
    """Draws for one image of that shape, only for the sources that are on."""
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
    return draws


def _apply(image: jax.Array, draws: dict[str, Any], noise: InputNoise) -> jax.Array:
    """Applies what was drawn to one image, in the module's order."""
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
    """Crops the image's own size out of its reflection, `top` and `left` in 0–2p."""
    wide = ((padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(image, wide, mode="reflect")
    return lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)

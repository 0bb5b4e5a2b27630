"""All input noise, in its one order, each source with a switch of its own.

Flip → RandAugment → cutout → reflect-pad and crop: the order of the authors' SVHN
pipeline (``preprocessing.py``), where the crop is last. Images are uint8 throughout.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from noisy_student_jax.augment import randaugment
from noisy_student_jax.errors import UserError
from noisy_student_jax.randaugment import IMAGENET_CONSTANTS, RandAugmentConstants

# Each source's own number, folded into the example's key: switching one source off
# leaves the draws of the others as they were. Never renumber.
_FLIP, _RANDAUGMENT, _CUTOUT, _CROP = range(4)


@dataclass(frozen=True)
class InputNoise:
    """The input noise of one stream; by default none.

    Attributes:
        randaugment_layers: the paper's N; 0 is off.
        randaugment_magnitude: the paper's M.
        constants: RandAugment's, which depend on the data set.
        flip: whether half of the images are mirrored left to right.
        crop_padding: pixels of reflection around the image before a crop of its own
            size; 0 is off.
        cutout_size: side of one grey square, its centre anywhere in the image; 0 is
            off. The authors use 16 on SVHN.
    """

    randaugment_layers: int = 0
    randaugment_magnitude: float = 0.0
    constants: RandAugmentConstants = IMAGENET_CONSTANTS
    flip: bool = False
    crop_padding: int = 0
    cutout_size: int = 0

    def check(self, *, height: int, width: int) -> None:
        """Refuses images that are too small for it.

        Raises:
            UserError: the crop's padding reaches beyond the image.
        """
        if self.crop_padding > min(height, width) - 1:
            raise UserError(
                f"crop_padding={self.crop_padding} is too large for images of "
                f"{height}×{width} pixels, whose reflection reaches "
                f"{min(height, width) - 1}."
            )

    def __post_init__(self) -> None:
        for name in (
            "randaugment_layers",
            "randaugment_magnitude",
            "crop_padding",
            "cutout_size",
        ):
            if getattr(self, name) < 0:
                raise UserError(
                    f"Input noise has {name}={getattr(self, name)}; it must be 0 "
                    "(off) or more."
                )


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

    On CPU the images are taken one by one and only the drawn operation runs; elsewhere
    they are taken together, where all sixteen run and one result is kept.

    Args:
        keys: the examples' keys `[batch]`.
        images: uint8 `[batch, height, width, channels]`.
        noise: what to add.

    Returns:
        uint8 `[batch, height, width, channels]`.

    Raises:
        UserError: the images are not uint8, or smaller than the crop's padding allows.
    """
    shape = images.shape[1:]
    _check(images.dtype, shape, noise)
    draws = jax.vmap(lambda key: _draw(key, shape, noise))(keys)

    def together(images: jax.Array, draws: dict[str, Any]) -> jax.Array:
        return jax.vmap(lambda image, drawn: _apply(image, drawn, noise))(images, draws)

    def one_by_one(images: jax.Array, draws: dict[str, Any]) -> jax.Array:
        return lax.map(lambda pair: _apply(*pair, noise), (images, draws))

    if not noise.randaugment_layers:
        return together(images, draws)
    return lax.platform_dependent(images, draws, cpu=one_by_one, default=together)


def stream_key(seed: int, generation: int, stream: int) -> jax.Array:
    """Returns the key `[]` that all examples of a stream in a generation share.

    Args:
        seed: the run's seed.
        generation: 0 for the first teacher.
        stream: `LABELLED` or `PSEUDO`, of ``noisy_student_jax.types``.
    """
    key = jax.random.fold_in(jax.random.key(seed), generation)
    return jax.random.fold_in(key, stream)


def example_key(
    seed: int, generation: int, stream: int, position: np.ndarray | jax.Array
) -> jax.Array:
    """Returns the key `[]` of the example at a position of a stream's order.

    Args:
        seed: the run's seed.
        generation: 0 for the first teacher.
        stream: `LABELLED` or `PSEUDO`, of ``noisy_student_jax.types``.
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


def _check(dtype: Any, shape: tuple[int, ...], noise: InputNoise) -> None:
    if dtype != jnp.uint8:
        raise UserError(
            f"Input noise works on uint8 images, values 0–255, not on {dtype}: "
            "augment before normalising."
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
        draws["flip"] = words(_FLIP)[0] % 2 == 1
    if noise.randaugment_layers:
        draws["randaugment"] = randaugment.draw(
            jax.random.fold_in(key, _RANDAUGMENT),
            layers=noise.randaugment_layers,
            height=height,
            width=width,
        )
    if noise.cutout_size:
        draws["cutout"] = place(_CUTOUT, height, width)
    if noise.crop_padding:
        offsets = 2 * noise.crop_padding + 1
        draws["crop"] = place(_CROP, offsets, offsets)
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

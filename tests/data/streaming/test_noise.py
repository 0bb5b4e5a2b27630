"""TensorFlow's backend of the input noise gives the device's pixels, bit for bit."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from noisy_student_jax.augment import host_draws, noise
from noisy_student_jax.augment import randaugment as device
from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.randaugment_table import (
    OPS,
    SVHN_CONSTANTS,
    argument,
)
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.streaming import noise as ours
from noisy_student_jax.data.streaming import tf

MAGNITUDES = {
    (27, 38): (0, 2, 5, 10, 15, 20, 27, 30),
    (8, 8): (5, 15, 27),
    (1, 1): (15,),
    (1, 3): (15,),
    (3, 2): (15,),
}
"""What is tried, by the image's height and width."""
# 4 pixels at magnitude 10 instead of 100, so that something is left of a small image.
CONSTANTS = SVHN_CONSTANTS
SIGNS = (False, True)


def pictures(height, width):
    """Noise, dim noise, one gray, a gradient: uint8 `[4, height, width, 3]`."""
    rng = np.random.default_rng(0)
    column = np.arange(width)[None, :, None] * 255 // max(width - 1, 1)
    row = np.arange(height)[:, None, None] * np.array([3, 5, 1])
    return np.stack(
        [
            rng.integers(0, 256, (height, width, 3)),
            rng.integers(90, 130, (height, width, 3)),
            np.full((height, width, 3), 77),
            (column + row) % 256,
        ]
    ).astype(np.uint8)


@functools.cache
def on_device(height, width):
    """Every operation, uint8 `[ops, images, magnitudes, signs, …]`."""

    def several(op, image):
        values = [
            argument(op, magnitude, constants=CONSTANTS)
            for magnitude in MAGNITUDES[height, width]
        ]
        function = device.FUNCTIONS.get(op.name)
        if op.signed:
            signs = jnp.array(SIGNS)
            signed = [
                jax.vmap(lambda sign, v=v: function(image, v, negative=sign))(signs)
                for v in values
            ]
            return jnp.stack(signed)
        if op.name == "Cutout":
            where = {"row": height // 2, "column": width // 3}
            found = [device.cutout(image, 2 * value, **where) for value in values]
        elif values[0] is None:
            found = [function(image)] * len(values)
        else:
            found = jax.vmap(function, (None, 0))(image, jnp.array(values))
        return jnp.repeat(jnp.stack(list(found))[:, None], len(SIGNS), axis=1)

    def everything(image):
        return [several(op, image) for op in OPS]

    return jax.device_get(jax.jit(jax.vmap(everything))(pictures(height, width)))


@functools.cache
def in_tensorflow(height, width, magnitude):
    """Every operation as it is drawn, uint8 `[images, ops, signs, …]`."""
    images = pictures(height, width)
    shape = (len(images), len(OPS), len(SIGNS))
    image, op, sign = (index.ravel() for index in np.indices(shape))
    draws = {
        "randaugment_op": op[:, None].astype(np.int32),
        "randaugment_negative": sign[:, None] == 1,
        "randaugment_row": np.full((op.size, 1), height // 2, np.int32),
        "randaugment_column": np.full((op.size, 1), width // 3, np.int32),
    }
    what = InputNoise(
        randaugment_layers=1, randaugment_magnitude=magnitude, constants=CONSTANTS
    )
    done = augmented(images[image], draws, what)
    return done.reshape(*shape, height, width, 3)


def augmented(images, draws, what):
    """Augments a batch in one graph, as the input pipeline does."""

    draws = {name: tf.constant(drawn) for name, drawn in draws.items()}
    augment = tf.function(functools.partial(ours.augment, noise=what))
    return augment(tf.constant(images), draws).numpy()


@pytest.mark.parametrize("number", range(len(OPS)), ids=[op.name for op in OPS])
def test_every_operation_is_the_devices(number):
    for shape, magnitudes in MAGNITUDES.items():
        expected = on_device(*shape)[number]
        for place, magnitude in enumerate(magnitudes):
            result = in_tensorflow(*shape, magnitude)[:, number]
            np.testing.assert_array_equal(
                result, expected[:, place], err_msg=f"{shape}, magnitude {magnitude}"
            )


def test_where_pillow_means_the_same_it_is_pillows():
    named = {op.name: number for number, op in enumerate(OPS)}
    for shape in MAGNITUDES:
        done = in_tensorflow(*shape, 15)[:, :, 0]
        for image, result in zip(pictures(*shape), done, strict=True):
            picture = Image.fromarray(image)
            for name, expected in {
                "Equalize": ImageOps.equalize(picture),
                "Invert": ImageOps.invert(picture),
                "Posterize": ImageOps.posterize(picture, 6),
                "Solarize": ImageOps.solarize(picture, 128),
            }.items():
                np.testing.assert_array_equal(result[named[name]], expected, name)


FULL = InputNoise(
    randaugment_layers=2,
    randaugment_magnitude=9,
    constants=CONSTANTS,
    flip=True,
    crop_padding=3,
    cutout_size=5,
)
SETTINGS = {
    "everything": FULL,
    "imagenet": InputNoise(randaugment_layers=2, randaugment_magnitude=27, flip=True),
    "clean": InputNoise(
        randaugment_layers=2, randaugment_magnitude=15, randaugment_behavior="clean"
    ),
    "crop": replace(FULL, randaugment_layers=0, cutout_size=0),
    "cutout": replace(FULL, randaugment_layers=0, crop_padding=0),
    "nothing": InputNoise(crop_area=0.08),
}


def whole_batches(what, images, where):
    """Returns what the host's road makes of a batch, and what the device's."""
    *stream, positions = where
    _, height, width, _ = images.shape
    draws = host_draws.draw(*where, what, height=height, width=width)
    found = augmented(images, draws, what)
    keys = noise.example_keys(
        noise.stream_key(*stream), noise.split_positions(positions)
    )
    augment = jax.jit(functools.partial(noise.augment_batch, noise=what))
    return found, np.asarray(augment(keys, images))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_batch_is_the_one_that_the_device_makes(setting):
    images = np.random.default_rng(1).integers(0, 256, (48, 12, 15, 3)).astype(np.uint8)
    where = (3, 2, 1, np.arange(2**32 - 24, 2**32 + 24))
    found, on_its_device = whole_batches(SETTINGS[setting], images, where)
    assert (found != images).any() == (setting != "nothing")
    np.testing.assert_array_equal(found, on_its_device)


def test_gray_images_have_one_channel():
    images = np.random.default_rng(1).integers(0, 256, (48, 9, 7, 1)).astype(np.uint8)
    found, on_its_device = whole_batches(FULL, images, (3, 0, 0, np.arange(48)))
    np.testing.assert_array_equal(found, on_its_device)


def test_mistakes_are_told():
    images = tf.zeros((1, 4, 4, 3), tf.uint8)
    with pytest.raises(UserError, match="uint8 images, values 0–255, not on float32"):
        ours.augment(tf.cast(images, tf.float32), {}, InputNoise())
    with pytest.raises(UserError, match="crop_padding=4 is too large"):
        ours.augment(images, {}, InputNoise(crop_padding=4))
    with pytest.raises(UserError, match="1 or 3 channels, not 4"):
        ours.color(tf.zeros((1, 4, 4, 4), tf.uint8), 1.9)

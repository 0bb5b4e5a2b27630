"""The authors' bicubic is TensorFlow 1's, bit for bit, wherever images come from."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from noisy_student_jax.data.streaming.decoding import View, crops, decoded
from noisy_student_jax.images import resize_tf1
from noisy_student_jax.images.decode import decode
from noisy_student_jax.images.preprocessing import Preprocessing

# From the original to the resized: down, up, both, not at all, and the least there is.
SIZES = [
    ((37, 53), (24, 24)),
    ((10, 11), (32, 32)),
    ((300, 400), (224, 224)),
    ((333, 500), (299, 331)),
    ((475, 237), (300, 300)),
    ((5, 1000), (64, 64)),
    ((24, 24), (24, 24)),
    ((7, 3), (8, 8)),
    ((1, 1), (8, 8)),
]


def tensorflows(image, height, width):
    """The op that ``tf.image.resize_bicubic`` of TensorFlow 1 calls."""
    resized = tf.raw_ops.ResizeBicubic(
        images=image[None],
        size=[height, width],
        align_corners=False,
        half_pixel_centers=False,
    )
    return resized[0].numpy()


def pixels(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def photograph(height, width):
    """Large shapes and sharp edges, and some noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 24 + 1, width // 24 + 1, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)
    noise = rng.integers(-9, 10, (height, width, 3))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_resizing_is_tensorflow_1s(size, wanted):
    image = pixels(*size)
    found = resize_tf1.resize(image, *wanted)
    np.testing.assert_array_equal(found, tensorflows(image, *wanted))


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (64, 48), (31, 30)])
@pytest.mark.parametrize("resolution", [32, 75])
def test_an_evaluation_image_is_the_authors(size, resolution):
    image = photograph(*size)
    # Their `center_crop`: the fraction is a float32, and the odd pixel goes before.
    fraction = tf.constant(resolution / (resolution + 32), tf.float32)
    crop = int(tf.cast(fraction * float(min(size)), tf.int32))
    top, left = (size[0] - crop + 1) // 2, (size[1] - crop + 1) // 2
    part = image[top : top + crop, left : left + crop]

    found = Preprocessing(resolution, 32, "bicubic_tf1").apply(image)

    np.testing.assert_array_equal(found, tensorflows(part, resolution, resolution))
    assert ((found < 0) | (found > 255)).any()


# The second would be decoded at a quarter if it were to be smoothed.
@pytest.mark.parametrize("box", [(3, 5, 60, 71), (10, 0, 270, 380), (0, 0, 0, 0)])
def test_a_streamed_training_image_is_the_authors(box):
    image = photograph(289, 391)
    data, cut = jpeg(image), Preprocessing(48, 32, "bicubic_tf1")
    whole = decode(data)
    top, left, height, width = box
    if not height:
        # (289 · 48 / 80) is 173.4; and (289 − 173 + 1) // 2, (391 − 173 + 1) // 2.
        top, left, height, width = 58, 109, 173, 173
    part = whole[top : top + height, left : left + width]
    expected = tf.cast(tf.clip_by_value(tensorflows(part, 48, 48), 0, 255), tf.uint8)

    view = View(cut, trained_on=True)
    crop = crops(view, np.array([box]), *np.array([[289], [391]]))
    crop = {name: tf.constant(column[0]) for name, column in crop.items()}
    found = decoded(tf.constant(data), crop, view)
    np.testing.assert_array_equal(found, expected)
    # And in the other input pipeline.
    np.testing.assert_array_equal(cut.apply_crop(whole, box), expected)

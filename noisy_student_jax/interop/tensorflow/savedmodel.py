"""Writes SavedModels: a network and its preprocessing as a TensorFlow program.

jax2tf lowers the network to XLA for each platform. Crop and resize are TensorFlow ops
that reproduce Pillow exactly.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from jax.experimental import jax2tf

from noisy_student_jax.core.types import PyTree
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.images.resize import BICUBIC_TF1

ENCODED = "serving_default"
NORMALIZED = "normalized"
PLATFORMS = ("cpu", "cuda", "tpu")
SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}
PRECISION = 2.0**22

Signature = Callable[[Any], dict[str, np.ndarray]]


def write(
    folder: pathlib.Path,
    predict: Callable[[PyTree, Any], dict[str, Any]],
    variables: PyTree,
    preprocessing: Preprocessing,
    classes: Sequence[str],
) -> None:
    """Writes a SavedModel with two signatures.

    `ENCODED` takes ``images``, encoded files as strings ``[batch]``; `NORMALIZED` takes
    ``images``, normalized float32 ``[batch, side, side, 3]``. The loaded model's
    ``classes`` are the class names.

    Args:
      folder: an empty directory.
      predict: maps variables and normalized images to arrays ``[batch, …]`` by name.
      variables: the model's variables.
      preprocessing: the model's preprocessing.
      classes: class names in index order.
    """
    side = preprocessing.resolution
    apply = jax2tf.convert(
        predict,
        polymorphic_shapes=[None, f"(batch, {side}, {side}, 3)"],
        native_serialization_platforms=PLATFORMS,
        with_gradient=False,
    )
    model = tf.Module()
    model.weights = tf.nest.map_structure(tf.Variable, variables)
    model.classes = tf.Variable(list(classes), trainable=False)
    shape = tf.TensorSpec([None, side, side, 3], tf.float32, name="images")

    @tf.function(autograph=False, input_signature=[shape])
    def normalized(images):
        return apply(model.weights, images)

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None], tf.string, name="images")],
    )
    def encoded(images):
        pixels = tf.map_fn(
            lambda data: crop_and_resize(decode(data), preprocessing),
            images,
            fn_output_signature=tf.TensorSpec([side, side, 3], tf.float32),
        )
        return normalized(_normalize(pixels, preprocessing))

    tf.saved_model.save(
        model, str(folder), signatures={ENCODED: encoded, NORMALIZED: normalized}
    )


def read(folder: pathlib.Path) -> tuple[dict[str, Signature], tuple[str, ...]]:
    """Loads a SavedModel that `write` wrote; returns signatures and class names."""
    model = tf.saved_model.load(str(folder))

    def signature(name: str) -> Signature:
        def call(images):
            found = model.signatures[name](images=tf.constant(images))
            return {key: value.numpy() for key, value in found.items()}

        return call

    names = [name.decode() for name in model.classes.numpy()]
    return {name: signature(name) for name in (ENCODED, NORMALIZED)}, tuple(names)


def decode(data: tf.Tensor) -> tf.Tensor:
    """Decodes an image file with TensorFlow to uint8 ``[height, width, 3]``.

    JPEGs decode as in Pillow. The EXIF orientation is ignored, transparency is dropped,
    and a damaged file fails the whole batch.
    """

    def jpeg():
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")

    def other():
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        return tf.ensure_shape(image, [None, None, 3])

    return tf.cond(tf.io.is_jpeg(data), jpeg, other)


def crop_and_resize(image: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Crops and resizes, pixel-equal to `Preprocessing.apply`.

    Pillow resizes with weights of 22 fractional bits, sums in integers, and rounds to
    whole pixels after each of its two passes; float64 holds those integers exactly.

    Args:
      image: uint8 ``[height, width, 3]``.
      preprocessing: resolution, crop and interpolation.

    Returns:
      float32 ``[side, side, 3]``; whole numbers except for ``bicubic_tf1``.
    """
    side, kind = preprocessing.resolution, preprocessing.interpolation
    size = tf.shape(image)[:2]
    fraction = side / (side + preprocessing.crop_padding)
    short = tf.cast(tf.reduce_min(size), tf.float64)
    crop = tf.maximum(1, tf.cast(fraction * short, tf.int32))
    top, left = tf.unstack((size - crop + 1) // 2)
    image = image[top : top + crop, left : left + crop]
    if kind == BICUBIC_TF1:
        # The authors' resize is TensorFlow's op, without clipping of its overshoot.
        pixels = tf.cast(image[None], tf.float32)
        resized = tf.raw_ops.ResizeBicubic(images=pixels, size=[side, side])[0]
    else:
        weights = _weights(crop, side, kind)
        hidden = tf.transpose(tf.cast(image, tf.float64), (2, 0, 1))
        hidden = _whole_pixels(tf.matmul(hidden, weights, transpose_b=True))
        hidden = _whole_pixels(tf.matmul(weights, hidden))
        resized = tf.transpose(hidden, (1, 2, 0))
    return tf.ensure_shape(tf.cast(resized, tf.float32), [side, side, 3])


def _whole_pixels(sums: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.floor((sums + PRECISION / 2) / PRECISION), 0, 255)


def _weights(crop: tf.Tensor, side: int, kind: str) -> tf.Tensor:
    """Returns the integer weights of one pass, float64 ``[side, crop]``."""
    scale = tf.cast(crop, tf.float64) / side
    stretch = tf.maximum(scale, 1)
    reach = SUPPORT[kind] * stretch
    middles = tf.constant((np.arange(side) + 0.5)[:, None]) * scale
    pixels = tf.cast(tf.range(crop), tf.float64)

    def edge(value):
        return tf.cast(tf.cast(value + 0.5, tf.int32), tf.float64)

    inside = (pixels >= edge(middles - reach)) & (pixels < edge(middles + reach))
    curve = _curve(tf.abs((pixels - middles + 0.5) * (1 / stretch)), kind)
    weights = tf.where(inside, curve, 0)
    weights = weights / tf.reduce_sum(weights, axis=1, keepdims=True)
    # Halves are rounded away from zero.
    return tf.sign(weights) * tf.floor(tf.abs(weights) * PRECISION + 0.5)


def _curve(away: tf.Tensor, kind: str) -> tf.Tensor:
    """Returns the filter: bilinear, or Keys's bicubic with a = −0.5, as in Pillow."""
    zero = tf.zeros((), tf.float64)
    if kind == "bilinear":
        return tf.where(away < 1, 1 - away, zero)
    near = (1.5 * away - 2.5) * away * away + 1
    far = ((away - 5) * away + 8) * away - 4
    return tf.where(away < 1, near, tf.where(away < 2, -0.5 * far, zero))


def _normalize(pixels: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    mean, std = (
        np.asarray(value, np.float32) * np.float32(255)
        for value in (preprocessing.mean, preprocessing.std)
    )
    return (pixels - mean) / std

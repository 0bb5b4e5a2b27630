"""Writes SavedModels: a network and its preprocessing as a TensorFlow program.

jax2tf lowers the network to XLA for each platform. TensorFlow crops, and resizes as
Pillow does up to the rounding of its weights.
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
    """Crops and resizes one image with TensorFlow ops.

    Like Pillow, it rounds to whole pixels after each of the two passes; the weights
    are float32, so few pixels differ, by a level or two.

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
    image = tf.cast(image[top : top + crop, left : left + crop], tf.float32)
    if kind == BICUBIC_TF1:
        # The authors' resize is TensorFlow's op, without clipping of its overshoot.
        resized = tf.raw_ops.ResizeBicubic(images=image[None], size=[side, side])[0]
    else:
        resized = image
        for shape in ((crop, side), (side, side)):
            resized = tf.image.resize(resized, shape, kind, antialias=True)
            resized = tf.clip_by_value(tf.round(resized), 0, 255)
    return tf.ensure_shape(resized, [side, side, 3])


def _normalize(pixels: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    mean, std = (
        np.asarray(value, np.float32) * np.float32(255)
        for value in (preprocessing.mean, preprocessing.std)
    )
    return (pixels - mean) / std

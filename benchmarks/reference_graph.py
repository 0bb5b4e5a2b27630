"""An input pipeline like that of the paper's authors, in TensorFlow alone.

``input_pipeline.py`` compares with it: crop while decoding, TensorFlow 1's bicubic
resize, flip, and RandAugment from float operations of the graph, wherever the authors'
``randaugment.py`` has one (projective transforms of an image with a mask beside it, a
histogram per channel, a depthwise convolution). It is a reimplementation for timing,
with its own random draws.
"""

import numpy as np

from noisy_student_jax.augment import affine
from noisy_student_jax.augment import randaugment_table as table
from noisy_student_jax.data.streaming import tf


def dataset(
    files: list[bytes], *, side: int, layers: int, magnitude: float, threads: int
) -> tf.data.Dataset:
    """Yields noised images of the files, repeatedly."""

    @tf.autograph.experimental.do_not_convert
    def one(data: tf.Tensor) -> tf.Tensor:
        image = tf.image.random_flip_left_right(_cropped(data, side))
        image = tf.cast(tf.clip_by_value(image, 0.0, 255.0), tf.uint8)
        for _ in range(layers):
            image = _drawn(image, magnitude, side)
        return image

    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    images = tf.data.Dataset.from_tensor_slices(files).repeat()
    return images.map(one, num_parallel_calls=threads).with_options(options)


def _cropped(data: tf.Tensor, side: int) -> tf.Tensor:
    """Decodes a random crop and resizes it, float32 `[side, side, 3]`."""
    start, size, _ = tf.image.sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(data),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([start[:2], size[:2]], axis=0)
    part = tf.io.decode_and_crop_jpeg(data, window, channels=3)
    image = tf.raw_ops.ResizeBicubic(images=part[None], size=[side, side])[0]
    return tf.reshape(image, [side, side, 3])


def _drawn(image: tf.Tensor, magnitude: float, side: int) -> tf.Tensor:
    op = tf.random.uniform([], maxval=len(table.OPS), dtype=tf.int32)
    branches = [_branch(image, one, magnitude, side) for one in table.OPS]
    return tf.ensure_shape(tf.switch_case(op, branches), [side, side, 3])


def _branch(image: tf.Tensor, op: table.Op, magnitude: float, side: int):
    value = table.argument(op, magnitude)
    if op.name in affine.COEFFICIENTS:

        def transformed() -> tf.Tensor:
            six = [affine.COEFFICIENTS[op.name](s * value, side, side) for s in (1, -1)]
            eight = tf.constant([[*one, 0, 0] for one in six], tf.float32)
            return _projected(image, eight[tf.random.uniform([], 0, 2, tf.int32)])

        return transformed
    function = OPERATIONS[op.name]
    return lambda: function(image) if value is None else function(image, value)


def _projected(image: tf.Tensor, eight: tf.Tensor) -> tf.Tensor:
    """Transforms with a channel of ones, and fills the empty pixels with gray."""
    masked = tf.concat([image, tf.ones_like(image[..., :1])], axis=-1)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=masked[None],
        transforms=eight[None],
        output_shape=image.shape[:2],
        interpolation="NEAREST",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )[0]
    return tf.where(moved[..., 3:] > 0, moved[..., :3], np.uint8(table.FILL))


def _blended(first: tf.Tensor, second: tf.Tensor, factor: float) -> tf.Tensor:
    base = tf.cast(first, tf.float32)
    mixed = base + factor * (tf.cast(second, tf.float32) - base)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)


def _autocontrast(image: tf.Tensor) -> tf.Tensor:
    def channel(values: tf.Tensor) -> tf.Tensor:
        whole = tf.cast(values, tf.float32)
        low, high = tf.reduce_min(whole), tf.reduce_max(whole)
        scale = 255.0 / tf.maximum(high - low, 1.0)
        stretched = tf.clip_by_value(whole * scale - low * scale, 0.0, 255.0)
        return tf.where(high > low, tf.cast(stretched, tf.uint8), values)

    return tf.stack([channel(image[..., n]) for n in range(3)], axis=-1)


def _equalize(image: tf.Tensor) -> tf.Tensor:
    def channel(values: tf.Tensor) -> tf.Tensor:
        whole = tf.cast(values, tf.int32)
        counts = tf.histogram_fixed_width(whole, [0, 255], nbins=256)
        filled = tf.boolean_mask(counts, counts > 0)
        step = (tf.reduce_sum(filled) - filled[-1]) // 255
        levels = (tf.cumsum(counts) + step // 2) // tf.maximum(step, 1)
        levels = tf.clip_by_value(tf.concat([[0], levels[:-1]], axis=0), 0, 255)
        levelled = tf.cast(tf.gather(levels, whole), tf.uint8)
        return tf.where(step == 0, values, levelled)

    return tf.stack([channel(image[..., n]) for n in range(3)], axis=-1)


def _color(image: tf.Tensor, factor: float) -> tf.Tensor:
    gray = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))
    return _blended(gray, image, factor)


def _contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    gray = tf.cast(tf.image.rgb_to_grayscale(image), tf.int32)
    counts = tf.histogram_fixed_width(gray, [0, 255], nbins=256)
    mean = tf.reduce_sum(tf.cast(counts, tf.float32)) / 256.0
    base = tf.clip_by_value(tf.ones_like(image, tf.float32) * mean, 0.0, 255.0)
    return _blended(tf.cast(base, tf.uint8), image, factor)


def _sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13.0
    kernel = np.tile(kernel[..., None, None], (1, 1, 3, 1))
    whole = tf.cast(image, tf.float32)[None]
    smooth = tf.nn.depthwise_conv2d(whole, kernel, [1, 1, 1, 1], "VALID")[0]
    smooth = tf.cast(tf.clip_by_value(smooth, 0.0, 255.0), tf.uint8)
    around = [[1, 1], [1, 1], [0, 0]]
    inner = tf.pad(tf.ones_like(smooth), around)
    return _blended(tf.where(inner == 1, tf.pad(smooth, around), image), image, factor)


def _solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    added = tf.clip_by_value(tf.cast(image, tf.int32) + addition, 0, 255)
    return tf.where(image < table.SOLARIZE_ADD_BELOW, tf.cast(added, tf.uint8), image)


def _cutout(image: tf.Tensor, half: int) -> tf.Tensor:
    side = image.shape[0]
    row, column = tf.unstack(tf.random.uniform([2], 0, side, tf.int32))
    before = [tf.maximum(0, row - half), tf.maximum(0, column - half)]
    behind = [tf.maximum(0, side - row - half), tf.maximum(0, side - column - half)]
    hole = tf.zeros([side - before[0] - behind[0], side - before[1] - behind[1]])
    around = [[before[0], behind[0]], [before[1], behind[1]]]
    kept = tf.pad(hole, around, constant_values=1.0)[..., None]
    return tf.where(tf.tile(kept, [1, 1, 3]) == 0, np.uint8(table.FILL), image)


OPERATIONS = {
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Invert": lambda image: 255 - image,
    "Posterize": lambda image, shift: tf.bitwise.left_shift(
        tf.bitwise.right_shift(image, np.uint8(shift)), np.uint8(shift)
    ),
    "Solarize": lambda image, threshold: tf.where(
        tf.cast(image, tf.int32) < threshold, image, 255 - image
    ),
    "Color": _color,
    "Contrast": _contrast,
    "Brightness": lambda image, factor: _blended(tf.zeros_like(image), image, factor),
    "Sharpness": _sharpness,
    "SolarizeAdd": _solarize_add,
    "Cutout": _cutout,
}

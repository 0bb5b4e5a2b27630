"""Decodes and resizes crops of JPEGs in TensorFlow's graph.

Only the rows and columns of a crop are decoded, at 1/2 or 1/4 scale where a training
crop leaves enough pixels. (At 1/8 only the mean of each block remains, which is visibly
coarser.) At full scale the decoded pixels equal those of ``images.decode.decode``: both
use libjpeg, here with its accurate integer transform. At a smaller scale the geometry
is the same but the filter differs.

``bicubic_tf1`` is TensorFlow's own resize and equals ``images/resize_tf1.py`` bit for
bit. It does not antialias, so its images are always decoded at full scale. The other
interpolations compute in float32 what Pillow computes in fixed point: one value in ten
thousand of bicubic photographs differs, by a level. (Pillow 13 begins with the height
of an image that shrinks by more than twice as much in height as in width; there, one
in five may.)
"""

import dataclasses

import numpy as np

from noisy_student_jax.data.streaming import tf
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.images.resize import BICUBIC_TF1, Bicubic

KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle"}
"""TensorFlow's names of the antialiased interpolations."""
_FRACTIONS = np.array([1, 2, 4])
# Chroma upsampling of the outermost pixels reads their neighbors.
_MARGIN = 1


@dataclasses.dataclass(frozen=True)
class View:
    """One way to see an image: a model's preprocessing, for training or evaluation.

    Attributes:
      preprocessing: resolution and interpolation.
      trained_on: whether it is a training image, which is uint8, and may be decoded at
        a reduced scale.
    """

    preprocessing: Preprocessing
    trained_on: bool

    def __post_init__(self) -> None:
        """Checks the framing.

        Raises:
          UserError: it is a letterbox.
        """
        self.preprocessing.refuse_letterbox(
            "the streamed input pipeline",
            instead="set config.data.pipeline to prepared",
        )

    @property
    def dtype(self) -> type[np.generic]:
        """The dtype of the images."""
        return np.uint8 if self.trained_on else self.preprocessing.dtype

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return self.preprocessing.resolution, self.preprocessing.resolution, 3

    def blank(self) -> np.ndarray:
        """Returns a placeholder image, mid-gray."""
        return self.preprocessing.blank().astype(self.dtype)

    def seen(
        self, image: np.ndarray, box: np.ndarray, bicubic: Bicubic | None
    ) -> np.ndarray:
        """Crops and resizes a decoded image, as `decoded` does in the graph.

        Args:
          image: uint8 ``[height, width, 3]``.
          box: see `crops`.
          bicubic: see `Preprocessing.apply`.
        """
        if self.trained_on:
            top, left, height, width = box.tolist()
            where = top, left, height, width
            return self.preprocessing.apply_crop(image, where, bicubic=bicubic)
        return self.preprocessing.apply(image, bicubic=bicubic)


def crops(
    view: View, boxes: np.ndarray, heights: np.ndarray, widths: np.ndarray
) -> dict[str, np.ndarray]:
    """Computes which part of each image to decode, and which part of it to resize.

    Args:
      view: the preprocessing.
      boxes: integers ``[images, 4]``: top, left, height and width; a height of 0 stands
        for the center crop of evaluation.
      heights: integers ``[images]``, of the images.
      widths: likewise.

    Returns:
      ``fraction``, int32 ``[images]``: 0, 1 or 2 for a scale of 1, 1/2 or 1/4;
      ``window``, int32 ``[images, 4]``: the part to decode, in scaled pixels;
      ``part``, int32 ``[images, 4]``: the part of the window to keep;
      ``box``, float32 ``[images, 4]``: the part of that to resize.
    """
    sizes = np.stack([heights, widths], axis=1).astype(np.int64)
    start, count = boxes[:, :2].astype(np.int64), boxes[:, 2:].astype(np.int64)
    whole = count[:, :1] == 0
    center = view.preprocessing.center_crop(heights, widths)
    start = np.where(whole, center[:, :2], start)
    count = np.where(whole, center[:, 2:], count)
    number = np.zeros(len(boxes), np.int64)
    if view.trained_on and view.preprocessing.interpolation != BICUBIC_TF1:
        scaled = count.min(axis=1)[:, None] // _FRACTIONS[1:]
        enough = (scaled >= view.preprocessing.resolution) & ~whole
        number = enough.sum(axis=1)
    fraction = _FRACTIONS[number][:, None]
    first = np.maximum(start - _MARGIN, 0) // fraction
    end = -(-np.minimum(start + count + _MARGIN, sizes) // fraction)
    window = np.concatenate([first, end - first], axis=1)
    is_whole = fraction == 1
    # At full scale the resize sees only the crop, as evaluation and Pillow do.
    part = np.where(
        is_whole,
        np.concatenate([start - first, count], axis=1),
        np.concatenate([np.zeros_like(first), end - first], axis=1),
    )
    offset = np.where(is_whole, 0, start / fraction - first)
    box = np.concatenate([offset, count / fraction], axis=1)
    return {
        "fraction": number.astype(np.int32),
        "window": window.astype(np.int32),
        "part": part.astype(np.int32),
        "box": box.astype(np.float32),
    }


def decoded(content: tf.Tensor, crop: dict[str, tf.Tensor], view: View) -> tf.Tensor:
    """Decodes and resizes a crop of one JPEG.

    Args:
      content: the file's bytes, a string ``[]``.
      crop: one image's entries of `crops`.
      view: the preprocessing.

    Returns:
      ``[resolution, resolution, 3]`` of the view's dtype.
    """

    def at(fraction: int) -> tf.Tensor:
        # Damage is an error here, so that our own decoder judges it.
        return tf.raw_ops.DecodeAndCropJpeg(
            contents=content,
            crop_window=crop["window"],
            channels=3,
            ratio=fraction,
            fancy_upscaling=True,
            try_recover_truncated=False,
            acceptable_fraction=1.0,
            dct_method="INTEGER_ACCURATE",
        )

    if view.trained_on and view.preprocessing.interpolation != BICUBIC_TF1:
        scales = [lambda f=f: at(f) for f in _FRACTIONS.tolist()]
        image = tf.switch_case(crop["fraction"], scales)
    else:
        image = at(1)
    top, left, height, width = tf.unstack(crop["part"])
    image = tf.slice(image, [top, left, 0], [height, width, 3])
    return _resized(image, crop["box"], view)


def _resized(image: tf.Tensor, box: tf.Tensor, view: View) -> tf.Tensor:
    side = view.preprocessing.resolution
    interpolation = view.preprocessing.interpolation
    if interpolation == BICUBIC_TF1:
        resized = tf.raw_ops.ResizeBicubic(images=image[None], size=[side, side])[0]
        resized = tf.ensure_shape(resized, view.shape)
        return resized if view.dtype == np.float32 else _clipped(resized)
    kernel = KERNELS[interpolation]
    # As Pillow: the width first, and whole levels in between.
    turned = tf.transpose(image, [1, 0, 2])
    turned = _along_rows(turned, box[1], box[3], side, kernel)
    resized = _along_rows(tf.transpose(turned, [1, 0, 2]), box[0], box[2], side, kernel)
    return tf.ensure_shape(resized, view.shape)


def _along_rows(
    image: tf.Tensor, start: tf.Tensor, count: tf.Tensor, side: int, kernel: str
) -> tf.Tensor:
    """Resizes a range of rows to `side` rows; uint8 ``[side, width, 3]``.

    To the op, a row is one pixel of ``width·3`` channels: its loop over channels is
    vectorized, so that twice this function takes half the time of both axes at once.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    scale = side / count
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, [1, height, 1, width * 3]),
        size=[side, 1],
        scale=tf.stack([scale, 1.0]),
        translation=tf.stack([-start * scale, 0.0]),
        kernel_type=kernel,
        antialias=True,
    )
    return tf.reshape(_clipped(resized + 0.5), [side, width, 3])


def _clipped(values: tf.Tensor) -> tf.Tensor:
    """Clips to 0–255 and truncates, as the authors do."""
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)

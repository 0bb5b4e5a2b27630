"""Decoding a part of a JPEG: the pixels of the whole, cut out and resized."""

import functools

import numpy as np
import pytest
from bad_images import encoded
from PIL import Image

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.streaming import decoding, tf
from noisy_student_jax.data.streaming.decoding import View, crops
from noisy_student_jax.images.decode import decode
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.images.resize import BICUBIC_TF1

BOXES = [
    (0, 0, 96, 131),
    (7, 13, 55, 41),
    (31, 90, 64, 40),
    (1, 2, 33, 35),
    (0, 0, 9, 9),
]
PREPROCESSING = Preprocessing(32, 4)


def photograph(height=96, width=131):
    """Smooth shapes and some grain, as in photographs."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 12, width // 12, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


PLAIN = {
    "420": encoded(photograph(), "JPEG", quality=90, subsampling=2),
    "422": encoded(photograph(), "JPEG", quality=90, subsampling=1),
    "444": encoded(photograph(), "JPEG", quality=90, subsampling=0),
    "progressive": encoded(photograph(), "JPEG", quality=90, progressive=True),
    "gray": encoded(photograph().convert("L"), "JPEG", quality=90),
    "upright by EXIF": encoded(photograph(), "JPEG", quality=90, exif=turned(1)),
}


def seen(data, box, preprocessing, *, trained_on=True):
    """Decodes and resizes a crop in a graph; its values as integers."""
    view = View(preprocessing, trained_on=trained_on)
    height, width = (np.array([side]) for side in decode(data).shape[:2])
    crop = crops(view, np.array([box]), height, width)
    crop = {name: column[0] for name, column in crop.items()}
    one = tf.function(functools.partial(decoding.decoded, view=view))
    found = one(tf.constant(data), {n: tf.constant(v) for n, v in crop.items()}).numpy()
    assert found.dtype == view.dtype
    return found


@pytest.mark.parametrize("box", [*BOXES, (0, 0, 0, 0)], ids=str)
@pytest.mark.parametrize("kind", PLAIN)
def test_a_part_is_exactly_that_of_the_whole(kind, box):
    data = PLAIN[kind]
    authors = Preprocessing(40, 4, BICUBIC_TF1)
    found = seen(data, box, authors)

    np.testing.assert_array_equal(found, authors.apply_crop(decode(data), box))


def test_an_evaluation_image_of_the_authors_is_neither_clipped_nor_rounded():
    authors = Preprocessing(40, 4, BICUBIC_TF1)
    found = seen(PLAIN["420"], (0, 0, 0, 0), authors, trained_on=False)

    np.testing.assert_array_equal(found, authors.apply(decode(PLAIN["420"])))
    assert ((found < 0) | (found > 255)).any()


@pytest.mark.parametrize("side", [16, 40, 80])
@pytest.mark.parametrize("interpolation", decoding.KERNELS)
@pytest.mark.parametrize("box", [*BOXES, (0, 0, 0, 0)], ids=str)
def test_resizing_differs_from_pillows_by_a_level_at_most(box, interpolation, side):
    data = PLAIN["444"]
    pillows = Preprocessing(side, 4, interpolation)
    # Evaluation never decodes at a fraction.
    found = seen(data, box, pillows, trained_on=min(box[2:]) < 2 * side)

    wanted = pillows.apply_crop(decode(data), box)
    difference = np.abs(found.astype(int) - wanted)
    assert difference.max() <= 1
    height, width = box[2:]
    if height > width:
        # Pillow 13 may begin with the height, and rounds in between.
        assert difference.mean() < 0.3
    else:
        # Ties of bilinear weights are rounded either way.
        assert difference.mean() < {"bicubic": 0.003, "bilinear": 0.05}[interpolation]


@pytest.mark.parametrize(
    ("box", "fraction"),
    [
        ((33, 17, 63, 300), 1),
        ((33, 17, 64, 300), 2),
        ((33, 17, 150, 127), 2),
        ((33, 17, 150, 161), 4),
        ((5, 6, 283, 257), 4),
        ((0, 0, 289, 391), 4),
    ],
)
def test_a_large_part_is_decoded_at_a_fraction_and_looks_the_same(box, fraction):
    data = encoded(photograph(289, 391), "JPEG", quality=95)
    view = View(PREPROCESSING, trained_on=True)
    (crop,) = crops(view, np.array([box]), *np.array([[289], [391]]))["fraction"]
    assert 2**crop == fraction
    found = seen(data, box, PREPROCESSING).astype(int)

    wanted = PREPROCESSING.apply_box(decode(data), *box).astype(int)
    difference = np.abs(found - wanted)
    assert difference.mean() < 2.5
    # Exactly the same place: a part of a pixel to the side is another picture.
    for shift in (-1, 1):
        for axis in (0, 1):
            moved = np.abs(np.roll(found, shift, axis) - wanted)[2:-2, 2:-2]
            assert moved.mean() > 1.5 * difference[2:-2, 2:-2].mean()


@pytest.mark.parametrize("kind", ["evaluation", "authors"])
def test_no_other_image_is_decoded_at_a_fraction(kind):
    authors = Preprocessing(32, 4, BICUBIC_TF1)
    view = {
        "evaluation": View(PREPROCESSING, trained_on=False),
        "authors": View(authors, trained_on=True),
    }[kind]
    box = np.array([[5, 6, 283, 257]])
    assert not crops(view, box, *np.array([[289], [391]]))["fraction"].any()


def test_a_letterbox_is_refused():
    boxed = Preprocessing(32, 0, framing="letterbox")
    with pytest.raises(UserError, match="the streamed input pipeline only crops the"):
        View(boxed, trained_on=True)

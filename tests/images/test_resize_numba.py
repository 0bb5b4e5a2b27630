"""The compiled bicubic resize gives Pillow's pixels, or is not used."""

import sys

import numpy as np
import pytest
from PIL import Image

from noisy_student_jax.images import preprocessing, resize_numba
from noisy_student_jax.images.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def bicubic():
    found = preprocessing.compiled_bicubic()
    assert found is not None
    return found


def pixels(height, width, seed=0):
    """Black, white and anything: sums that have to be clipped, both ways."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return np.where(rng.random(image.shape) < 0.5, image // 128 * 255, image)


def pillows(image, side, box=None):
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box=box))


# Height and width of the image, side of the result.
SHAPES = [
    *[(240, 252, 224), (500, 375, 224), (375, 500, 224), (100, 90, 224), (7, 5, 32)],
    *[(224, 224, 224), (224, 300, 224), (300, 224, 224), (300, 200, 224)],
    # One axis shrinks by more than twice what the other does, and by just twice.
    *[(90, 41, 40), (42, 41, 40), (43, 41, 40), (41, 90, 40), (40, 41, 40)],
    *[(1, 1, 8), (1, 60, 8), (60, 1, 8), (33, 34, 1), (900, 3, 31), (65, 31, 33)],
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_pixel_is_pillows(bicubic, shape):
    height, width, side = shape
    image = pixels(height, width)
    np.testing.assert_array_equal(bicubic(image, side, None), pillows(image, side))


@pytest.mark.parametrize("seed", range(20))
def test_a_box_of_parts_of_pixels_is_pillows_too(bicubic, seed):
    rng = np.random.default_rng(seed)
    height, width, side = rng.integers(20, 130, 3)
    image = pixels(height, width, seed)
    left, right = np.sort(rng.uniform(0, width, 2)) + np.array([0, 1])
    top, bottom = np.sort(rng.uniform(0, height, 2)) + np.array([0, 1])
    box = (left, top, min(right, width), min(bottom, height))
    found = bicubic(image, int(side), box)
    np.testing.assert_array_equal(found, pillows(image, side, box))


def test_a_part_of_an_image_that_may_not_be_written_to_is_taken_where_it_is(bicubic):
    image = pixels(90, 80)
    image.flags.writeable = False
    part = image[5:70, 11:60]
    np.testing.assert_array_equal(bicubic(part, 32, None), pillows(part, 32))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "bicubic_tf1"])
def test_crops_are_the_same_with_it(bicubic, interpolation):
    image, cut = pixels(90, 80), Preprocessing(32, 8, interpolation)
    for box in [(3, 5, 60, 71), (0, 0, 32, 32), (0, 0, 0, 0)]:
        found = cut.apply_crop(image, box, bicubic=bicubic)
        np.testing.assert_array_equal(found, cut.apply_crop(image, box))


def test_it_is_not_used_where_the_installed_pillow_computes_otherwise(monkeypatch):
    resize = Image.Image.resize

    def other(image, *arguments, **options):
        return resize(image, *arguments, **options).point(lambda value: value ^ 1)

    monkeypatch.setattr(Image.Image, "resize", other)
    assert resize_numba.load() is None


def test_a_pillow_that_always_begins_with_the_width_is_followed(monkeypatch):
    resize = Image.Image.resize

    def older(image, size, how):
        return resize(resize(image, (size[0], image.height), how), size, how)

    monkeypatch.setattr(Image.Image, "resize", older)
    found, image = resize_numba.load(), pixels(90, 41)
    monkeypatch.undo()
    across_first = np.asarray(
        Image.fromarray(image).resize((40, 90), Image.Resampling.BICUBIC)
    )
    np.testing.assert_array_equal(found(image, 40, None), pillows(across_first, 40))


def test_without_numba_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "noisy_student_jax.images.resize_numba")
    monkeypatch.delattr("noisy_student_jax.images.resize_numba")
    assert preprocessing.compiled_bicubic.__wrapped__() is None


def test_a_numba_that_cannot_work_here_is_told_and_left_aside(monkeypatch, capsys):
    def cannot():
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(resize_numba, "load", cannot)
    preprocessing.compiled_bicubic.cache_clear()
    try:
        assert preprocessing.compiled_bicubic() is None
    finally:
        preprocessing.compiled_bicubic.cache_clear()
    assert "no locator available" in "".join(capsys.readouterr())

"""Evaluation preprocessing: what is cut out, and how it is resized."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.images import preprocessing, resize_tf1
from noisy_student_jax.images.preprocessing import Preprocessing


def pixels(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def numbered(height, width):
    """An image whose pixels say their own row and column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("resolution", [8, 16, 32, 224, 240, 260, 300, 380])
@pytest.mark.parametrize("padding", [0, 32])
def test_an_image_of_resolution_plus_padding_is_cut_without_resizing(
    resolution, padding
):
    side = resolution + padding
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)

    result = Preprocessing(resolution, crop_padding=padding).apply(image)

    first = (side - resolution + 1) // 2
    inside = slice(first, first + resolution)
    assert np.array_equal(result, image[inside, inside])
    assert result.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    ("height", "width", "resolution", "padding"),
    [(40, 60, 32, 32), (61, 40, 32, 32), (33, 33, 8, 8), (50, 71, 9, 3), (3, 9, 3, 0)],
)
def test_the_crop_is_the_authors_fraction_and_offset(
    height, width, resolution, padding
):
    image = numbered(height, width)

    result = Preprocessing(resolution, padding).apply(image)

    crop = int(resolution / (resolution + padding) * min(height, width))
    top, left = (height - crop + 1) // 2, (width - crop + 1) // 2
    square = Image.fromarray(image[top : top + crop, left : left + crop])
    expected = square.resize((resolution, resolution), Image.Resampling.BICUBIC)
    assert np.array_equal(result, np.asarray(expected))


def test_an_odd_remainder_goes_to_the_top_and_left():
    result = Preprocessing(4, crop_padding=4).apply(numbered(9, 11))

    # The crop is 4 of 9 and 11: 5 // 2 would be 2, and (5 + 1) // 2 is 3.
    assert result[0, 0].tolist() == [3, 4, 0]
    assert result.shape == (4, 4, 3)


def test_interpolations_are_those_of_pillow_by_name():
    image = pixels(16, 16)

    for name, method in preprocessing.INTERPOLATIONS.items():
        result = Preprocessing(8, 0, name).apply(image)
        expected = Image.fromarray(image).resize((8, 8), method)
        assert np.array_equal(result, np.asarray(expected)), name


def step(height, width):
    """Black beside white: what rings most."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = 255
    return image


def test_the_authors_evaluation_images_are_neither_clipped_nor_rounded():
    cut = Preprocessing(8, 0, "bicubic_tf1")

    whole = cut.apply_all([step(13, 13), step(30, 17), pixels(8, 8)])

    assert whole.dtype == cut.dtype == np.float32
    assert whole.min() < -5 and whole.max() > 260
    assert (whole != np.round(whole)).any()
    assert np.array_equal(whole[2], pixels(8, 8))
    assert cut.apply_all([]).dtype == np.float32


def test_a_training_crop_is_clipped_and_truncated_as_the_authors_do():
    cut, image = Preprocessing(8, 0, "bicubic_tf1"), pixels(13, 17)
    authors = np.clip(resize_tf1.resize(image[1:12, 3:16], 8, 8), 0, 255)

    found = cut.apply_crop(image, (1, 3, 11, 13))

    assert found.dtype == np.uint8
    assert np.array_equal(found, np.floor(authors))
    center = cut.apply_crop(image, (0, 0, 0, 0))
    assert np.array_equal(center, np.floor(np.clip(cut.apply(image), 0, 255)))
    assert center.dtype == np.uint8


@pytest.mark.parametrize("interpolation", [*preprocessing.INTERPOLATIONS])
def test_other_interpolations_give_whole_numbers(interpolation):
    cut = Preprocessing(8, 0, interpolation)

    assert cut.apply_all([step(13, 13)]).dtype == cut.dtype == np.uint8
    assert np.array_equal(
        cut.apply_crop(step(13, 13), (0, 0, 0, 0)), cut.apply(step(13, 13))
    )


def test_many_images_of_any_size_become_one_array():
    cut = Preprocessing(8, crop_padding=2)
    images = [pixels(9, 30), pixels(40, 11)]

    together = cut.apply_all(iter(images))

    assert together.dtype == np.uint8
    assert np.array_equal(together[0], cut.apply(images[0]))
    assert np.array_equal(together[1], cut.apply(images[1]))
    assert cut.apply_all([]).shape == (0, 8, 8, 3)


def test_the_smallest_image_survives():
    assert Preprocessing(8).apply(pixels(1, 1)).shape == (8, 8, 3)
    assert Preprocessing(8).apply(pixels(1, 500)).shape == (8, 8, 3)


def test_it_survives_json():
    cut = Preprocessing(24, 5, "bilinear", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))

    assert (
        Preprocessing.from_json(json.loads(json.dumps(dataclasses.asdict(cut)))) == cut
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"interpolation": "lanczos"},
            "'lanczos' is not known: choose bicubic, bilinear, bicubic_tf1",
        ),
        ({"resolution": 0}, "resolution from 1 to 16,384 pixels, got 0"),
        ({"resolution": 10**9}, "resolution from 1 to 16,384 pixels, got 1000000000"),
        ({"resolution": 8.5}, "resolution from 1 to 16,384 pixels, got 8.5"),
        ({"resolution": True}, "resolution from 1 to 16,384 pixels, got true"),
        ({"crop_padding": -1}, "crop_padding from 0 to 16,384 pixels, got -1"),
        ({"mean": (0.5, 0.5)}, r"a mean of three finite numbers, got \[0.5, 0.5\]"),
        ({"mean": (0.5, 0.5, math.nan)}, "a mean of three finite numbers"),
        ({"std": (0.5, "0.5", 0.5)}, "a std of three finite numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "each must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, says):
    with pytest.raises(UserError, match=says):
        Preprocessing(**({"resolution": 8} | fields))

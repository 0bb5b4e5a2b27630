"""Random resized crops: always inside, spread as TensorFlow's own are."""

import functools

import numpy as np
import pytest

from noisy_student_jax.augment import crops, host_draws, threefry
from noisy_student_jax.augment.crops import crop_boxes
from noisy_student_jax.augment.input_noise import RESIZED_CROP
from noisy_student_jax.images.preprocessing import Preprocessing

COUNT = 4000
GOLDEN = [[26, 237, 162, 143], [5, 108, 245, 252], [82, 188, 169, 144]]
# Not square, square, so long that only some tries fit, and small.
SIZES = ((300, 400), (224, 224), (100, 1000), (1000, 100), (13, 9))


@functools.cache
def boxes(height, width, least_area=0.08):
    sizes = np.tile([height, width], (COUNT, 1))
    return crop_boxes(0, 1, 1, np.arange(COUNT), sizes, least_area)


def used(found):
    return found[found[:, 2] > 0]


def test_one_image_keeps_its_crops():
    # A change here changes every run of that seed.
    found = crop_boxes(7, 1, 0, [0, 1, 2**32 + 1], [(300, 400)] * 3, 0.08)
    assert found.dtype == np.int32
    assert found.tolist() == GOLDEN


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("least_area", [0.08, 0.5, 1.0])
def test_a_crop_lies_inside_the_image_and_is_large_enough(size, least_area):
    found = used(boxes(*size, least_area))
    top, left, height, width = found.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= size[0]).all() and (left + width <= size[1]).all()
    area = height * width / (size[0] * size[1])
    assert (area >= max(least_area, 0.1)).all()
    # Half a pixel of width is what rounding moves it by.
    assert (np.abs(width - np.clip(width, height * 3 / 4, height * 4 / 3)) <= 0.5).all()


def test_areas_and_aspects_fill_their_range():
    _, _, height, width = used(boxes(300, 400)).T
    area, aspect = height * width / 120_000, width / height
    assert area.min() < 0.105 and area.max() > 0.95
    assert aspect.min() < 0.755 and aspect.max() > 1.325
    # Evenly, but for the tallest of the widest, which do not fit.
    assert abs(np.median(aspect) - 25 / 24) < 0.02


@functools.cache
def tensorflows(height, width):
    tf = pytest.importorskip("tensorflow")
    image_size = tf.constant([height, width, 3])
    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])

    def one(number):
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            image_size,
            whole,
            seed=tf.stack([1, number]),
            min_object_covered=0.1,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
        )
        return tf.concat([begin[:2], size[:2]], axis=0)

    numbers = tf.data.Dataset.range(COUNT, output_type=tf.int32)
    found = next(iter(numbers.map(one).batch(COUNT))).numpy()
    found[(found[:, 2:] == [height, width]).all(axis=1)] = 0
    return found


def distance(first, second):
    """The greatest difference of two empirical distributions (Kolmogorov, Smirnov)."""
    points = np.union1d(first, second)
    below = [
        np.searchsorted(np.sort(values), points, side="right") / len(values)
        for values in (first, second)
    ]
    return np.abs(below[0] - below[1]).max()


@pytest.mark.parametrize("size", SIZES)
def test_crops_are_spread_as_tensorflows(size):
    ours, theirs = boxes(*size), tensorflows(*size)
    for column in range(4):
        # One pair of samples in 10,000 of the same distribution differs by more.
        assert distance(ours[:, column], theirs[:, column]) < 2.2 * (2 / COUNT) ** 0.5
    ours, theirs = used(ours), used(theirs)
    for describe in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
        lambda box: box[:, 0] + box[:, 2],
        lambda box: box[:, 1] + box[:, 3],
    ):
        assert (
            distance(describe(ours), describe(theirs))
            < 2.2 * (2 / min(len(ours), len(theirs))) ** 0.5
        )


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 60000), (60000, 1), (1, 5)]
)
@pytest.mark.parametrize("least_area", [1e-6, 0.08, 0.9, 1.0])
def test_any_size_gives_a_crop_that_is_inside_or_the_center(size, least_area):
    found = boxes(*size, least_area)
    assert found.dtype == np.int32
    center = (found == 0).all(axis=1)
    top, left, height, width = found[~center].T
    assert (height >= 1).all() and (width >= 1).all()
    assert (top >= 0).all() and (top + height <= size[0]).all()
    assert (left >= 0).all() and (left + width <= size[1]).all()
    assert not ((height == size[0]) & (width == size[1])).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 60000), (60000, 1)])
def test_what_nothing_fits_takes_the_center(size):
    assert not boxes(*size).any()


def test_a_crop_that_would_be_the_whole_image_becomes_evaluations():
    # All of the area of a square in one crop: it can only be the square itself.
    sizes = np.tile([64, 64], (COUNT, 1))
    keys = host_draws.example_keys(0, 1, 1, np.arange(COUNT))
    words = threefry.bits(threefry.fold_in(keys, RESIZED_CROP), 40)
    tries, fits = crops._tries(words.reshape(COUNT, 10, 4), sizes[:, None], 1.0)
    assert fits.any()
    assert (tries[fits] == [0, 0, 64, 64]).all()
    assert not boxes(64, 64, 1.0).any()

    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    cut = Preprocessing(32, 32)
    center = cut.apply_crop(image, tuple(boxes(64, 64, 1.0)[0]))
    np.testing.assert_array_equal(center, image[16:48, 16:48])


def test_off_is_the_center():
    assert not boxes(300, 400, 0.0).any()


def test_sizes_may_differ_within_a_batch():
    sizes = np.array([(300, 400), (224, 224), (1, 1), (13, 9)])
    found = crop_boxes(0, 1, 1, np.arange(4), sizes, 0.08)
    for number, size in enumerate(sizes.tolist()):
        np.testing.assert_array_equal(found[number], boxes(*size)[number])


def test_an_example_has_crops_of_its_own():
    sizes = np.tile([300, 400], (2000, 1))
    positions = np.arange(2000)
    base = crop_boxes(0, 1, 1, positions, sizes, 0.08)
    for other in ((1, 1, 1), (0, 2, 1), (0, 1, 0)):
        assert (crop_boxes(*other, positions, sizes, 0.08) != base).any(axis=1).all()
    assert len(np.unique(base, axis=0)) > 1990

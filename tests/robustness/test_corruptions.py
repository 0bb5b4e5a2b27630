"""Corruptions made of any image: the same for an image every time, whoever looks."""

import numpy as np
import pytest

from noisy_student_jax.core.protocols import Examples
from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.robustness.corruptions import CorruptedSource, resized_to_fit
from noisy_student_jax.robustness.metrics import CORRUPTIONS

pytest.importorskip("imagecorruptions", exc_type=ImportError)


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    # Smooth and mid-gray, so that blurs show and nothing is at its limit.
    coarse = rng.integers(60, 200, (4, 5, 5, 3)).astype(np.uint8)
    images = [np.kron(one, np.ones((9, 9, 1), np.uint8)) for one in coarse]
    return ArraySource([f"image {n}" for n in range(4)], images, np.arange(4))


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_each_corruption_is_the_same_every_time_and_stronger_at_5(source, corruption):
    def read(severity, indices):
        return CorruptedSource(source, corruption, severity).read(indices).images

    together = read(3, range(4))
    apart = [read(3, [n])[0] for n in (3, 2, 1, 0)][::-1]

    for image, again, original in zip(together, apart, source.images, strict=True):
        assert image.dtype == np.uint8 and image.shape == original.shape
        np.testing.assert_array_equal(image, again)

    def harm(severity):
        # A haze is drawn anew at each severity, so four images are looked at.
        pairs = zip(read(severity, range(4)), source.images, strict=True)
        return np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs])

    assert 0 < harm(1) < harm(5)


def test_images_are_corrupted_each_in_its_own_way(source):
    same = ArraySource(["a", "b"], [source.images[0]] * 2, np.zeros(2, int))

    first, second = CorruptedSource(same, "gaussian_noise", 1).read([0, 1]).images
    other = CorruptedSource(same, "gaussian_noise", 2).read([0]).images[0]

    assert (first != second).mean() > 0.5
    assert (first != other).mean() > 0.5


def test_the_random_numbers_of_others_are_left_alone(source):
    np.random.seed(7)
    wanted = np.random.random(3)

    np.random.seed(7)
    CorruptedSource(source, "shot_noise", 5).read([0, 1])

    np.testing.assert_array_equal(np.random.random(3), wanted)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((8, 8, 3), (32, 32, 3)),
        ((8, 12, 3), (32, 48, 3)),
        ((32, 40, 3), (32, 40, 3)),
        ((448, 600, 3), (224, 300, 3)),
        ((300, 224, 3), (300, 224, 3)),
    ],
)
def test_the_shorter_side_is_brought_between_32_and_224(shape, wanted):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)

    assert resized_to_fit(image).shape == wanted
    if shape == wanted:
        np.testing.assert_array_equal(resized_to_fit(image), image)


def test_what_cannot_be_read_stays_so(source):
    class Broken(ArraySource):
        def read(self, indices):
            return Examples([None], ["truncated"], np.zeros(1, int))

    found = CorruptedSource(Broken(["a"], [None]), "fog", 1).read([0])

    assert found.images == [None] and found.status == ["truncated"]

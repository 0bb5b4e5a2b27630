"""The perceptual hash: images that look alike differ in few bits."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from noisy_student_jax.images.perceptual import NO_HASH, distances, perceptual_hash


@pytest.fixture(scope="module")
def photographs():
    """Parts of photographs, ``[height, width, 3]``, that have nothing in common."""
    return [
        photograph[top : top + 200, left : left + 200]
        for photograph in load_sample_images().images
        for top in (0, 200)
        for left in (0, 200, 400)
    ]


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file).convert("RGB")


CHANGES = {
    "JPEG": lambda image: encoded(image, "JPEG", quality=50),
    "half size": lambda image: image.resize((100, 100), Image.Resampling.LANCZOS),
    "brightness": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "grayscale": lambda image: image.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_looks_alike_differs_in_few_bits(photographs, change):
    for pixels in photographs:
        changed = np.asarray(CHANGES[change](Image.fromarray(pixels)))

        assert distances(perceptual_hash(pixels), perceptual_hash(changed)) <= 4


def test_what_looks_different_differs_in_many_bits(photographs):
    hashes = np.array([perceptual_hash(pixels) for pixels in photographs])

    apart = distances(hashes[:, None], hashes[None])
    assert apart[~np.eye(len(hashes), dtype=bool)].min() >= 12


def test_half_of_the_bits_are_set(photographs):
    for pixels in photographs:
        assert int(perceptual_hash(pixels)).bit_count() == 32


def test_the_bits_are_the_same_everywhere():
    rows, columns = np.mgrid[:40, :48]
    pixels = np.stack([rows * columns % 251, rows * 6, columns * 5], -1)

    assert perceptual_hash(pixels.astype(np.uint8)) == 1692922871296593049


def test_a_nearly_uniform_image_has_no_hash():
    noise = np.random.default_rng(0).integers(118, 139, (100, 100, 3), np.uint8)

    assert perceptual_hash(noise) == NO_HASH
    assert perceptual_hash(np.zeros((100, 100, 3), np.uint8)) == NO_HASH


def test_a_tiny_image_has_no_hash(photographs):
    small = np.ascontiguousarray(photographs[0][::12, ::12])

    assert perceptual_hash(small[:16, :16]) != NO_HASH
    assert perceptual_hash(small[:15]) == NO_HASH
    assert perceptual_hash(np.ascontiguousarray(small[:, :15])) == NO_HASH

"""Input noise on several devices: each example's, wherever it lies."""

import functools

import jax
import numpy as np
import pytest

from noisy_student_jax.augment.noise import (
    InputNoise,
    augment_batch,
    example_keys,
    split_positions,
    stream_key,
)
from noisy_student_jax.augment.spread import augment_spread
from noisy_student_jax.training import partitioning

NOISE = InputNoise(flip=True, crop_padding=2, cutout_size=3)
COUNT = 4 * len(jax.devices())
POSITIONS = split_positions(np.arange(7, 7 + COUNT))


def images(count):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def key():
    return stream_key(0, 1, 1)


def spread(key, pictures, rows=None):
    mesh = partitioning.make_mesh()
    program = functools.partial(augment_spread, mesh, noise=NOISE)
    return jax.jit(program)(jax.random.key_data(key), POSITIONS, pictures, rows=rows)


def test_it_is_the_noise_of_the_whole_batch(key):
    expected = augment_batch(example_keys(key, POSITIONS), images(COUNT), NOISE)

    np.testing.assert_array_equal(spread(key, images(COUNT)), expected)


def test_rows_are_taken_before_the_noise(key):
    rows = np.random.default_rng(1).integers(0, 5, COUNT).astype(np.int32)
    taken = images(5)[rows]

    ours = spread(key, images(5), rows)

    np.testing.assert_array_equal(ours, spread(key, taken))
    assert (np.asarray(ours) != taken).any()

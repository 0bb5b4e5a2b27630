"""Input noise on eight devices: each example's, wherever it lies."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from support import on_eight_devices

from noisy_student_jax.augment.moved import augment_moved
from noisy_student_jax.augment.noise import (
    InputNoise,
    augment_batch,
    example_keys,
    split_positions,
    stream_key,
)
from noisy_student_jax.augment.sharded import augment_moved_spread, augment_spread
from noisy_student_jax.core import sharding

NOISE = InputNoise(
    randaugment_layers=1,
    randaugment_magnitude=27.0,
    flip=True,
    crop_padding=2,
    cutout_size=3,
)
MOVING = dataclasses.replace(NOISE, turns=True, zoom=1.5)
COUNT, STORED = 16, 5
POSITIONS = split_positions(np.arange(7, 7 + COUNT))


def drawn():
    """Images of which some are drawn more than once, and which are drawn."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STORED, 8, 8, 3)).astype(np.uint8)
    return images, rng.integers(0, STORED, COUNT).astype(np.int32)


def spread():
    """What noise spread over all devices makes of them, and by which programs."""
    mesh = sharding.make_mesh()
    program = jax.jit(functools.partial(augment_spread, mesh, noise=NOISE))
    key = jax.random.key_data(stream_key(0, 1, 1))
    images, rows = drawn()
    stored = jax.device_put(images, sharding.replicated(mesh))
    positions, rows, taken = sharding.put_batch([POSITIONS, rows, images[rows]], mesh)
    made = {}
    for name, given, taken_rows in (("whole", taken, None), ("rows", stored, rows)):
        compiled = program.lower(key, positions, given, rows=taken_rows).compile()
        out = compiled(key, positions, given, rows=taken_rows)
        made[name] = {
            "images": np.asarray(out).tolist(),
            "shards": [shard.data.shape[0] for shard in out.addressable_shards],
            "program": compiled.as_text(),
        }
    for form in ("one_by_one", "together"):
        noise = dataclasses.replace(MOVING, form=form)
        moved = jax.jit(functools.partial(augment_moved_spread, mesh, noise=noise))
        compiled = moved.lower(key, positions, stored, rows=rows).compile()
        out, matrices = compiled(key, positions, stored, rows=rows)
        made[form] = {
            "images": np.asarray(out).tolist(),
            "matrices": np.asarray(matrices).tolist(),
            "program": compiled.as_text(),
        }
    return made


WORK = """
import json
import jax
from test_sharded import spread

assert jax.device_count() == 8
print(json.dumps(spread()))
"""


@pytest.fixture(scope="module")
def found():
    return on_eight_devices(WORK, beside=__file__)


@pytest.fixture(scope="module")
def expected():
    """The noise of the whole batch, on one device."""
    images, rows = drawn()
    keys = example_keys(stream_key(0, 1, 1), POSITIONS)
    made = augment_batch(keys, images[rows], NOISE)
    assert (np.asarray(made) != images[rows]).any(axis=(1, 2, 3)).all()
    return made


# Images that are spread already, and rows of images that lie on every device.
@pytest.mark.parametrize("what", ["whole", "rows"])
def test_it_is_the_noise_of_the_whole_batch(found, expected, what):
    np.testing.assert_array_equal(found[what]["images"], expected)
    assert found[what]["shards"] == [COUNT // 8] * 8


@pytest.mark.parametrize("form", ["one_by_one", "together"])
def test_noise_of_known_geometry_is_that_of_the_whole_batch(found, form):
    images, rows = drawn()
    keys = example_keys(stream_key(0, 1, 1), POSITIONS)
    made, matrices = augment_moved(keys, images[rows], MOVING)
    np.testing.assert_array_equal(found[form]["images"], made)
    np.testing.assert_array_equal(np.float32(found[form]["matrices"]), matrices)


@pytest.mark.parametrize("what", ["whole", "rows", "one_by_one", "together"])
def test_no_image_moves_between_devices(found, what):
    for word in ("all-", "collective-", "reduce-scatter"):
        assert word not in found[what]["program"]

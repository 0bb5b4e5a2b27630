"""What the host draws is what the device draws."""

import functools
import os
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT

from noisy_student_jax.augment import host_draws, noise
from noisy_student_jax.augment.input_noise import InputNoise

HEIGHT, WIDTH = 12, 17
FULL = InputNoise(
    randaugment_layers=3,
    randaugment_magnitude=9,
    flip=True,
    crop_padding=4,
    cutout_size=5,
)


@functools.cache
def on_device(what):
    def draw(key):
        return noise.draw(key, (HEIGHT, WIDTH, 3), what)

    return jax.jit(jax.vmap(draw))


def device_draws(seed, generation, stream, positions, what):
    """The device's draws, by the host's names."""
    keys = noise.example_keys(
        noise.stream_key(seed, generation, stream), noise.split_positions(positions)
    )
    draws = jax.device_get(on_device(what)(keys))
    named = {}
    for name, value in draws.items():
        if name == "randaugment":
            for part, values in value._asdict().items():
                named[f"randaugment_{part}"] = values
        else:
            named[name] = np.stack(value, axis=1) if name != "flip" else value
    return named


def assert_same(host, device):
    assert host.keys() == device.keys()
    for name, values in host.items():
        assert values.dtype == device[name].dtype, name
        np.testing.assert_array_equal(values, device[name], err_msg=name)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31 - 1),
    generation=st.integers(0, 20),
    stream=st.integers(0, 1),
    positions=st.lists(st.integers(0, 2**63 - 1), min_size=4, max_size=4),
)
def test_every_draw_is_the_devices(seed, generation, stream, positions):
    where = (seed, generation, stream, np.array(positions, np.int64))
    host = host_draws.draw(*where, FULL, height=HEIGHT, width=WIDTH)
    assert_same(host, device_draws(*where, FULL))


OFF = (
    {"flip": False},
    {"randaugment_layers": 0},
    {"cutout_size": 0},
    {"crop_padding": 0},
)


@pytest.mark.parametrize("off", OFF, ids=lambda off: next(iter(off)))
def test_what_is_off_is_not_drawn_and_the_rest_stays(off):
    where = (5, 1, 0, np.arange(2**32 - 2, 2**32 + 2))
    full = host_draws.draw(*where, FULL, height=HEIGHT, width=WIDTH)
    less = host_draws.draw(*where, replace(FULL, **off), height=HEIGHT, width=WIDTH)
    assert less.keys() < full.keys()
    assert_same(less, {name: full[name] for name in less})


def test_the_random_resized_crop_leaves_the_other_draws():
    where = (5, 1, 0, np.arange(8))
    full = host_draws.draw(*where, FULL, height=HEIGHT, width=WIDTH)
    more = replace(FULL, crop_area=0.08)
    assert_same(host_draws.draw(*where, more, height=HEIGHT, width=WIDTH), full)


def test_example_keys_are_the_devices():
    positions = np.array([0, 3, 2**32 + 3, 2**40 + 1, 2**63 - 1])
    device = noise.example_keys(
        noise.stream_key(5, 1, 0), noise.split_positions(positions)
    )
    host = host_draws.example_keys(5, 1, 0, positions)
    np.testing.assert_array_equal(host, jax.random.key_data(device))


def test_workers_that_draw_need_no_jax():
    program = (
        "import noisy_student_jax.augment.crops, noisy_student_jax.augment.affine, sys;"
        "print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.strip() == "False"

"""The authors' bicubic: what tells it from today's, without TensorFlow.

That it gives TensorFlow's bits, ``tests/data/streaming/test_resize_tf1.py`` holds.
"""

import numpy as np
import pytest
from PIL import Image

from noisy_student_jax.images import resize_tf1

# By hand: the cubic with a = −0.75 weighs distances 1/2 and 3/2 by 19/32 and −3/32.
DOUBLED = [0.0, 0.40625, 1.0, 1.59375, 2.0, 2.09375]


def test_doubling_a_ramp_gives_the_figures_worked_out_by_hand():
    ramp = np.tile(np.arange(3.0)[None, :, None], (3, 1, 1))

    wide = resize_tf1.resize(ramp, 3, 6)
    high = resize_tf1.resize(ramp.transpose(1, 0, 2), 6, 3)

    assert wide.dtype == np.float32
    np.testing.assert_array_equal(wide[1, :, 0], np.float32(DOUBLED))
    np.testing.assert_array_equal(high, wide.transpose(1, 0, 2))


def test_shrinking_reads_single_pixels_without_smoothing():
    image = np.random.default_rng(0).integers(0, 256, (32, 24, 3))

    quarter = resize_tf1.resize(image, 8, 6)

    # Output i looks at input 4·i exactly: no half pixel, no neighbors.
    np.testing.assert_array_equal(quarter, image[::4, ::4])


def test_its_own_size_is_the_image_itself():
    image = np.random.default_rng(0).integers(0, 256, (9, 5, 1))
    np.testing.assert_array_equal(resize_tf1.resize(image, 9, 5), image)


def test_an_even_image_stays_even_and_edges_overshoot():
    even = np.full((7, 11, 3), 200, np.uint8)
    np.testing.assert_allclose(resize_tf1.resize(even, 13, 5), 200, rtol=1e-6)
    edge = np.zeros((7, 20, 3), np.uint8)
    edge[:, 10:] = 255
    found = resize_tf1.resize(edge, 7, 33)
    assert found.min() < -10 and found.max() > 265


@pytest.mark.parametrize("side", [24, 64])
def test_it_is_not_todays(side):
    smooth = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    image = np.asarray(Image.fromarray(smooth).resize((40, 40), Image.BILINEAR))
    ours = resize_tf1.resize(image, side, side)
    pillows = np.asarray(Image.fromarray(image).resize((side, side), Image.BICUBIC))
    assert np.abs(ours - pillows).mean() > 0.5

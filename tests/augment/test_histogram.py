"""Histograms, alone and in a batch: what Equalize starts from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax.augment import color


@pytest.mark.parametrize("channels", [1, 3])
def test_each_value_of_each_channel_is_counted_alone_and_in_a_batch(channels):
    rng = np.random.default_rng(0)
    few = rng.integers(90, 95, (9, 14, channels))
    images = np.stack([rng.integers(0, 256, few.shape), few]).astype(np.uint8)
    alone = np.stack([jax.jit(color.histogram)(image) for image in images])
    together = jax.jit(jax.vmap(color.histogram))(images)
    nested = jax.vmap(jax.vmap(color.histogram))(jnp.asarray(images)[:, None])

    expected = [
        np.stack([np.bincount(c.ravel(), minlength=256) for c in image.T], axis=1)
        for image in images
    ]
    np.testing.assert_array_equal(alone, expected)
    np.testing.assert_array_equal(together, expected)
    np.testing.assert_array_equal(nested[:, 0], expected)

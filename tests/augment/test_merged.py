"""RandAugment without branches: the plain form's pixels, for every row of the table."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax.augment import colour, merged, randaugment
from noisy_student_jax.augment.randaugment import Draws
from noisy_student_jax.randaugment import OPS, SVHN_CONSTANTS

CASES = {
    # Even and uneven sides, one channel; magnitudes whose rows behave differently.
    "reference at 5": ((8, 8, 3), 5, "reference"),
    "reference at 27": ((9, 14, 3), 27, "reference"),
    "clean": ((9, 14, 3), 15, "clean"),
    "grey": ((8, 8, 1), 9, "reference"),
}


def pictures(shape):
    """Noise, noise of few values, a flat grey: uint8 `[3, height, width, channels]`."""
    rng = np.random.default_rng(0)
    flat = np.full(shape, 77)
    return np.stack(
        [rng.integers(0, 256, shape), rng.integers(90, 95, shape), flat]
    ).astype(np.uint8)


def every_row(shape):
    """Each picture with each operation and sign, and another of them after it."""
    images, draws = [], []
    rows = itertools.product(pictures(shape), range(len(OPS)), (False, True))
    for number, (image, op, negative) in enumerate(rows):
        images.append(image)
        draws.append(
            Draws(
                op=np.int32([op, (op + 5) % len(OPS)]),
                negative=np.array([negative, not negative]),
                row=np.int32([number % shape[0], 2]),
                column=np.int32([number % shape[1], 1]),
            )
        )
    return np.stack(images), jax.tree.map(lambda *each: np.stack(each), *draws)


@pytest.mark.parametrize("case", CASES)
def test_every_row_and_sign_gives_the_plain_forms_pixels(case):
    shape, magnitude, behavior = CASES[case]
    images, draws = every_row(shape)
    options = {
        "magnitude": magnitude,
        "constants": SVHN_CONSTANTS,
        "behavior": behavior,
    }

    @jax.jit
    def both(images, draws):
        plain = functools.partial(randaugment.apply, **options)
        one_by_one = jax.lax.map(lambda pair: plain(*pair), (images, draws))
        without_branches = functools.partial(merged.apply, **options)
        return one_by_one, jax.vmap(without_branches)(images, draws)

    plain, ours = both(images, draws)
    wrong = np.flatnonzero((plain != ours).any(axis=(1, 2, 3)))
    assert [OPS[one].name for one in draws.op[wrong, 0]] == []
    # The operations did something, so that the comparison says something.
    assert (np.asarray(plain) != images).any(axis=(1, 2, 3)).mean() > 0.7


def test_nothing_is_computed_by_branches():
    images, draws = every_row((8, 8, 3))
    apply = jax.vmap(functools.partial(merged.apply, magnitude=9.0))
    primitives = {str(e.primitive) for e in jax.make_jaxpr(apply)(images, draws).eqns}

    assert "cond" not in primitives


@pytest.mark.parametrize("channels", [1, 3])
def test_histograms_count_each_value_alone_and_in_a_batch(channels):
    images = pictures((9, 14, channels))
    alone = np.stack([jax.jit(colour.histogram)(image) for image in images])
    together = jax.jit(jax.vmap(colour.histogram))(images)
    nested = jax.vmap(jax.vmap(colour.histogram))(jnp.asarray(images)[:, None])

    expected = [
        np.stack([np.bincount(c.ravel(), minlength=256) for c in image.T], axis=1)
        for image in images
    ]
    np.testing.assert_array_equal(alone, expected)
    np.testing.assert_array_equal(together, expected)
    np.testing.assert_array_equal(nested[:, 0], expected)

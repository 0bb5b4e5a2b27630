"""NumPy's random bits are JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from noisy_student_jax.augment import threefry

words = st.integers(0, 2**32 - 1)
jax_fold_in = jax.jit(jax.vmap(jax.random.fold_in))
jax_bits = jax.jit(jax.vmap(lambda key: jax.random.bits(key, (7,), jnp.uint32)))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31 - 1))
def test_a_seed_gives_jaxs_key(seed):
    expected = jax.random.key_data(jax.random.key(seed))
    np.testing.assert_array_equal(threefry.key(seed), expected)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(words, words, words), min_size=3, max_size=3))
def test_keys_and_bits_are_jaxs(drawn):
    numbers = np.array(drawn, np.uint32)
    keys, data = numbers[:, :2], numbers[:, 2]
    wrapped = jax.random.wrap_key_data(keys)
    folded = threefry.fold_in(keys, data)
    assert folded.dtype == np.uint32
    np.testing.assert_array_equal(
        folded, jax.random.key_data(jax_fold_in(wrapped, data))
    )
    bits = threefry.bits(keys, 7)
    assert bits.dtype == np.uint32
    np.testing.assert_array_equal(bits, jax_bits(wrapped))


def test_one_key_many_data_and_many_keys_one_datum():
    keys = threefry.fold_in(threefry.key(3), np.arange(5))
    single = [threefry.fold_in(threefry.key(3), number) for number in range(5)]
    np.testing.assert_array_equal(keys, np.stack(single))
    grid = threefry.fold_in(keys[:, None], np.arange(4))
    assert grid.shape == (5, 4, 2)
    np.testing.assert_array_equal(grid[:, 2], threefry.fold_in(keys, 2))
    assert threefry.bits(grid, 6).shape == (5, 4, 6)


def test_fewer_bits_are_the_first_of_more():
    keys = threefry.fold_in(threefry.key(3), np.arange(5))
    few, many = threefry.bits(keys, 2), threefry.bits(keys, 6)
    np.testing.assert_array_equal(few, many[:, :2])

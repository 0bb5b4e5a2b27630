"""The state of a training, and its moving averages."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from noisy_student_jax.training.state import TrainState, ema_decay, ema_update

VARIABLES = {
    "params": {"conv": {"kernel": np.arange(3, dtype=np.float32)}},
    "batch_stats": {"bn": {"mean": np.zeros(2, np.float32)}},
}


def fresh(seed=0, generation=0, variables=VARIABLES):
    return TrainState.create(
        variables, optax.sgd(0.1, momentum=0.9), seed=seed, generation=generation
    )


@pytest.mark.parametrize(
    ("updates", "decay"),
    [(0, 1 / 10), (1, 2 / 11), (2, 3 / 12), (90, 91 / 100), (89_990, 0.9999)],
)
def test_the_decay_ramps_up(updates, decay):
    assert ema_decay(0.9999, updates) == pytest.approx(decay, rel=1e-6)


def test_a_small_decay_is_reached_early_and_kept():
    decays = [float(ema_decay(0.5, number)) for number in range(20)]

    assert decays[:8] == pytest.approx([(1 + t) / (10 + t) for t in range(8)])
    assert decays[8:] == [0.5] * 12


def test_an_average_moves_by_what_the_decay_leaves():
    average = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(4.0)}
    value = {"a": jnp.array([3.0, 2.0]), "b": jnp.array(0.0)}

    moved = ema_update(average, value, jnp.asarray(0.75))

    np.testing.assert_allclose(moved["a"], [1.5, 2.0])
    np.testing.assert_allclose(moved["b"], 3.0)


def test_averages_start_from_the_initial_values():
    state = fresh()

    assert int(state.step) == 0
    for variables in (state.raw_variables, state.ema_variables):
        assert variables.keys() == {"params", "batch_stats"}
        jax.tree.map(np.testing.assert_array_equal, variables, VARIABLES)


def test_no_buffer_is_there_twice_so_that_all_can_be_donated():
    state = jax.tree.map(jnp.asarray, fresh())
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]

    assert len(set(pointers)) == len(pointers)


def test_a_model_without_batch_norm_has_no_statistics():
    state = fresh(variables={"params": VARIABLES["params"]})

    assert state.batch_stats == state.ema_batch_stats == {}


def test_every_seed_and_generation_has_a_noise_of_its_own():
    keys = {
        (seed, generation): tuple(np.asarray(fresh(seed, generation).noise_key))
        for seed, generation in itertools.product(range(3), range(4))
    }

    assert len(set(keys.values())) == 12
    assert tuple(np.asarray(fresh(1, 2).noise_key)) == keys[1, 2]

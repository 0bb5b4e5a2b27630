"""The data order: a permutation an epoch, and a pure function of integers."""

import numpy as np
import pytest

from noisy_student_jax.data.order.shuffle import mix, order

SIZES = (1, 2, 3, 50, 947, 10_000)


def epoch_of(size, number=0, *, seed=0, stream=0):
    positions = np.arange(number * size, (number + 1) * size)
    epochs, records = order(seed, stream, positions, size)
    assert (epochs == number).all()
    return records


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("number", [0, 1, 7])
def test_every_epoch_draws_every_record_once(size, number):
    records = epoch_of(size, number)

    assert np.array_equal(np.sort(records), np.arange(size))


def test_sizes_around_powers_of_two_are_permuted_too():
    for bits in range(1, 13):
        for size in (2**bits - 1, 2**bits, 2**bits + 1):
            assert np.array_equal(np.sort(epoch_of(size)), np.arange(size)), size


@pytest.mark.parametrize("chunk", [1, 3, 64, 2000])
def test_any_chunking_of_the_positions_gives_the_same_draws(chunk):
    positions, size = np.arange(2000), 947
    whole = np.stack(order(3, 1, positions, size))

    parts = [
        np.stack(order(3, 1, positions[start : start + chunk], size))
        for start in range(0, len(positions), chunk)
    ]

    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_positions_may_be_asked_for_in_any_order_and_again():
    positions = np.random.default_rng(0).integers(0, 5000, 3000)
    whole = np.stack(order(3, 1, np.arange(5000), 947))

    assert np.array_equal(np.stack(order(3, 1, positions, 947)), whole[:, positions])


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"stream": 1}, {"number": 1}, {"seed": 2**31 - 1}],
    ids=str,
)
def test_seeds_streams_and_epochs_have_orders_of_their_own(other):
    size = 947
    same = epoch_of(size) == epoch_of(size, **other)

    # Two independent permutations agree in one place on average.
    assert same.sum() < 8


def test_orders_of_neighboring_seeds_streams_and_epochs_are_all_different():
    orders = {
        tuple(epoch_of(50, number, seed=seed, stream=stream))
        for seed in range(6)
        for stream in range(2)
        for number in range(6)
    }

    assert len(orders) == 6 * 2 * 6


@pytest.mark.parametrize("size", [3, 10, 50])
def test_every_record_is_as_likely_at_every_place(size):
    epochs = 4000
    _, records = order(0, 0, np.arange(size * epochs), size)
    table = np.zeros((size, size))
    np.add.at(table, (np.tile(np.arange(size), epochs), records), 1)

    expected = epochs / size
    chi2 = ((table - expected) ** 2 / expected).sum()
    freedom = (size - 1) ** 2
    # Five standard deviations of chi-squared.
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)


def test_neighbors_do_not_stay_neighbors():
    size = 10_000
    steps = np.abs(np.diff(epoch_of(size)))

    # A random pair is a third of the set apart, give or take 2,400 for one pair.
    assert abs(steps.mean() - size / 3) < 5 * 2400 / np.sqrt(size)


def test_positions_beyond_32_bits_are_positions_like_others():
    size, far = 947, 2**40
    start = far - far % size
    epochs, records = order(0, 0, np.arange(start, start + size), size)

    assert (epochs == start // size).all()
    assert np.array_equal(np.sort(records), np.arange(size))
    # A cut to 32 bits would repeat an epoch 2**32 draws before.
    wrapped = epoch_of(size, (start % 2**32) // size)
    assert (records == wrapped).sum() < 8


def test_a_stream_larger_than_32_bits_stays_within_itself():
    size = 2**33 + 1
    _, records = order(0, 0, np.arange(10_000), size)

    assert len(np.unique(records)) == 10_000
    assert records.min() >= 0
    assert 2**32 < records.max() < size


def test_the_order_is_the_one_that_earlier_runs_were_trained_with():
    # Changing these makes every run that goes on a run in another order.
    assert epoch_of(10).tolist() == [9, 3, 5, 4, 6, 7, 1, 0, 2, 8]
    assert epoch_of(10, 3, seed=1, stream=1).tolist() == [7, 2, 3, 8, 0, 6, 4, 1, 5, 9]
    assert order(7, 1, np.array([2**40]), 300_000_000)[1].tolist() == [299337235]


def test_a_stream_without_records_is_refused():
    with pytest.raises(ValueError, match="at least one record, got 0"):
        order(0, 0, np.arange(3), 0)


def test_mix_is_a_bijection_that_scrambles():
    values = np.arange(1 << 16, dtype=np.uint64)
    mixed = mix(values)

    assert len(np.unique(mixed)) == len(values)
    ones = np.unpackbits(mixed[1:].view(np.uint8)).mean()
    assert abs(ones - 0.5) < 0.002

"""The order of large sets: whole lanes to a host, and each block read once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.order.block_shuffle import Lanes, lanes_order

SIZE, BATCH = 1003, 12
LANES = Lanes(count=4, block=10, window=3)


def drawn(positions=None, *, seed=0, stream=1, size=SIZE, batch=BATCH, lanes=LANES):
    positions = np.arange(5000) if positions is None else positions
    return np.stack(lanes_order(seed, stream, positions, size, batch, lanes))


def places_of(lane, epochs, *, batch, lanes, length):
    """The positions at which a lane draws, from its first, as many as epochs need."""
    share = batch // lanes.count
    steps = -(-epochs * length // share)
    own = np.arange(lane * share, (lane + 1) * share)
    positions = (np.arange(steps)[:, None] * batch + own).ravel()
    return positions[: epochs * length]


@st.composite
def cases(draw):
    count = draw(st.integers(1, 6))
    return {
        "size": draw(st.integers(count, 300)),
        "batch": count * draw(st.integers(1, 5)),
        "lanes": Lanes(count, draw(st.integers(1, 40)), draw(st.integers(1, 5))),
        "seed": draw(st.integers(0, 2**63)),
        "stream": draw(st.integers(0, 1)),
    }


@settings(max_examples=60, derandomize=True, deadline=None)
@given(case=cases())
def test_each_epoch_of_a_lane_draws_each_of_its_records_once(case):
    size, lanes = case["size"], case["lanes"]
    seen = []
    for lane in range(lanes.count):
        first = size * lane // lanes.count
        length = size * (lane + 1) // lanes.count - first
        where = places_of(lane, 3, batch=case["batch"], lanes=lanes, length=length)
        epochs, records = drawn(where, **case)
        assert epochs.tolist() == np.repeat(range(3), length).tolist()
        for epoch in records.reshape(3, length):
            assert sorted(epoch) == list(range(first, first + length))
        seen += records[:length].tolist()
    assert sorted(seen) == list(range(size))


@settings(max_examples=40, derandomize=True, deadline=None)
@given(case=cases(), epoch=st.integers(0, 2))
def test_a_block_is_drawn_from_within_the_span_of_one_window_alone(case, epoch):
    lanes = case["lanes"]
    length = case["size"] // lanes.count
    where = places_of(0, epoch + 1, batch=case["batch"], lanes=lanes, length=length)
    records = drawn(where, **case)[1][epoch * length :]

    blocks = records // lanes.block
    # In windows: one set of blocks follows another, and no block comes back.
    left = list(blocks)
    while left:
        window = set()
        for block in left:
            if len(window | {block}) > lanes.window:
                break
            window.add(block)
        span = sum(block in window for block in left)
        assert set(left[:span]) == window
        left = left[span:]


def test_hosts_draw_from_disjoint_sets_of_records():
    for hosts in (2, 4):
        host = np.arange(40 * BATCH) % BATCH * hosts // BATCH
        records = drawn(np.arange(40 * BATCH))[1]
        sets = [set(records[host == number]) for number in range(hosts)]

        assert all(len(own) > 100 for own in sets)
        assert not set.intersection(*sets)
        assert sum(map(len, sets)) == len(set.union(*sets))


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_any_number_of_hosts_draws_the_same_batches(hosts):
    share = BATCH // hosts
    whole = drawn(np.arange(30 * BATCH))

    parts = [
        drawn(np.arange(step * BATCH + host * share, step * BATCH + (host + 1) * share))
        for step in range(30)
        for host in range(hosts)
    ]

    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_positions_may_be_asked_for_in_any_order_and_again():
    positions = np.random.default_rng(0).integers(0, 5000, 3000)

    assert np.array_equal(drawn(positions), drawn()[:, positions])


def test_a_run_goes_on_at_any_position_as_if_it_had_never_stopped():
    whole = drawn()

    for start in (1, 777, 1003, 4999):
        assert np.array_equal(drawn(np.arange(start, 5000)), whole[:, start:])


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": 0}], ids=str)
def test_seeds_and_streams_have_orders_of_their_own(other):
    same = drawn()[1] == drawn(**other)[1]

    # Two orders of a lane agree in one place an epoch on average, five epochs long.
    assert same.sum() < 5 * 4 * 5


def test_epochs_and_lanes_have_orders_of_their_own():
    lanes = Lanes(2, 5, 2)
    where = np.arange(6 * 100)
    records = drawn(where, size=100, batch=2, lanes=lanes)[1].reshape(6, 50, 2)

    orders = {
        tuple(records[n, :, lane] - 50 * lane) for n in range(6) for lane in (0, 1)
    }
    assert len(orders) == 12


def test_the_short_block_has_every_turn():
    lanes = Lanes(1, 10, 1)
    records = drawn(np.arange(34 * 400), size=34, batch=1, lanes=lanes)[1]
    starts = (records.reshape(400, 34) // 10 == 3).argmax(axis=1)

    turns, counts = np.unique(starts, return_counts=True)
    assert turns.tolist() == [0, 10, 20, 30]
    assert counts.min() > 60


def test_every_record_is_as_likely_at_every_place():
    size, epochs = 23, 4000
    lanes = Lanes(1, 4, 2)
    records = drawn(np.arange(size * epochs), size=size, batch=1, lanes=lanes)[1]
    table = np.zeros((size, size))
    np.add.at(table, (np.tile(np.arange(size), epochs), records), 1)

    # The records of full blocks and of the short one, each among themselves.
    for own in (slice(0, 20), slice(20, 23)):
        share = table[:, own]
        expected = share.sum(axis=1, keepdims=True) / share.shape[1]
        chi2 = ((share - expected) ** 2 / np.maximum(expected, 1)).sum()
        freedom = size * (share.shape[1] - 1)
        # Far beyond what chance gives; records of a block do not come independently.
        assert chi2 < 2 * freedom


def test_a_block_is_shuffled_with_the_others_of_its_window():
    lanes = Lanes(1, 10, 4)
    records = drawn(np.arange(400), size=400, batch=1, lanes=lanes)[1]

    first = records[:40] // 10
    assert len(set(first)) == 4
    assert (np.diff(first) == 0).sum() < 20


def test_300_million_records_take_no_memory():
    lanes = Lanes(count=256, block=1024, window=16)
    positions = np.arange(2**40, 2**40 + 2048)
    _, records = drawn(positions, size=300_000_000, batch=2048, lanes=lanes)

    lane = np.arange(2048) // 8
    assert (records * 256 // 300_000_000 == lane).all()
    assert len(np.unique(records)) == 2048


def test_the_order_is_the_one_that_earlier_runs_were_trained_with():
    # Changing these makes every run that goes on a run in another order.
    lanes = Lanes(2, 3, 2)
    epochs, records = drawn(np.arange(24), size=21, batch=4, lanes=lanes)

    assert " ".join(map(str, epochs)) == (
        "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 1 0 1"
    )
    assert " ".join(map(str, records)) == (
        "3 0 14 13 5 1 17 15 2 4 16 18 6 8 20 10 7 9 19 11 6 2 12 19"
    )


def test_lanes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="4 lanes do not divide the 10 images"):
        drawn(batch=10)
    with pytest.raises(UserError, match=r"4 lanes need as many records.*has 3"):
        drawn(size=3)
    for field in ("count", "block", "window"):
        numbers = {"count": 1, "block": 1, "window": 1, field: 0}
        with pytest.raises(UserError, match=f"lanes need a {field} of at least 1"):
            Lanes(**numbers)

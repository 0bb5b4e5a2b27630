"""The authors' procedure against a walk over bins in plain Python."""

import collections

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pseudo_labels.records import (
    as_multiset,
    check,
    random_records,
    reference_hash,
    selected,
    write,
)

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.pseudo_labels import sidecar
from noisy_student_jax.pseudo_labels.plan import SelectionOptions, Survey, hundredths
from noisy_student_jax.pseudo_labels.reference import ReferencePlan
from noisy_student_jax.pseudo_labels.selection import select


def options(per_class, **changes):
    return SelectionOptions(method="reference", per_class=per_class, **changes)


def bin_of(score):
    """Looks at one edge after the other."""
    edges = [np.float32(k / 100) for k in range(101)]
    return max((k for k in range(101) if np.float32(score) >= edges[k]), default=0)


def wanted(records, options):
    """Returns {record number: copies}; a record is (key, label or None, score)."""
    by_class = collections.defaultdict(list)
    for number, (_, label, score) in enumerate(records):
        if label is not None:
            by_class[label].append((number, bin_of(score)))
    copies = {}
    for rows in by_class.values():
        total, edge = 0, 101
        while edge > round(100 * options.min_score) and total < options.per_class:
            edge -= 1
            total += sum(place == edge for _, place in rows)
        for number, place in rows:
            if place < edge:
                continue
            c = options.per_class / total
            if options.max_copies:
                c = min(c, options.max_copies)
            key = records[number][0]
            chance = reference_hash(key, options.seed ^ 0x6368 << 48) / 2**64
            copies[number] = int(c) + (chance < c - int(c))
    return {number: times for number, times in copies.items() if times}


SCORES = {
    "distinct": None,
    "three values": [0.3, 0.31, 0.9],
    "edges": [k / 100 for k in range(25, 101)],
    "above one": [0.5, 1.0, 1.5],
}


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("per_class", [7, 40, 1000])
def test_equals_the_walk_over_bins(tmp_path, scores, per_class):
    records = random_records(per_class, scores=scores)
    one = options(per_class, seed=per_class)
    summary = check(tmp_path, records, one, wanted(records, one))
    assert summary["method"] == "reference"


records_strategy = st.lists(
    st.tuples(
        st.text(max_size=20).filter(lambda s: s.isprintable()),
        st.none() | st.integers(0, 3),
        st.floats(0, 1, width=32) | st.integers(0, 100).map(lambda k: k / 100),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(
    records=records_strategy,
    min_score=st.integers(0, 98),
    per_class=st.integers(1, 12),
    max_copies=st.none() | st.integers(1, 4),
    shards=st.integers(1, 4),
)
def test_equals_the_walk_on_anything(
    tmp_path_factory, records, min_score, per_class, max_copies, shards
):
    # A class of its own, so that it is always drawn.
    records.append(("always", 4, 0.99))
    one = options(per_class, min_score=min_score / 100, max_copies=max_copies)
    place = tmp_path_factory.mktemp("any")
    check(place, records, one, wanted(records, one), shards)


def test_a_bin_holds_its_lower_edge_and_ends_before_the_next():
    edges = np.array([k / 100 for k in range(101)], np.float32)
    assert hundredths(edges).tolist() == list(range(101))
    below = np.nextafter(edges[1:], np.float32(0))
    assert hundredths(below).tolist() == list(range(100))
    assert hundredths(np.float32([-1, 0, 1.0000001, 7])).tolist() == [0, 0, 100, 100]


def test_the_threshold_is_reached_by_equal_and_missed_by_the_next_below(tmp_path):
    below = float(np.nextafter(np.float32(0.3), np.float32(0)))
    assert f"{below:.8f}" == "0.29999998"
    records = [("at", 0, 0.3), ("below", 0, below), ("high", 0, 0.9)]
    one = options(2)
    summary = check(tmp_path, records, one, {0: 1, 2: 1})
    assert summary["counts"]["below_threshold"] == 1
    assert summary["counts"]["over_capacity"] == 0


def test_a_full_class_is_thinned_out_at_random_above_the_edge(tmp_path):
    """Not the most confident: half of all that is in the last bin or above it."""
    scores = [0.95] * 100 + [0.5 + k / 1e6 for k in range(1900)] + [0.49] * 500
    records = [(f"k{i}", 0, score) for i, score in enumerate(scores)]
    one = options(1000)
    summary = check(tmp_path, records, one, wanted(records, one))
    rows = selected(tmp_path / "out")
    assert {row["copies"] for row in rows} == {1}
    assert min(row["score"] for row in rows) >= np.float32(0.5)
    assert abs(len(rows) - 1000) < 90  # binomial of 2000: sigma 22
    sure = sum(row["score"] > 0.9 for row in rows)
    assert abs(sure - 50) < 20  # sigma 5
    assert summary["counts"]["over_capacity"] == 2500 - len(rows)
    assert summary["per_class"]["draws"] == [len(rows)]


def test_a_class_with_few_is_repeated_evenly_and_once_more_by_chance(tmp_path):
    records = [(f"k{i}", 0, 0.4 + i / 10_000) for i in range(2000)]
    one = options(5000)
    summary = check(tmp_path, records, one, wanted(records, one))
    copies = [row["copies"] for row in selected(tmp_path / "out")]
    assert set(copies) == {2, 3}
    assert abs(copies.count(3) - 1000) < 90
    lower_half = copies[:1000].count(3)
    assert abs(lower_half - 500) < 65
    assert summary["per_class"]["draws"] == [sum(copies)]


def test_the_seed_decides_whom_chance_takes(tmp_path):
    records = [(f"k{i}", 0, 0.8) for i in range(500)]
    write(tmp_path / "labels", records)
    kept = []
    for number, seed in enumerate([3, 3, 4]):
        select(tmp_path / "labels", tmp_path / str(number), options(250, seed=seed))
        kept.append(selected(tmp_path / str(number)))
    assert kept[0] == kept[1] != kept[2]


def test_chance_depends_on_the_key_and_on_no_other_record(tmp_path):
    ours = [(f"k{i}", 0, 0.8) for i in range(300)]
    others = [[(f"{name}{i}", 0, 0.8) for i in range(300)] for name in "ab"]
    kept = []
    for number, more in enumerate(others):
        records = more + ours if number else ours + more
        write(tmp_path / f"labels{number}", records, shards=2 + number)
        select(tmp_path / f"labels{number}", tmp_path / f"out{number}", options(200))
        rows = selected(tmp_path / f"out{number}")
        kept.append({row["key"] for row in rows if row["key"].startswith("k")})
    assert kept[0] == kept[1]
    assert 50 < len(kept[0]) < 150


@pytest.mark.parametrize("scores", [None, [0.5, 0.9]])
def test_the_plan_does_not_depend_on_shards_or_their_order(tmp_path, scores):
    records = random_records(11, n=500, scores=scores)
    records += records[:20]  # repeated keys, too
    rng = np.random.default_rng(0)
    plans = []
    for trial, shards in enumerate([1, 2, 50]):
        place = tmp_path / str(trial)
        write(place / "labels", records, shards)
        select(place / "labels", place / "out", options(60, seed=4))
        plans.append(as_multiset(selected(place / "out")))
        records = [records[i] for i in rng.permutation(len(records))]
    assert plans[0] == plans[1] == plans[2]


def test_counts_of_hosts_add_up(tmp_path):
    """Two hosts, each with its own shards, that exchange nothing but sums."""
    records = random_records(21, n=2000)
    one = options(150, seed=3)
    paths = sidecar.shards(write(tmp_path, records, 6))
    survey = Survey(None, one)
    for path in paths:
        for batch in sidecar.batches(path):
            survey.add(path, batch)
    hosts = [(ReferencePlan(survey, one), paths[h::2]) for h in range(2)]
    passes = 0
    while not hosts[0][0].settled:
        counts = [host.counters() for host, _ in hosts]
        for (host, own), into in zip(hosts, counts, strict=True):
            for path in own:
                host.histogram(path, into)
        total = [a + b for a, b in zip(*counts, strict=True)]
        for host, _ in hosts:
            host.advance(total)
        passes += 1
    assert passes == 2
    chosen = {}
    for host, own in hosts:
        for path in own:
            for batch in sidecar.batches(path):
                rows, _, copies = host.take(batch)
                keys = batch["key"].take(pa.array(rows)).to_pylist()
                chosen |= dict(zip(keys, copies.tolist(), strict=True))
    expected = wanted(records, one)
    assert chosen == {records[i][0]: c for i, c in expected.items()}
    assert hosts[0][0].capacity.sum() == len(expected)
    assert hosts[0][0].draws.sum() == sum(expected.values())


def test_no_record_is_drawn_more_often_than_the_cap(tmp_path):
    records = [(f"k{i}", int(i > 4), 0.5 + i / 100) for i in range(100)]
    one = options(60, max_copies=3)
    summary = check(tmp_path, records, one, wanted(records, one))
    assert summary["per_class"]["draws"][0] == 15
    assert summary["per_class"]["selected"][0] == 5
    assert max(row["copies"] for row in selected(tmp_path / "out")) == 3


def test_a_selection_that_chance_leaves_empty_is_refused(tmp_path):
    records = [(f"k{i}", 0, 0.8) for i in range(50)]
    write(tmp_path / "labels", records)
    unlucky = next(s for s in range(9) if not wanted(records, options(1, seed=s)))
    with pytest.raises(UserError, match="chance leaves none of the 50 records"):
        select(tmp_path / "labels", tmp_path / "out", options(1, seed=unlucky))
    assert not (tmp_path / "out").exists()

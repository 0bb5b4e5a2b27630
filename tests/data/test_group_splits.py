"""Splits of images with several classes, in groups."""

import hashlib

import numpy as np
import pytest

from noisy_student_jax.data.group_splits import by_presence, some_with_each_class
from noisy_student_jax.data.near_duplicates import RADIUS, groups

FRACTIONS = {"validation": 0.2, "test": 0.2}


def contents(count):
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def split(counts, group=None, *, known=None, **fractions):
    group = np.arange(len(counts)) if group is None else group
    return by_presence(
        contents(len(counts)),
        np.asarray(counts),
        group,
        **(fractions or FRACTIONS),
        known=known or {},
    )


def test_each_class_is_spread_as_the_fractions_say():
    counts = np.random.default_rng(0).poisson([3, 0.4, 0.1], (200, 3))
    parts = split(counts)

    for part, fraction in (("labeled", 0.6), ("validation", 0.2), ("test", 0.2)):
        share = (counts[parts == part] > 0).sum(0) / (counts > 0).sum(0)
        np.testing.assert_allclose(share, fraction, atol=0.06)
        assert abs((parts == part).mean() - fraction) < 0.03


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (1, {"labeled": 1}),
        (2, {"labeled": 1, "test": 1}),
        (3, {"labeled": 1, "test": 1, "validation": 1}),
        (5, {"labeled": 3, "test": 1, "validation": 1}),
    ],
)
def test_a_rare_class_is_in_as_many_parts_as_it_can(images, expected):
    counts = np.zeros((40, 2), int)
    counts[:, 0] = 5
    counts[:images, 1] = 1
    parts = split(counts)[:images].tolist()

    assert {part: parts.count(part) for part in set(parts)} == expected


def test_a_group_is_on_one_side():
    counts = np.ones((60, 1), int)
    group = np.arange(60) // 4
    parts = split(counts, group)

    assert set(parts) == {"labeled", "validation", "test"}
    for number in range(15):
        assert len(set(parts[group == number])) == 1


def test_new_images_follow_their_group_and_known_ones_stay():
    counts = np.ones((6, 1), int)
    keys = contents(6)
    known = {keys[0]: "test", keys[1]: "labeled", keys[3]: "validation"}
    parts = split(counts, np.array([0, 0, 0, 1, 1, 2]), known=known)

    assert parts[:5].tolist() == ["test", "labeled", "test"] + ["validation"] * 2


def test_the_order_of_records_does_not_matter():
    rng = np.random.default_rng(1)
    counts, keys = rng.poisson(0.5, (50, 3)), contents(50)
    order = rng.permutation(50)
    one = by_presence(keys, counts, np.arange(50), **FRACTIONS, known={})
    other = by_presence(
        [keys[n] for n in order], counts[order], np.arange(50), **FRACTIONS, known={}
    )

    assert one[order].tolist() == other.tolist()


def test_nothing_is_split_off_without_fractions():
    parts = split(np.ones((9, 2), int), validation=0.0, test=0.0)

    assert set(parts) == {"labeled"}


def test_images_are_drawn_until_each_class_is_in_enough():
    counts = np.random.default_rng(2).poisson([2, 0.2], (100, 2))
    chosen = some_with_each_class(contents(100), counts, 8, seed=3)
    again = some_with_each_class(contents(100), counts, 8, seed=4)

    assert ((counts[chosen] > 0).sum(0) >= 8).all()
    assert len(chosen) <= 16
    assert chosen.tolist() != again.tolist()
    assert chosen.tolist() == sorted(set(chosen.tolist()))


def test_hashes_within_the_radius_are_one_group_also_by_others():
    start = np.uint64(0xF0F0F0F0F0F0F0F0)
    near = start ^ np.uint64(2**RADIUS - 1)  # RADIUS bits
    nearer = near ^ np.uint64((2**RADIUS - 1) << 20)
    far = ~start
    found = groups(np.array([start, far, nearer, 0, near, 0, start], np.uint64))

    assert found[0] == found[2] == found[4] == found[6]
    assert len({found[n] for n in (0, 1, 3, 5)}) == 4


def test_groups_are_those_of_all_pairs():
    rng = np.random.default_rng(5)
    base = rng.integers(1, 2**63, 12).astype(np.uint64)
    flips = rng.integers(0, 64, (60, 3)).astype(np.uint64)
    hashes = np.repeat(base, 5)
    for column in flips.T:
        hashes = hashes ^ (np.uint64(1) << column)
    found = groups(hashes)
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    linked = np.linalg.matrix_power((apart <= RADIUS).astype(object), 60) > 0

    assert ((found[:, None] == found[None]) == linked).all()

"""Selections that read a part of the pool: a drawn fraction, a bin of confidence."""

import itertools

import numpy as np
import pytest
from pseudo_labels.records import random_records, selected, write

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.pseudo_labels import plan
from noisy_student_jax.pseudo_labels.selection import SelectionOptions, select

METHODS = [
    {"method": "all", "min_score": 0.0},
    {"method": "all", "min_score": 0.2, "share": 0.4},
    {"method": "paper", "min_score": 0.3, "per_class": 40},
    {"method": "reference", "min_score": 0.3, "per_class": 40},
]


def records():
    return random_records(np.random.default_rng(0), 2000, 5)


def chosen(folder, rows, **options):
    """Selects; returns the summary, and how often each key is drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "labels", rows, 3, 5)
    summary = select(folder / "labels", folder / "out", SelectionOptions(**options))
    return summary, {one["key"]: one["copies"] for one in selected(folder / "out")}


@pytest.mark.parametrize("options", METHODS, ids=lambda one: f"{one}")
def test_a_fraction_of_the_pool_is_as_a_pool_of_those_records_alone(tmp_path, options):
    every = records()
    drawn = SelectionOptions(**options, pool_fraction=0.25)
    keys = plan.pa.array([key for key, _, _ in every])
    own = [row for row, ours in zip(every, drawn.drawn(keys), strict=True) if ours]

    part, of_part = chosen(tmp_path / "part", every, **options, pool_fraction=0.25)
    _, alone = chosen(tmp_path / "alone", own, **options)

    assert of_part == alone
    counts = part["counts"]
    assert counts["not_drawn"] == len(every) - len(own)
    assert 0.2 < len(own) / len(every) < 0.3
    assert counts["read"] == len(every)
    assert counts["read"] == sum(
        counts[name]
        for name in (
            "selected",
            "quarantined",
            "below_threshold",
            "over_capacity",
            "not_drawn",
        )
    )


def test_a_smaller_fraction_is_part_of_a_larger_one(tmp_path):
    found = []
    for fraction in (1 / 128, 1 / 4, 1.0):
        folder = tmp_path / f"{fraction}"
        options = {"method": "all", "min_score": 0.0, "pool_fraction": fraction}
        found.append(set(chosen(folder, records(), **options)[1]))
    few, some, every = found

    assert 0 < len(few) < len(some) < len(every)
    assert few < some < every


def test_bins_of_confidence_have_each_record_once(tmp_path):
    edges = (0.0, 0.3, 0.6, 0.9, 1.0)
    bins = []
    for low, high in itertools.pairwise(edges):
        options = {"method": "all", "min_score": low, "max_score": high}
        summary, keys = chosen(tmp_path / f"{low}", records(), **options)
        bins.append(set(keys))
        assert summary["counts"].get("above_max_score", 0) == sum(
            label is not None and np.float32(score) > np.float32(high)
            for _, label, score in records()
        )
    every = chosen(tmp_path / "all", records(), method="all", min_score=0.0)[1]

    assert set.union(*bins) == set(every)
    assert sum(map(len, bins)) == len(every)


def test_the_same_part_is_taken_in_memory(tmp_path):
    rows = [row for row in records() if row[1] is not None]
    options = {
        "method": "all",
        "min_score": 0.2,
        "max_score": 0.8,
        "pool_fraction": 0.3,
    }
    rule = plan.natural([key for key, _, _ in rows], SelectionOptions(**options))

    took = rule(np.array([score for _, _, score in rows], np.float32))

    assert {rows[row][0] for row in took} == set(chosen(tmp_path, rows, **options)[1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pool_fraction": 0}, "pool_fraction is 0 but must be above 0"),
        ({"max_score": 1.5}, "max_score is 1.5 but must be above 0 and at most 1"),
        ({"min_score": 0.5, "max_score": 0.5}, "must be above min_score 0.5"),
    ],
)
def test_what_leaves_nothing_is_refused(options, says):
    with pytest.raises(UserError, match=says):
        SelectionOptions(method="all", **options)

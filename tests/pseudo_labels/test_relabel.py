"""A kept plan: who is drawn, and how often, stays; what is learned of them is new."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from pseudo_labels.records import random_records, selected, write

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.pseudo_labels import plan, sidecar
from noisy_student_jax.pseudo_labels.selection import (
    SelectionOptions,
    kept_options,
    load_picks,
    select,
)

OPTIONS = SelectionOptions(per_class=40, max_copies=9, seed=2)


def targets(rows):
    return {"double": rows["double"].to_numpy()}


def relabeled(records, seed=9, *, lost=()):
    """The same keys with other labels and scores; some cannot be labeled any more."""
    rng = np.random.default_rng(seed)
    scores = rng.random(len(records), dtype=np.float32).tolist()
    return [
        (key, None if label is None or n in lost else int(rng.integers(0, 7)), score)
        for n, ((key, label, _), score) in enumerate(zip(records, scores, strict=True))
    ]


@pytest.fixture
def first(tmp_path):
    """Records, filtered by one teacher."""
    records = random_records(1)
    write(tmp_path / "labels", records, 3, classes=7)
    select(tmp_path / "labels", tmp_path / "first", OPTIONS, targets=targets)
    return records


def keep(tmp_path, records, *, shards=4, name="kept", of="first", **more):
    write(tmp_path / f"labels_{name}", records, shards, classes=7)
    return select(
        tmp_path / f"labels_{name}",
        tmp_path / name,
        kept_options(tmp_path / of),
        targets=targets,
        kept=tmp_path / of,
        **more,
    )


@pytest.mark.parametrize("rows", [1 << 16, 7], ids=["at once", "seven at a time"])
def test_records_and_copies_stay_and_labels_are_new(tmp_path, first, monkeypatch, rows):
    batches = sidecar.batches
    monkeypatch.setattr(
        sidecar, "batches", lambda *given: batches(*given, batch_rows=rows)
    )
    records = relabeled(first)
    summary = keep(tmp_path, records)

    old, new = selected(tmp_path / "first"), selected(tmp_path / "kept")
    assert [(r["key"], r["copies"]) for r in new] == [
        (r["key"], r["copies"]) for r in old
    ]
    by_key = {key: (label, np.float32(score)) for key, label, score in records}
    assert all(by_key[r["key"]] == (r["label"], r["score"]) for r in new)
    # Some score below the threshold now, and are kept.
    assert min(r["score"] for r in new) < OPTIONS.min_score

    (picks, double), (before, _) = (
        load_picks(tmp_path / name) for name in ("kept", "first")
    )
    np.testing.assert_array_equal(picks, before)
    np.testing.assert_allclose(double["double"], [2 * r["score"] for r in new])

    counts = summary["counts"]
    assert counts["selected"] == len(old) and counts["draws"] == len(picks)
    assert (
        counts["read"]
        == len(records)
        == (counts["selected"] + counts["quarantined"] + counts["not_in_plan"])
    )
    assert summary["per_class"]["draws"] == [
        sum(r["copies"] for r in new if r["label"] == label) for label in range(7)
    ]
    assert (
        summary["options"]
        == json.loads((tmp_path / "first" / "selection.json").read_text())["options"]
    )


def test_it_does_not_depend_on_how_the_pool_is_cut(tmp_path, first):
    records = relabeled(first)
    one, other = (keep(tmp_path, records, shards=n, name=f"of{n}") for n in (1, 11))

    assert one | {"labels": 0} == other | {"labels": 0}
    tables = [
        pq.read_table(tmp_path / name / "plan.parquet") for name in ("of1", "of11")
    ]
    assert tables[0].equals(tables[1])


def test_what_cannot_be_labeled_again_is_no_longer_drawn_and_said(tmp_path, first):
    planned = load_picks(tmp_path / "first")[0][:, 0]
    gone = [int(planned[0]), int(planned[-1])]
    summary = keep(tmp_path, relabeled(first, lost=gone))

    picks, double = load_picks(tmp_path / "kept")
    assert picks[:, 0].tolist() == [r for r in planned.tolist() if r not in gone]
    assert picks[-1, 1] == len(double["double"]) - 1
    counts = summary["counts"]
    assert counts["read"] == (
        counts["selected"] + counts["quarantined"] + counts["not_in_plan"]
    )
    assert summary["kept"]["lost"] == 2
    (warning,) = summary["warnings"]
    assert warning.startswith("2 records of the plan") and first[gone[0]][0] in warning


def test_a_plan_that_is_kept_again_still_says_who_filtered(tmp_path, first):
    keep(tmp_path, relabeled(first), name="second")
    summary = keep(tmp_path, relabeled(first, 10), name="third", of="second")

    first_model = json.loads((tmp_path / "first/selection.json").read_text())["labels"]
    assert summary["kept"]["filtered_by"] == first_model["model_sha256"]
    old, new = selected(tmp_path / "first"), selected(tmp_path / "third")
    assert [r["copies"] for r in new] == [r["copies"] for r in old]


def test_labels_of_another_pool_are_refused(tmp_path, first):
    other = [(f"other-{key}", label, score) for key, label, score in first]
    with pytest.raises(UserError, match=r"they are of another pool; select afresh"):
        keep(tmp_path, other)
    with pytest.raises(UserError, match=r"records beyond the last of the labels"):
        keep(tmp_path, relabeled(first)[:100], name="short")
    assert not (tmp_path / "kept").exists()


def test_nothing_left_of_the_plan_is_refused(tmp_path, first):
    planned = set(load_picks(tmp_path / "first")[0][:, 0].tolist())
    with pytest.raises(UserError, match=r"none of the \d+ records of the plan"):
        keep(tmp_path, relabeled(first, lost=planned))


def test_the_options_of_the_config_are_those_of_a_selection():
    from noisy_student_jax.config import base_config

    section = base_config().selection
    options = plan.SelectionOptions.from_config(section)
    assert options.per_class == section.per_class

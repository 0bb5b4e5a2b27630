"""A task's choice within records: its targets, its copies, and what it says."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pseudo_labels.records import random_records, selected, write

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.pseudo_labels import sidecar
from noisy_student_jax.pseudo_labels.chosen import fact_text
from noisy_student_jax.pseudo_labels.selection import (
    SelectionOptions,
    load_picks,
    select,
)

EVERY = SelectionOptions(method="all", min_score=0.0)


class Doubled:
    """Records are drawn once, twice or three times by a digit of their score."""

    warnings = ("records were doubled",)

    def __init__(self, batches):
        found = [batch["double"].to_numpy() for batch in batches()]
        assert sum(map(len, found)) == sum(len(batch) for batch in batches())
        self.facts = {"records": sum(map(len, found))}
        self.middle = float(np.median(np.concatenate(found)))

    def targets(self, rows):
        return {"above": rows["double"].to_numpy() > self.middle}

    def copies(self, rows):
        return 1 + (rows["score"].to_numpy() * 1000).astype(np.int64) % 3


def chosen(folder, records, options, shards=3, choose=Doubled, **how):
    labels = write(folder / f"labels of {shards}", records, shards)
    out = folder / f"out of {shards}"
    return select(labels, out, options, choose=choose, **how), out


@pytest.mark.parametrize(
    "options",
    [
        EVERY,
        SelectionOptions(method="all", share=0.4, seed=3),
        SelectionOptions(per_class=30, max_copies=4),
        SelectionOptions(method="reference", per_class=30),
    ],
    ids=["all", "a share", "paper", "reference"],
)
@pytest.mark.parametrize("scores", [None, [0.3, 0.31, 0.9]], ids=["distinct", "few"])
def test_it_multiplies_what_the_plan_without_it_has(tmp_path, options, scores):
    records = random_records(2, scores=scores)
    records += records[:9]  # repeated keys, too
    plain = SelectionOptions(**{**vars(options), "min_score": 0.0})
    select(write(tmp_path / "labels", records), tmp_path / "plain", plain)

    summary, out = chosen(tmp_path, records, options)

    before, after = selected(tmp_path / "plain"), selected(out)
    assert [row["key"] for row in after] == [row["key"] for row in before]
    times = [1 + int(np.float32(row["score"]) * 1000) % 3 for row in before]
    assert [row["copies"] for row in after] == [
        row["copies"] * time for row, time in zip(before, times, strict=True)
    ]
    picks, targets = load_picks(out)
    assert np.bincount(picks[:, 1]).tolist() == [row["copies"] for row in after]
    assert summary["counts"]["draws"] == len(picks) > len(after)
    assert len(targets["above"]) == len(after)


def test_its_facts_and_warnings_are_kept(tmp_path):
    records = random_records(4)
    summary, out = chosen(tmp_path, records, EVERY, classes=("a", "b"))

    labeled = sum(label is not None for _, label, _ in records)
    assert summary["facts"] == {"records": labeled}
    assert summary["warnings"] == ["records were doubled"]
    assert files.read_json(out / "selection.json") == summary


def test_shards_do_not_matter(tmp_path):
    records = random_records(5)
    options = SelectionOptions(method="all", share=0.5)
    (one, first), (four, second) = (
        chosen(tmp_path, records, options, shards) for shards in (1, 4)
    )

    assert selected(first) == selected(second)
    assert (one["facts"], one["per_class"]) == (four["facts"], four["per_class"])
    for name in ("picks.npy", "targets/above.npy"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_every_labeled_record_passes_also_one_of_score_zero(tmp_path):
    records = [("empty", 0, 0.0), ("sure", 1, 0.9), ("bad", None, 0.0)]
    summary, out = chosen(tmp_path, records, SelectionOptions(method="all"), shards=1)

    assert [row["key"] for row in selected(out)] == ["empty", "sure"]
    counts = summary["counts"]
    assert (counts["selected"], counts["below_threshold"]) == (2, 0)
    assert summary["options"]["min_score"] == 0.3
    metadata = pq.read_schema(out / "plan.parquet").metadata
    assert metadata[b"noisy_student.min_score"] == b"0.3"


def test_a_plan_that_is_kept_keeps_its_copies(tmp_path):
    records = random_records(6)
    _, first = chosen(tmp_path, records, EVERY)
    (tmp_path / "later").mkdir()
    again = [
        (key, label, 1 - score if label is not None else score)
        for key, label, score in records
    ]
    _, later = chosen(tmp_path / "later", again, EVERY, kept=first)

    rows, kept = selected(first), selected(later)
    assert [row["copies"] for row in kept] == [row["copies"] for row in rows]
    above = [load_picks(out)[1]["above"] for out in (first, later)]
    assert len(above[0]) == len(above[1]) and (above[0] != above[1]).any()


def test_copies_below_one_are_refused(tmp_path):
    class Never(Doubled):
        def copies(self, rows):
            return np.zeros(len(rows), np.int64)

    with pytest.raises(ValueError, match="a whole number from 1"):
        chosen(tmp_path, random_records(7), EVERY, choose=Never)


def test_a_refusal_leaves_nothing_behind(tmp_path):
    def refuse(batches):
        raise UserError("no such choice")

    with pytest.raises(UserError, match="no such choice"):
        chosen(tmp_path, random_records(7), EVERY, choose=refuse)
    assert not (tmp_path / "out of 3").exists()


def test_records_without_labels_are_not_passed_on(tmp_path):
    def only_labeled(batches):
        assert all(pa.compute.all(batch["label"].is_valid()) for batch in batches())
        return Doubled(batches)

    labels = write(tmp_path / "labels", random_records(8), 2)
    statuses = [b["status"] for p in sidecar.shards(labels) for b in sidecar.batches(p)]
    assert len(set(pa.chunked_array(statuses).to_pylist())) == 2
    select(labels, tmp_path / "out", EVERY, choose=only_labeled)


def test_facts_are_told_in_a_line():
    by_class = {f"c{number}": number / 10 for number in range(25)}
    assert fact_text(by_class).endswith("c18 1.8, c19 1.9 and 5 more")
    assert fact_text({"a\n": 0.12345}) == r"a\n 0.123"
    assert fact_text("as it is") == "as it is"

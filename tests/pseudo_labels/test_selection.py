"""Selection against a sorted reference, its files, and what it refuses."""

import collections
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pseudo_labels.records import (
    as_multiset,
    random_records,
    reference_hash,
    selected,
    write,
)
from pseudo_labels.records import check as check_copies

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.pseudo_labels import plan, radix, sidecar
from noisy_student_jax.pseudo_labels.selection import (
    SelectionOptions,
    load_picks,
    select,
)

# --- the reference: everything in memory, sorted, in plain Python ---------------


def reference(records, options):
    """Returns {record number: copies}; a record is (key, label or None, score)."""
    by_class = collections.defaultdict(list)
    labeled = sum(label is not None for _, label, _ in records)
    for number, (key, label, score) in enumerate(records):
        if label is not None and np.float32(score) > np.float32(options.min_score):
            by_class[label].append((number, key, np.float32(score)))
    copies = {}

    def tie(row):
        return (-row[2], -reference_hash(row[1], options.seed ^ 0x7469 << 48))

    if options.method == "all":
        every = sorted((row for rows in by_class.values() for row in rows), key=tie)
        most = max(1, round(options.share * labeled))
        return {number: 1 for number, _, _ in every[:most]}
    for rows in by_class.values():
        K, n = options.per_class, len(rows)
        if options.max_copies:
            K = min(K, n * options.max_copies)

        def draw(row):
            return (-reference_hash(row[1], options.seed ^ 0x7265 << 48), -row[2])

        if n >= K:
            copies |= {row[0]: 1 for row in sorted(rows, key=tie)[:K]}
        else:
            copies |= {row[0]: K // n for row in rows}
            for row in sorted(rows, key=draw)[: K % n]:
                copies[row[0]] += 1
    return copies


def check(tmp_path, records, options, shards=3, classes=None):
    """Selects, compares everything with the reference, returns the summary."""
    copies = reference(records, options)
    summary = check_copies(tmp_path, records, options, copies, shards, classes)
    per_class = summary["per_class"]
    for chosen, draws in zip(per_class["selected"], per_class["draws"], strict=True):
        if options.method == "paper" and chosen:
            most = chosen * (options.max_copies or options.per_class)
            assert draws == min(options.per_class, most)
    return summary


# --- exactness ------------------------------------------------------------------

SCORES = {
    "distinct": None,
    "three values": [0.3, 0.31, 0.9],
    "all equal": [1.0],
    "neighbors": np.nextafter(np.float32(0.7), np.float32([0, 1])),
}


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("per_class", [1, 7, 40, 1000])
def test_equals_the_sorted_reference(tmp_path, scores, per_class):
    records = random_records(per_class, scores=scores)
    options = SelectionOptions(per_class=per_class, seed=per_class)
    check(tmp_path, records, options)


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_all_takes_everything_above_the_threshold_once(tmp_path, scores):
    options = SelectionOptions(method="all", per_class=3)
    summary = check(tmp_path, random_records(5, scores=scores), options)
    assert summary["counts"]["over_capacity"] == 0
    assert summary["counts"]["draws"] == summary["counts"]["selected"]


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("min_score", [0, 0.5])
def test_a_share_is_of_the_surest_records_whatever_their_class(
    tmp_path, scores, share, min_score
):
    options = SelectionOptions(method="all", share=share, min_score=min_score, seed=3)
    records = random_records(5, scores=scores)
    records += records[:9]  # repeated keys, too
    summary = check(tmp_path, records, options)

    labeled = sum(label is not None for _, label, _ in records)
    counts = summary["counts"]
    above = labeled - counts["below_threshold"]
    assert counts["selected"] == min(above, max(1, round(share * labeled)))
    assert counts["over_capacity"] == above - counts["selected"]
    assert summary["options"]["share"] == share


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_the_same_share_is_taken_in_memory(tmp_path, scores):
    options = SelectionOptions(method="all", share=0.3, min_score=0.3, seed=6)
    records = random_records(5, scores=scores)

    got = plan.natural([key for key, _, _ in records], options)(
        np.float32([np.nan if label is None else s for _, label, s in records])
    )

    assert got.tolist() == sorted(reference(records, options))


records_strategy = st.lists(
    st.tuples(
        st.text(max_size=20).filter(lambda s: s.isprintable()),
        st.none() | st.integers(0, 3),
        st.floats(0, 1, width=32) | st.sampled_from([0.3, 0.5, 0.5, 1.0]),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(
    records=records_strategy,
    per_class=st.integers(1, 12),
    max_copies=st.none() | st.integers(1, 4),
    seed=st.integers(0, 2**63 - 1),
    shards=st.integers(1, 4),
)
def test_equals_the_reference_on_anything(
    tmp_path_factory, records, per_class, max_copies, seed, shards
):
    records.append(("always", 0, 0.99))
    options = SelectionOptions(per_class=per_class, max_copies=max_copies, seed=seed)
    check(tmp_path_factory.mktemp("any"), records, options, shards)


@settings(max_examples=40, deadline=None)
@given(
    records=records_strategy,
    share=st.floats(0, 1, exclude_min=True),
    min_score=st.sampled_from([0.0, 0.3, 0.5]),
    seed=st.integers(0, 2**63 - 1),
    shards=st.integers(1, 4),
)
def test_a_share_equals_the_reference_on_anything(
    tmp_path_factory, records, share, min_score, seed, shards
):
    records.append(("always", 0, 0.99))
    options = SelectionOptions(
        method="all", share=share, min_score=min_score, seed=seed
    )
    check(tmp_path_factory.mktemp("any"), records, options, shards)


def test_the_threshold_is_strict_in_float32(tmp_path):
    above = float(np.nextafter(np.float32(0.3), np.float32(1)))
    records = [("at", 0, 0.3), ("above", 0, above), ("below", 0, 0.29)]
    summary = check(tmp_path, records, SelectionOptions(per_class=5))
    assert [row["key"] for row in selected(tmp_path / "out")] == ["above"]
    assert summary["counts"]["below_threshold"] == 2
    assert summary["score_histogram"]["before"][29:31] == [1, 2]


@pytest.mark.parametrize("max_copies", [1, 3])
def test_no_record_is_drawn_more_often_than_the_cap(tmp_path, max_copies):
    records = [(f"k{i}", int(i > 4), 0.5 + i / 100) for i in range(20)]
    options = SelectionOptions(per_class=20, max_copies=max_copies)
    summary = check(tmp_path, records, options)
    copies = [row["copies"] for row in selected(tmp_path / "out")]
    assert max(copies) == {1: 1, 3: 3}[max_copies]
    assert summary["per_class"]["draws"] == {1: [5, 15], 3: [15, 20]}[max_copies]
    assert summary["options"]["max_copies"] == max_copies


def test_few_records_are_repeated_evenly_whatever_their_score(tmp_path):
    """K mod n of them once more: a fair draw, which the score does not sway."""
    n, K = 2000, 3000
    scores = np.linspace(0.4, 1.0, n).tolist()
    records = [(f"k{i}", 0, s) for i, s in enumerate(scores)]
    check(tmp_path, records, SelectionOptions(per_class=K))
    extra = [row["copies"] == 2 for row in selected(tmp_path / "out")]
    assert sum(extra) == K - n
    lower_half = sum(extra[: n // 2])  # hypergeometric: 500, sigma 11
    assert abs(lower_half - 500) < 60


def test_repeats_are_written_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("noisy_student_jax.pseudo_labels.selection._PICKS_AT_ONCE", 7)
    check(tmp_path, random_records(3, n=40), SelectionOptions(per_class=50))


def test_repeated_keys_and_equal_ranks_do_not_break_exactness(tmp_path):
    records = [("same", 0, 0.9)] * 10 + [("same", 0, 0.8)] * 10 + [("same", 1, 0.8)] * 2
    check(tmp_path / "cut", records, SelectionOptions(per_class=13), shards=5)
    check(tmp_path / "draw", records, SelectionOptions(per_class=33), shards=5)


def test_keys_that_share_a_beginning_or_are_empty(tmp_path):
    keys = ["", "a", "a" * 8, "a" * 9, "a" * 16, "a" * 17, "ä" * 30, "\0", "\0\0"]
    records = [(key, 0, 1.0) for key in keys]
    check(tmp_path / "cut", records, SelectionOptions(per_class=4), shards=2)
    check(tmp_path / "draw", records, SelectionOptions(per_class=13), shards=2)


# --- sharding, order, seed ------------------------------------------------------


@pytest.mark.parametrize("method", [{"per_class": 60}, {"method": "all", "share": 0.3}])
@pytest.mark.parametrize("scores", [None, [0.5, 0.9], [1.0]])
def test_the_plan_does_not_depend_on_shards_or_their_order(tmp_path, scores, method):
    records = random_records(11, n=500, scores=scores)
    records += records[:20]  # repeated keys, too
    options = SelectionOptions(**method, seed=4)
    plans, summaries = [], []
    rng = np.random.default_rng(0)
    for trial, shards in enumerate([1, 2, 17, 400]):
        if trial:
            records = [records[i] for i in rng.permutation(len(records))]
        place = tmp_path / str(trial)
        write(place / "labels", records, shards)
        summaries.append(select(place / "labels", place / "out", options))
        summaries[-1]["labels"].pop("shards")
        summaries[-1].pop("files")  # the plan's metadata name its shards
        plans.append(as_multiset(selected(place / "out")))
    assert all(p == plans[0] for p in plans)
    assert all(s == summaries[0] for s in summaries)


def test_batches_do_not_matter(tmp_path, monkeypatch):
    write(tmp_path / "labels", random_records(2, scores=[0.5, 0.6]), 2)
    options = SelectionOptions(per_class=30)
    select(tmp_path / "labels", tmp_path / "whole", options)
    whole = sidecar.batches
    monkeypatch.setattr(
        sidecar, "batches", lambda path, columns: whole(path, columns, batch_rows=13)
    )
    select(tmp_path / "labels", tmp_path / "parts", options)
    for name in ("plan.parquet", "picks.npy", "selection.json"):
        a, b = (tmp_path / d / name for d in ("whole", "parts"))
        assert a.read_bytes() == b.read_bytes()


def test_the_seed_decides_ties_and_remainders_only(tmp_path):
    records = random_records(8, n=900, classes=3, scores=[0.4, 0.6, 0.8], skew=1.0)
    records += [(f"few-{i}", 3, 0.5 + i / 100) for i in range(10)]
    write(tmp_path / "labels", records)
    rows = {}
    for seed in (0, 0, 1):
        out = tmp_path / f"out{len(rows)}-{seed}"
        if out.exists():
            continue
        select(tmp_path / "labels", out, SelectionOptions(per_class=100, seed=seed))
        rows[seed] = selected(out)
    assert rows[0] != rows[1]
    for label in range(4):
        scores = [
            sorted(r["score"] for r in rows[s] if r["label"] == label) for s in rows
        ]
        assert scores[0] == scores[1]  # ties are among equal scores

    distinct = random_records(9, n=900, classes=3)
    write(tmp_path / "distinct", distinct)
    for seed in (0, 1):
        select(
            tmp_path / "distinct",
            tmp_path / f"d{seed}",
            SelectionOptions(per_class=20, seed=seed),
        )
    assert selected(tmp_path / "d0") == selected(tmp_path / "d1")


def test_the_hash_of_a_key_never_changes():
    keys = pa.array(["unused", "", "a", "n01440764/10026.jpg", "ü" * 9]).slice(1)
    got = radix.hash_keys(keys, np.arange(4), seed=7)
    assert got.tolist() == [reference_hash(k, 7) for k in keys.to_pylist()]
    assert got[2] == 0x805C05242336B136


def test_score_ranks_are_in_the_order_of_scores():
    scores = np.array(
        [-np.inf, -2, -1e-40, 0.0, 1e-45, 1e-40, 0.3, 1.0, 3.0, np.inf], np.float32
    )
    ranks = radix.score_rank(scores)
    assert (np.diff(ranks.astype(np.int64)) > 0).all()
    assert radix.score_rank(np.float32([-0.0])) == radix.score_rank(np.float32([0.0]))


def test_counts_of_hosts_add_up(tmp_path):
    """Two hosts, each with its own shards, that exchange nothing but sums."""
    records = random_records(21, n=3000, scores=[0.5, 0.7, 0.7, 0.9])
    options = SelectionOptions(per_class=200, seed=3)
    paths = sidecar.shards(write(tmp_path, records, 6) and tmp_path)
    survey = plan.Survey(None, options)
    for path in paths:
        for batch in sidecar.batches(path):
            survey.add(path, batch)
    hosts = [(plan.Plan(survey, options), paths[h::2]) for h in range(2)]
    passes = 0
    while not hosts[0][0].settled:
        counts = [host.counters() for host, _ in hosts]
        for (host, own), into in zip(hosts, counts, strict=True):
            for path in own:
                host.histogram(path, into)
        total = [a if a is None else a + b for a, b in zip(*counts, strict=True)]
        for host, _ in hosts:
            host.advance(total)
        passes += 1
    assert hosts[1][0].settled
    assert 0 < passes <= 6
    chosen = {}
    for host, own in hosts:
        for path in own:
            batch = pa.Table.from_batches(sidecar.batches(path)).combine_chunks()
            batch = batch.to_batches()[0]
            rows, _, copies = host.take(batch)
            keys = batch["key"].take(pa.array(rows)).to_pylist()
            chosen |= dict(zip(keys, copies.tolist(), strict=True))
    wanted = reference(records, options)
    assert chosen == {records[i][0]: c for i, c in wanted.items()}


def test_many_classes_count_in_smaller_digits():
    cut = radix.Cut(
        np.ones(50_000, np.int64), np.full(50_000, 2, np.int64), words=(32, 64)
    )
    assert cut.counters().nbytes <= 64 << 20
    assert cut.counters().shape[1] >= 16


def test_counts_that_lack_records_are_refused():
    cut = radix.Cut(np.array([2]), np.array([3]), words=(32,))
    with pytest.raises(ValueError, match="fewer records than"):
        cut.advance(cut.counters())


# --- files ----------------------------------------------------------------------


def test_plan_and_summary_files(tmp_path):
    write(tmp_path / "labels", random_records(1), classes=9)
    options = SelectionOptions(per_class=20, min_score=0.25, seed=5)
    summary = select(tmp_path / "labels", tmp_path / "out", options)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "picks.npy",
        "plan.parquet",
        "selection.json",
    ]
    schema = pq.read_schema(tmp_path / "out" / "plan.parquet")
    assert dict(zip(schema.names, map(str, schema.types), strict=True)) == {
        "key": "string",
        "label": "int32",
        "score": "float",
        "copies": "int32",
    }
    assert {k.decode(): v.decode() for k, v in schema.metadata.items()} == {
        "noisy_student.method": "paper",
        "noisy_student.min_score": "0.25",
        "noisy_student.per_class": "20",
        "noisy_student.max_copies": "",
        "noisy_student.seed": "5",
        "noisy_student.model_sha256": "ab" * 32,
    }
    assert summary["schema"] == 1
    assert summary["options"]["min_score"] == 0.25
    assert summary["labels"]["model_sha256"] == "ab" * 32
    assert len(summary["per_class"]["before"]) == 9
    assert summary["thresholds"][8] is None
    before, chosen = (summary["confidence"][k] for k in ("before", "selected"))
    assert chosen > before


def test_targets_are_the_selected_rows_in_the_order_of_the_plan(tmp_path):
    records = random_records(6)
    write(tmp_path / "labels", records, 4)

    def targets(batch):
        double = batch["double"].to_numpy()
        return {
            "pair": np.stack([double, -double], axis=1).astype(np.float16),
            "label": batch["label"].to_numpy(),
        }

    select(
        tmp_path / "labels",
        tmp_path / "out",
        SelectionOptions(per_class=50),
        targets=targets,
    )
    picks, arrays = load_picks(tmp_path / "out")
    assert isinstance(picks, np.memmap)
    assert all(isinstance(array, np.memmap) for array in arrays.values())
    rows = selected(tmp_path / "out")
    assert arrays["pair"].shape == (len(rows), 2)
    assert arrays["pair"].dtype == np.float16
    assert arrays["label"].tolist() == [row["label"] for row in rows]
    for number, row in picks:
        assert records[number][0] == rows[row]["key"]
        assert arrays["pair"][row, 0] == np.float16(records[number][2] * 2)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (lambda b: {"x": np.zeros(b.num_rows + 1)}, "has .* rows for"),
        (lambda b: {"../x": np.zeros(b.num_rows)}, "plain name"),
        (lambda b: {"x": np.array([None] * b.num_rows)}, "fixed width"),
        (lambda b: {"x": np.zeros((b.num_rows, b.num_rows))}, r"rows are .* after"),
    ],
)
def test_targets_must_keep_their_word(tmp_path, targets, says):
    records = random_records(6, n=100) + random_records(7, n=30)
    write(tmp_path / "labels", records, 3)
    options = SelectionOptions(method="all")
    with pytest.raises(ValueError, match=says):
        select(tmp_path / "labels", tmp_path / "out", options, targets=targets)
    assert [p.name for p in tmp_path.iterdir()] == ["labels"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_half_way_leaves_nothing(tmp_path, error):
    write(tmp_path / "labels", random_records(6), 4)
    seen = []

    def targets(batch):
        seen.append(batch.num_rows)
        if len(seen) == 3:
            raise error
        return {"x": np.zeros(batch.num_rows)}

    with pytest.raises(error):
        select(
            tmp_path / "labels",
            tmp_path / "out",
            SelectionOptions(per_class=50),
            targets=targets,
        )
    assert len(seen) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["labels"]


def test_an_output_with_content_is_never_touched(tmp_path):
    write(tmp_path / "labels", random_records(6))
    (tmp_path / "out").mkdir()
    options = SelectionOptions(per_class=50)
    select(tmp_path / "labels", tmp_path / "out", options)  # empty: may be used
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match=r"already exists .*move it away or choose"):
        select(tmp_path / "labels", tmp_path / "out", options)
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match="already exists"):
        select(tmp_path / "labels", tmp_path / "labels" / "000.parquet", options)


# --- what is refused ------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "'paper' needs per_class; set it to the number of images"),
        ({"method": "best"}, "'best' is not known; choose 'paper', 'reference' or"),
        ({"method": "reference"}, "'reference' needs per_class"),
        ({"per_class": 5, "max_copies": -1}, "max_copies is -1 but must be a whole"),
        ({"per_class": 5, "max_copies": 1.0}, "max_copies is 1.0"),
        (
            {"method": "reference", "per_class": 5, "min_score": 0.305},
            "min_score is 0.305 but method 'reference' counts scores in hundredths",
        ),
        ({"min_score": "0.3"}, "min_score must be a number, not '0.3'"),
        ({"min_score": True}, "min_score must be a number"),
        ({"method": "all", "share": 0}, "share is 0 but must be above 0 and at most 1"),
        ({"method": "all", "share": 1.5}, "share is 1.5 but must be above 0"),
        ({"method": "all", "share": True}, "share must be a number, not True"),
        ({"per_class": 5, "share": 0.5}, "leave share at 1 or choose method 'all'"),
        ({"min_score": 30}, "min_score is 30 but must be at least 0 and below 1"),
        ({"min_score": float("nan")}, "min_score is nan"),
        ({"min_score": -0.1}, "min_score is -0.1"),
        ({"per_class": 0}, "per_class is 0 but must be"),
        ({"per_class": 1.5}, "per_class is 1.5 but must be a whole number"),
        ({"per_class": True}, "per_class is True"),
        ({"per_class": 5, "seed": -1}, "seed is -1 but must be a whole number"),
        ({"per_class": 5, "seed": None}, "seed is None"),
    ],
)
def test_options_are_checked(changes, says):
    with pytest.raises(UserError, match=says):
        SelectionOptions(**changes)


def spoiled(directory, **changes):
    """A file that our own writer would not write."""
    values = {
        "key": pa.array(["a", "b"]),
        "status": pa.array(["ok", "ok"]),
        "label": pa.array([0, 1], pa.int32()),
        "score": pa.array([0.5, 0.6], pa.float32()),
    }
    metadata = {"noisy_student.classes": changes.pop("classes", "2")}
    directory.mkdir()
    table = pa.table(values | changes, metadata=metadata)
    pq.write_table(table, directory / "0.parquet")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda d: None, "no directory of pseudo-labels"),
        (lambda d: d.mkdir(), "holds no pseudo-labels"),
        (
            lambda d: spoiled(d, score=pa.array([0.5, np.nan], pa.float32())),
            r"0\.parquet: record 'b' is ok but its score is nan",
        ),
        (
            lambda d: spoiled(d, score=pa.array([np.inf, 0.5], pa.float32())),
            "record 'a' is ok but its score is inf",
        ),
        (
            lambda d: spoiled(d, score=pa.array([0.5, None], pa.float32())),
            "'b' is ok but its score is null",
        ),
        (lambda d: spoiled(d, score=pa.array([0.5, 0.6])), "'score' as double"),
        (
            lambda d: spoiled(d, label=pa.array([0, 2], pa.int32())),
            "label 2 but its metadata says 2 classes",
        ),
        (lambda d: spoiled(d, label=pa.array([0, -1], pa.int32())), "below zero"),
        (lambda d: spoiled(d, classes="many"), "'many' classes"),
        (lambda d: spoiled(d, status=pa.array(["x", "ok"])), "'a' is not ok but"),
        (lambda d: write(d, [("a", 0, 0.2)]), "none of 1 labeled.*best has 0.2;"),
        (lambda d: write(d, [("a", None, 0.2)]), "all 1 records .* are quarantined"),
        (lambda d: write(d, []), "holds no records"),
        (
            lambda d: write(d, [("a", 2**31 - 1, 0.9)]),
            "label 2147483647, more than the",
        ),
    ],
)
def test_bad_labels_are_named_and_nothing_is_written(tmp_path, spoil, says):
    spoil(tmp_path / "labels")
    with pytest.raises(UserError, match=says) as caught:
        select(tmp_path / "labels", tmp_path / "out", SelectionOptions(per_class=2))
    assert "\n" not in str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} <= {"labels"}


@pytest.mark.parametrize("damage", ["missing", "unfinished", "truncated"])
def test_load_picks_says_what_is_wrong(tmp_path, damage):
    out = tmp_path / "out"
    if damage != "missing":
        write(tmp_path / "labels", random_records(6))
        select(tmp_path / "labels", out, SelectionOptions(per_class=50))
    if damage == "unfinished":
        (out / "selection.json").unlink()
    if damage == "truncated":
        data = (out / "picks.npy").read_bytes()
        (out / "picks.npy").write_bytes(data[: len(data) // 2])
    says = "cannot be read" if damage == "truncated" else "no finished selection"
    with pytest.raises(UserError, match=says):
        load_picks(out)


# --- load -----------------------------------------------------------------------

MILLION = """
    import pathlib, sys
    import numpy as np
    from noisy_student_jax.pseudo_labels import selection, sidecar

    place = pathlib.Path(sys.argv[1])
    rng = np.random.default_rng(0)
    shards, rows, classes, K = 16, 62_500, 1000, 800
    p = rng.dirichlet(np.full(classes, 0.5))
    before = np.zeros(classes, np.int64)
    for shard in range(shards):
        label = rng.choice(classes, rows, p=p).astype(np.int32)
        score = rng.random(rows, dtype=np.float32)
        score[::3] = 1.0  # heavy ties as well
        np.add.at(before, label[score > np.float32(0.3)], 1)
        sidecar.write_shard(
            place / "labels" / f"{shard:03d}.parquet",
            keys=[f"pool/{shard:04d}/image_{i:08d}.jpg" for i in range(rows)],
            status=["ok"] * rows, label=label, score=score,
            metadata={
                "task": "t", "model": "m", "model_sha256": "0", "classes": "1000"
            },
        )
    summary = selection.select(
        place / "labels", place / "out", selection.SelectionOptions(per_class=K)
    )
    assert summary["counts"]["read"] == shards * rows
    assert summary["per_class"]["selected"] == np.minimum(before, K).tolist()
    assert summary["per_class"]["draws"] == np.where(before > 0, K, 0).tolist()
    picks, _ = selection.load_picks(place / "out")
    assert len(picks) == summary["counts"]["draws"]
    assert (np.diff(picks[:, 0]) >= 0).all()
    loaded = {"jax", "tensorflow", "flax"} & set(sys.modules)
    assert not loaded, loaded
    # Not getrusage: its peak begins with that of the process which started this one.
    status = pathlib.Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0])
    assert peak < 2 << 20, peak  # in kB
    print("peak", peak)
"""


def test_a_million_records_in_a_thousand_classes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MILLION), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("peak")

"""Sidecars: what is written is read back, and what is wrong is named."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisy_student_jax.core import files, summed
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.pseudo_labels import sidecar, writing

METADATA = {"task": "toy", "model": "b0", "model_sha256": "ab" * 32, "classes": "3"}


def write(path, n=5, **changes):
    values = {
        "keys": [f"é/{i}" for i in range(n)],
        "status": ["ok" if i != 1 else "truncated" for i in range(n)],
        "label": np.arange(n) % 3,
        "score": np.linspace(0.1, 0.9, n),
        "metadata": METADATA,
    }
    sidecar.write_shard(path, **(values | changes))


def table(**changes):
    """A well-formed table to spoil."""
    values = {
        "key": pa.array(["a", "b"]),
        "status": pa.array(["ok", "broken"]),
        "label": pa.array([1, None], pa.int32()),
        "score": pa.array([0.5, None], pa.float32()),
    } | changes
    return pa.table({k: v for k, v in values.items() if v is not None})


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "deep" / "0.parquet"
    rows = [[0.5, 0.25], None, [0.125], [], [1.0]]
    own = pa.array(
        [None if r is None else np.float16(r) for r in rows], pa.list_(pa.float16())
    )
    write(path, columns={"probabilities": own})

    assert [f.name for f in path.parent.iterdir()] == ["0.parquet"]
    assert sidecar.read_metadata(path) == METADATA | {"schema": "1"}
    raw = pq.read_schema(path).metadata
    assert raw[b"noisy_student.task"] == b"toy"
    assert pq.read_schema(path).names == [*sidecar.COLUMNS, "probabilities"]
    got = pq.read_table(path).to_pydict()
    assert got["key"] == [f"é/{i}" for i in range(5)]
    assert got["label"] == [0, None, 2, 0, 1]
    assert got["score"][1] is None
    assert got["score"][4] == pytest.approx(0.9)
    assert got["probabilities"] == rows


def streamed(path, columns, **options):
    """Batches of a sidecar, as arrays by column."""
    for batch in sidecar.batches(path, columns, **options):
        yield {name: sidecar.to_numpy(batch[name]) for name in columns}


def test_batches_come_in_order_with_nulls_marked(tmp_path):
    path = tmp_path / "0.parquet"
    write(path, n=1000)
    parts = list(streamed(path, ["score", "label", "key"], batch_rows=300))
    assert [len(p["key"]) for p in parts] == [300, 300, 300, 100]
    assert list(parts[0]) == ["score", "label", "key"]
    keys = np.concatenate([p["key"] for p in parts]).tolist()
    assert keys == [f"é/{i}" for i in range(1000)]
    assert parts[0]["label"].dtype == np.int32
    assert parts[0]["label"][:3].tolist() == [0, -1, 2]
    assert parts[0]["score"].dtype == np.float32
    assert np.isnan(parts[0]["score"][1])
    with pytest.raises(UserError, match=r"no column 'boxes' \(it has key, status"):
        next(streamed(path, ["boxes"]))


def test_empty_shard(tmp_path):
    write(tmp_path / "0.parquet", n=0)
    assert sidecar.shards(tmp_path)
    parts = streamed(tmp_path / "0.parquet", ["key"])
    assert sum(len(part["key"]) for part in parts) == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"status": ["ok"]}, "differ in length"),
        ({"columns": {"x": pa.array([1])}}, "differ in length"),
        ({"columns": {"score": pa.array([1.0] * 5)}}, "belong to every task"),
        ({"keys": ["a", None, "c", "d", "e"]}, "'key' may not hold null"),
        ({"score": [0.1, np.nan, np.nan, 0.1, 0.1]}, "'é/2' is ok but its score"),
        ({"label": [0, None, 2, None, 1]}, "'é/3' is ok but has no label"),
        ({"label": [0, 0, -1, 0, 0]}, "label below zero"),
        ({"metadata": {"task": "toy"}}, "lacks .*model_sha256"),
    ],
)
def test_writer_refuses(tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        write(tmp_path / "0.parquet", **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["quarantine.parquet", "0.csv"])
def test_writer_refuses_names_that_would_be_overlooked(tmp_path, name):
    with pytest.raises(ValueError, match="no name for a shard"):
        write(tmp_path / name)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "0.parquet"
    write(path)
    before = path.read_bytes()

    def full(self, data):
        self._file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(summed._HashedFile, "write", full)
    with pytest.raises(UserError, match=r"could not write .*No space left"):
        write(path, n=3)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_who_reads_a_file_while_it_is_replaced_reads_the_old_one(tmp_path):
    path = tmp_path / "0.parquet"
    write(path)
    before = path.read_bytes()
    with path.open("rb") as reader:
        write(path, n=3)
        assert reader.read() == before
    assert path.read_bytes() != before


def test_shards_are_sorted_and_leave_the_quarantine_out(tmp_path):
    for name in ("10", "2", "01"):
        write(tmp_path / f"{name}.parquet")
    sidecar.write_quarantine(tmp_path)
    (tmp_path / ".3.parquet.x.tmp").write_bytes(b"left by a killed process")
    (tmp_path / "labels.json").write_text("{}")
    names = [path.name for path in sidecar.shards(tmp_path)]
    assert names == ["01.parquet", "10.parquet", "2.parquet"]


def test_quarantine_is_the_rows_that_are_not_ok(tmp_path):
    write(tmp_path / "0.parquet")
    write(tmp_path / "1.parquet", keys=list("abcde"), status=["ok"] * 4 + ["<b>\n"])
    counts = sidecar.write_quarantine(tmp_path)
    assert counts == {"read": 10, "labeled": 8, "quarantined": 2}
    view = pq.read_table(tmp_path / "quarantine.parquet")
    assert view.to_pylist() == [
        {"key": "é/1", "reason": "truncated"},
        {"key": "e", "reason": "<b>\n"},
    ]
    assert sidecar.write_quarantine(tmp_path) == counts  # again, over itself


def test_quarantine_of_nothing_is_an_empty_table(tmp_path):
    write(tmp_path / "0.parquet", status=["ok"] * 5)
    assert sidecar.write_quarantine(tmp_path)["quarantined"] == 0
    view = pq.read_table(tmp_path / "quarantine.parquet")
    assert view.column_names == ["key", "reason"]
    assert not view.num_rows


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda d: d.rmdir(), "no directory of pseudo-labels at .*; run the label"),
        (lambda d: None, "holds no pseudo-labels"),
        (lambda d: (d / "0.parquet").write_bytes(b""), r"0\.parquet cannot be read"),
        (lambda d: (d / "0.parquet").write_text("<html>"), "cannot be read as Parquet"),
        (lambda d: (d / "0.parquet").mkdir(), "cannot be read as Parquet"),
        (
            lambda d: pq.write_table(table(score=None), d / "0.parquet"),
            r"0\.parquet has no column 'score'",
        ),
        (
            lambda d: pq.write_table(
                table(label=pa.array([1.0, None])), d / "0.parquet"
            ),
            r"0\.parquet has column 'label' as double where int32 is needed",
        ),
        (
            lambda d: pq.write_table(table(key=pa.array([1, 2])), d / "0.parquet"),
            "column 'key' as int64 where string is needed",
        ),
    ],
)
def test_shards_says_what_is_wrong(tmp_path, spoil, says):
    labels = tmp_path / "labels"
    labels.mkdir()
    spoil(labels)
    with pytest.raises(UserError, match=says):
        sidecar.shards(labels)


def test_damage_inside_a_file_is_named(tmp_path):
    path = tmp_path / "0.parquet"
    write(path, n=20_000)
    data = bytearray(path.read_bytes())
    data[100:20_000] = bytes(19_900)  # the footer stays good
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"0\.parquet cannot be read as Parquet"):
        sidecar.shards(tmp_path)
    with pytest.raises(UserError, match=r"0\.parquet cannot be read as Parquet"):
        list(sidecar.batches(path, ["key", "score"]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"status": pa.array(["ok", None])}, "'b' has no status"),
        ({"key": pa.array(["a", None])}, "a record has no key"),
        ({"status": pa.array(["ok", "ok"])}, "'b' is ok but has no label"),
        (
            {"score": pa.array([np.nan, None], pa.float32())},
            "'a' is ok but its score is nan",
        ),
        ({"status": pa.array(["broken", "broken"])}, "'a' is not ok but has a label"),
        (
            {"score": pa.array([0.5, 0.5], pa.float32())},
            "'b' is not ok but has a label or a score",
        ),
    ],
)
def test_rows_that_contradict_themselves_are_named(tmp_path, changes, says):
    pq.write_table(table(**changes), tmp_path / "0.parquet")
    with pytest.raises(UserError, match=rf"0\.parquet: .*{says}.*; label this shard"):
        sidecar.write_quarantine(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["0.parquet"]


def test_a_newer_schema_is_refused(tmp_path):
    path = tmp_path / "0.parquet"
    pq.write_table(table().replace_schema_metadata({"noisy_student.schema": "2"}), path)
    with pytest.raises(UserError, match="schema 2, this program reads 1"):
        sidecar.read_metadata(path)


def test_labels_of_two_models_are_not_mixed(tmp_path):
    write(tmp_path / "0.parquet")
    write(tmp_path / "1.parquet", metadata=METADATA | {"model_sha256": "cd"})
    with pytest.raises(UserError, match=r"1\.parquet has model_sha256 'cd' but"):
        sidecar.common_metadata(sidecar.shards(tmp_path))


def test_array_file_is_what_numpy_writes(tmp_path):
    rows = np.arange(24, dtype=np.float16).reshape(6, 2, 2)
    with (
        files.new_file(tmp_path / "a.npy") as opened,
        writing.ArrayFile(opened, rows.shape, rows.dtype) as file,
    ):
        file.append(rows[:4])
        with pytest.raises(ValueError, match="after float16"):
            file.append(rows[4:].astype(np.float32))
        file.append(rows[4:])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), rows)
    with (
        pytest.raises(AssertionError, match="6 rows off"),
        files.new_file(tmp_path / "b.npy") as opened,
        writing.ArrayFile(opened, rows.shape, rows.dtype),
    ):
        pass


def test_a_full_disk_is_told_in_a_sentence_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands in for the disk."""
    script = """
import pathlib, resource, signal, sys, numpy as np
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.pseudo_labels import selection, sidecar
place = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(0)
sidecar.write_shard(
    place / "labels" / "0.parquet", keys=[f"k{i}" for i in range(30_000)],
    status=["ok"] * 30_000, label=np.zeros(30_000, int), score=rng.random(30_000),
    metadata={"task": "t", "model": "m", "model_sha256": "0"},
)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (2_000, 100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        selection.select(
            place / "labels", place / "out", selection.SelectionOptions(method="all")
        )
    except UserError as error:
        assert "could not write" in str(error) and "make room" in str(error), error
    else:
        raise AssertionError("no error")
    assert [p.name for p in place.iterdir()] == ["labels"]
"""
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view()])
def test_strings_as_other_programs_write_them_are_read(tmp_path, kind):
    table = pa.table(
        {
            "key": pa.array(["a", "b"], kind),
            "status": pa.array(["ok", "torn"], kind),
            "label": pa.array([1, None], pa.int32()),
            "score": pa.array([0.5, None], pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "0.parquet", store_schema=True)

    [path] = sidecar.shards(tmp_path)
    [batch] = sidecar.batches(path, ["key", "status"])

    assert batch.schema.types == [pa.string(), pa.string()]
    assert batch["key"].to_pylist() == ["a", "b"]

"""Files that are whole or not there, and their hashes."""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError


def test_what_is_written_is_what_is_read(tmp_path):
    path = tmp_path / "deep" / "value.json"
    value = {"b": [1, 2.5, None], "a": {"ä": "λ"}}

    files.write_json(path, value)

    assert files.read_json(path) == value
    # For people: keys in the order given, one line each.
    assert path.read_text().splitlines()[1].strip().startswith('"b"')
    assert [p.name for p in path.parent.iterdir()] == ["value.json"]


@pytest.mark.parametrize("data", ["text ä", b"\x00\xff bytes"], ids=type)
def test_text_and_bytes_are_written_as_they_are(tmp_path, data):
    files.write_atomically(tmp_path / "file", data)

    expected = data.encode() if isinstance(data, str) else data
    assert (tmp_path / "file").read_bytes() == expected


def test_a_write_that_is_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    files.write_json(path, "old")

    def killed(number):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_json(path, "new")

    assert files.read_json(path) == "old"
    # What is left over is no file of the folder's, and the next write goes over it.
    assert list(files.tree_hashes(tmp_path, ["."])) == ["value.json"]
    monkeypatch.undo()
    files.write_json(path, "new")
    assert files.read_json(path) == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_a_number_that_json_cannot_hold_is_refused_and_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "value.json", {"nll": float("nan")})

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [b"{", b"", b'{"a": "\xff"}'])
def test_damaged_json_is_named_and_what_to_do(tmp_path, damage):
    path = tmp_path / "value.json"
    path.write_bytes(damage)

    with pytest.raises(UserError) as caught:
        files.read_json(path)

    assert f"'{path}' is not readable JSON" in str(caught.value)
    assert "restore it, or move it away" in str(caught.value)


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 100_000)

    assert files.sha256(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_digest_depends_on_values_and_not_on_the_order_of_keys():
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1})
    assert files.digest({"a": 1, "b": 2}) != files.digest({"a": 1, "b": 3})
    assert files.digest([1, 2]) != files.digest([2, 1])


def test_folders_are_hashed_file_by_file_relative_to_the_root(tmp_path):
    for name in ("b/two", "b/a/one", "single", "elsewhere", "b/.two.0a1b.tmp"):
        files.write_atomically(tmp_path / name, name)

    hashes = files.tree_hashes(tmp_path, ["single", "b"])

    assert hashes == {
        name: hashlib.sha256(name.encode()).hexdigest()
        for name in ("b/a/one", "b/two", "single")
    }
    assert list(hashes) == sorted(hashes)
    assert files.tree_hashes(tmp_path, ["missing"]) == {}


def test_a_table_survives(tmp_path):
    table = pa.table({"key": ["a", "b"], "score": pa.array([0.5, None], pa.float32())})

    files.write_parquet(tmp_path / "table.parquet", table)

    assert pq.read_table(tmp_path / "table.parquet").equals(table)


def test_what_is_written_can_be_read_by_other_tools(tmp_path):
    files.write_json(tmp_path / "value.json", {"a": 1})

    text = (tmp_path / "value.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {"a": 1}


def test_what_was_cut_short_is_swept_and_nothing_else(tmp_path):
    (tmp_path / ".shard.parquet.0a1b.tmp").write_text("half")
    (tmp_path / ".config.json.2c3d.tmp").write_text("half")
    (tmp_path / ".selection.0a1b.tmp").mkdir()
    (tmp_path / ".selection.0a1b.tmp" / "picks.npy").write_text("half")
    kept = [".lock", ".hidden", "shard.tmp", "shard.parquet"]
    for name in kept:
        (tmp_path / name).write_text("whole")

    files.remove_unfinished(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)

"""Files that are whole or not there, and their hashes."""

import fcntl
import hashlib
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import (
    DamagedFileError,
    FullDiskError,
    Interrupted,
    UserError,
)


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


TABLE = pa.table({"b": [1, 2], "a": [3, 4]}).replace_schema_metadata({"made": "by us"})


def write_table(path):
    files.write_parquet(path, TABLE)


def write_array(path):
    files.write_array(path, np.arange(6.0).reshape(2, 3))


def write_arrays(path):
    files.write_arrays(path, a=np.arange(3), b=np.ones((2, 2)))


def read_in_pieces(path):
    with files.open_parquet(path) as file:
        return list(file.iter_batches(1))


KINDS = {
    "table": (write_table, files.read_parquet),
    "table in pieces": (write_table, read_in_pieces),
    "array": (write_array, files.read_array),
    "mapped array": (write_array, files.map_array),
    "arrays": (write_arrays, files.read_arrays),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["empty", "cut short", "something else", "a folder"])
def test_a_damaged_file_is_named_in_one_sentence(tmp_path, kind, damage):
    write, read = KINDS[kind]
    path = tmp_path / "file"
    write(path)
    read(path)  # as it should be
    data = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "cut short": data[: len(data) // 2],
                "something else": b"<html>not here</html>",
            }[damage]
        )

    with pytest.raises(DamagedFileError) as caught:
        read(path)

    said = str(caught.value)
    assert said.startswith(f"'{path}' is not readable ")
    assert caught.value.reason and caught.value.reason in said
    assert said.endswith("restore it, or move it away to have it made again")
    assert "\n" not in said


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_there_is_not_called_damaged(tmp_path, kind):
    _, read = KINDS[kind]

    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing")


def test_a_page_damaged_within_a_table_is_noticed_while_it_is_read(tmp_path):
    path = tmp_path / "table.parquet"
    files.write_parquet(path, pa.table({"a": np.arange(100_000)}))
    data = bytearray(path.read_bytes())
    data[4:2000] = b"?" * 1996
    path.write_bytes(data)

    with (
        pytest.raises(DamagedFileError, match=r"table\.parquet' is not readable"),
        files.open_parquet(path) as file,
    ):
        list(file.iter_batches(10))


def test_what_goes_wrong_elsewhere_is_not_blamed_on_the_file(tmp_path):
    path = tmp_path / "table.parquet"
    write_table(path)

    with pytest.raises(ZeroDivisionError), files.open_parquet(path):
        _ = 1 / 0


def test_columns_come_in_the_order_asked_for_with_their_metadata(tmp_path):
    path = tmp_path / "split=test.parquet"
    write_table(path)

    assert files.read_parquet(path, columns=["a"]).column_names == ["a"]
    both = files.read_parquet(path, columns=["a", "b"])
    assert both.column_names == ["a", "b"]
    assert both.schema.metadata == {b"made": b"by us"}
    assert files.read_parquet(path).equals(TABLE)
    with pytest.raises(DamagedFileError, match="c"):
        files.read_parquet(path, columns=["a", "c"])


def test_arrays_survive_and_mapped_ones_are_read_only(tmp_path):
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    files.write_array(tmp_path / "one.npy", array)
    files.write_arrays(tmp_path / "two.npz", a=array, b=np.array(["x", "yz"]))

    read = files.read_array(tmp_path / "one.npy")
    mapped = files.map_array(tmp_path / "one.npy")
    both = files.read_arrays(tmp_path / "two.npz")

    np.testing.assert_array_equal(read, array, strict=True)
    np.testing.assert_array_equal(mapped, array, strict=True)
    np.testing.assert_array_equal(both["a"], array, strict=True)
    assert both["b"].tolist() == ["x", "yz"]
    assert not mapped.flags.writeable


def test_bytes_are_mapped_read_only(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "empty").write_bytes(b"")

    mapped = files.map_bytes(tmp_path / "file")

    assert bytes(mapped) == b"abc" and mapped.readonly
    with pytest.raises(DamagedFileError, match="empty' is not readable data"):
        files.map_bytes(tmp_path / "empty")


def test_text_is_read_with_its_line_ends(tmp_path):
    (tmp_path / "file").write_bytes("a\r\nä\n".encode())
    (tmp_path / "latin").write_bytes("ä".encode("latin-1"))

    assert files.read_text(tmp_path / "file") == "a\r\nä\n"
    with pytest.raises(DamagedFileError, match="latin' is not readable text"):
        files.read_text(tmp_path / "latin")


def test_what_is_appended_follows_what_was_there(tmp_path):
    path = tmp_path / "new" / "log.jsonl"

    files.append(path, "one ä\n")
    files.append(path, "two\n")

    assert path.read_text() == "one ä\ntwo\n"


def test_what_cannot_be_appended_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match=r"could not write .*file/log"):
        files.append(tmp_path / "file" / "log", "one")


def test_a_folder_is_listed_by_name_and_pattern(tmp_path):
    for name in ("b.npy", "a.npy", "c.txt", ".d.npy.0a.tmp", "deep/e.npy"):
        files.write_atomically(tmp_path / name, "")

    def names(**pattern):
        return [path.name for path in files.list_folder(tmp_path, **pattern)]

    assert names(pattern="*.npy") == ["a.npy", "b.npy"]
    assert names() == [".d.npy.0a.tmp", "a.npy", "b.npy", "c.txt", "deep"]
    assert files.list_folder(tmp_path / "missing") == []
    assert files.list_folder(tmp_path / "c.txt") == []


def test_files_folders_and_what_is_not_there_are_removed(tmp_path):
    for name in ("file", "folder/in/it", "kept"):
        files.write_atomically(tmp_path / name, "")
    (tmp_path / "link").symlink_to(tmp_path / "kept")

    for name in ("file", "folder", "link", "missing", "kept/below"):
        files.remove(tmp_path / name)

    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_is_moved_makes_the_folder_that_it_goes_to(tmp_path):
    files.write_atomically(tmp_path / "a" / "file", "one")

    files.move(tmp_path / "a", tmp_path / "superseded" / "1" / "a")

    assert (tmp_path / "superseded" / "1" / "a" / "file").read_text() == "one"
    assert not files.exists(tmp_path / "a")


def test_a_copied_folder_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    for name in ("one", "deep/two"):
        files.write_atomically(tmp_path / "a" / name, name)

    def killed(number):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files.os, "fsync", killed)
        files.copy_folder(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]

    files.copy_folder(tmp_path / "a", tmp_path / "b")

    assert files.tree_hashes(tmp_path / "b", ["."]) == files.tree_hashes(
        tmp_path / "a", ["."]
    )


def test_a_copied_file_takes_the_place_of_an_older_one(tmp_path):
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"older")

    files.copy_file(tmp_path / "a", tmp_path / "b")

    assert (tmp_path / "b").read_bytes() == b"new"


def test_a_locked_folder_lets_nobody_else_in_until_it_is_let_go(tmp_path):
    folder = tmp_path / "run"

    assert not files.is_locked(folder)
    with files.lock(folder, busy="first"):
        assert files.is_locked(folder)
        with (
            pytest.raises(UserError, match="somebody is in it"),
            files.lock(folder, busy="somebody is in it"),
        ):
            pytest.fail("two were let in")
        assert files.is_locked(folder)
    assert not files.is_locked(folder)
    with files.lock(folder, busy="again"):
        pass


def test_a_folder_that_cannot_be_made_cannot_be_locked(tmp_path):
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(UserError, match=r"could not write .*file/run"),
        files.lock(tmp_path / "file" / "run", busy="busy"),
    ):
        pytest.fail("it was locked")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_users_text_is_read_with_or_without_a_mark(tmp_path, mark):
    (tmp_path / "a.txt").write_bytes(mark + "ä\r\nb".encode())

    assert files.read_foreign_text(tmp_path / "a.txt") == "ä\r\nb"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("ä,b".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        ("ä,b".encode("utf-32"), "is UTF-32 text: save it as UTF-8"),
        ("a,b".encode("utf-16-le"), "is UTF-16 or no text at all"),
        (b"a\nb\nc\xe4", r"is not UTF-8 text \(line 3 has a byte 0xe4 that is none\)"),
        (None, "cannot be read: it is not there"),
    ],
)
def test_a_users_text_in_another_encoding_is_refused(tmp_path, data, says):
    if data is not None:
        (tmp_path / "a.txt").write_bytes(data)

    with pytest.raises(UserError, match=rf"/a\.txt' {says}"):
        files.read_foreign_text(tmp_path / "a.txt")


def test_a_lock_is_waited_for_by_those_who_want_to(tmp_path):
    held = (tmp_path / files.LOCK).open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    asked = []

    def waiting():
        asked.append(1)
        if len(asked) == 3:
            held.close()

    with files.lock(tmp_path, waiting=waiting):
        assert files.is_locked(tmp_path)
    assert len(asked) == 3


def test_waiting_for_a_lock_can_be_interrupted(tmp_path):
    def waiting():
        raise Interrupted("stopped by SIGINT")

    with (tmp_path / files.LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Interrupted), files.lock(tmp_path, waiting=waiting):
            pass


@pytest.mark.parametrize("number", files.FULL)
def test_a_full_disk_is_an_error_of_its_own(number, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    for write in (files.write_atomically, files.write_json):
        with pytest.raises(FullDiskError, match="make room there") as caught:
            write(tmp_path / "a", "text")
        assert str(tmp_path / "a") in str(caught.value)
        assert caught.value.status == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            "UTF-8 text",
        ),
        (KeyError("weights"), "its structure is damaged"),
        (IndexError("list index out of range"), "its structure is damaged"),
        (EOFError("Ran out of input"), "it is cut short"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (DamagedFileError("whole", "torn"), "torn"),
        (ValueError("a tensor\nof no kind"), "a tensor"),
        (ValueError(), "it is damaged"),
    ],
)
def test_causes_are_told_in_plain_words(error, told):
    found = files.reason(error)

    assert told in found
    for word in ("codec", "index out", "recursion", "Errno", "Ran out", "\n"):
        assert word not in found

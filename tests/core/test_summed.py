"""Files that carry a sum: no flipped bit gives another value in silence."""

import contextlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisy_student_jax.core import files, summed
from noisy_student_jax.core.errors import DamagedFileError

FLIPS = 300


def flips(path, *, seed=0, count=FLIPS):
    """Flips one random bit at a time; the file is as it was in the end."""
    whole = path.read_bytes()
    for place in np.random.default_rng(seed).integers(0, len(whole) * 8, count):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        # Another file, so that it is another identity at any resolution of time.
        path.unlink()
        path.write_bytes(data)
        yield place
    path.write_bytes(whole)


def some_table():
    rng = np.random.default_rng(1)
    return pa.table(
        {
            "key": [f"record {n}" for n in range(50)],
            "score": rng.random(50).astype(np.float32),
            "label": pa.array([n % 7 or None for n in range(50)], pa.int32()),
        },
        metadata={"made": "by us"},
    )


def streamed(path):
    with files.open_parquet(path) as file:
        return file.read()


@pytest.mark.parametrize("read", [files.read_parquet, streamed])
def test_a_flipped_bit_of_a_table_is_found_or_harmless(tmp_path, read):
    path, found, table = tmp_path / "table.parquet", 0, some_table()
    files.write_parquet(path, table)

    for place in flips(path):
        try:
            assert read(path).to_pydict() == table.to_pydict(), place
        except DamagedFileError:
            found += 1

    assert found > 0.9 * FLIPS
    assert read(path).to_pydict() == table.to_pydict()


@pytest.mark.parametrize("length", [512, 4096])
def test_a_lost_sector_of_a_table_is_found(tmp_path, length):
    path = tmp_path / "table.parquet"
    files.write_parquet(path, pa.concat_tables([some_table()] * 40))
    whole = path.read_bytes()

    for place in range(0, len(whole), 512):
        data = bytearray(whole)
        data[place : place + length] = bytes(len(data[place : place + length]))
        path.write_bytes(data)
        with pytest.raises(DamagedFileError):
            files.read_parquet(path)


def test_a_table_written_in_pieces_carries_a_sum_of_its_whole(tmp_path):
    path, table = tmp_path / "table.parquet", some_table()
    with (
        files.atomic_file(path) as file,
        summed.ParquetWriter(file, table.schema) as writer,
    ):
        writer.write(table)
        writer.write(table)

    assert files.read_parquet(path).num_rows == 100
    data = bytearray(path.read_bytes())
    data[8] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match="do not match the SHA-256 in it"):
        files.read_parquet(path)


def test_a_table_without_a_sum_is_read_as_before(tmp_path):
    pq.write_table(some_table(), tmp_path / "old.parquet")

    assert files.read_parquet(tmp_path / "old.parquet").equals(some_table())


def test_a_table_that_is_written_again_has_one_sum(tmp_path):
    first, again = tmp_path / "first.parquet", tmp_path / "again.parquet"
    files.write_parquet(first, some_table())
    with files.open_parquet(first) as file:
        files.write_parquet(again, file.read().slice(5))

    read = files.read_parquet(again)
    assert read.num_rows == 45
    assert read.schema.metadata == {b"made": b"by us"}


def test_equal_tables_are_equal_files(tmp_path):
    for name in ("a", "b"):
        files.write_parquet(tmp_path / name, some_table())

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_flipped_bit_of_an_object_is_found_or_harmless(tmp_path):
    path, found = tmp_path / "value.json", 0
    value = {"parts": {"snow": 0.25, "3": [1, 2, True, None]}, "name": "ä"}
    files.write_json(path, value, with_sum=True)
    assert summed.KEY in json.loads(path.read_text())

    for place in flips(path):
        with contextlib.suppress(DamagedFileError):
            read = files.read_json(path)
            # The field of the sum under another name is one too many.
            assert value.items() <= read.items(), place
            found -= 1
        found += 1

    assert found > 0.7 * FLIPS
    assert files.read_json(path) == value


def test_numbers_as_keys_do_not_change_the_sum(tmp_path):
    files.write_json(tmp_path / "value.json", {9: 1, 10: 2}, with_sum=True)

    assert files.read_json(tmp_path / "value.json") == {"9": 1, "10": 2}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is there twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ("9" * 10_000, "limit"),
    ],
)
def test_json_that_only_python_reads_is_refused_in_a_sentence(tmp_path, text, why):
    (tmp_path / "value.json").write_text(text)

    with pytest.raises(DamagedFileError, match=why):
        files.read_json(tmp_path / "value.json")

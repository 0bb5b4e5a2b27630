"""Numbers that are kept: computed once, and again when their file is damaged."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisy_student_jax.core import files
from noisy_student_jax.data import index

STATE = {"files": "ab"}


def keep(folder, numbers=range(100), state=STATE):
    made = []

    def make():
        made.append(True)
        return np.array(numbers, np.int64)

    return index.kept(folder, "offsets", state, make).tolist(), bool(made)


def test_numbers_are_computed_once_for_a_state(tmp_path):
    assert keep(tmp_path) == (list(range(100)), True)
    assert keep(tmp_path, [1]) == (list(range(100)), False)
    assert keep(tmp_path, [1], {"files": "cd"}) == ([1], True)


def test_a_flipped_bit_is_named_and_the_numbers_are_computed_again(tmp_path, capsys):
    keep(tmp_path)
    (path,) = tmp_path.iterdir()
    whole, found = path.read_bytes(), 0

    for place in np.random.default_rng(0).integers(0, len(whole) * 8, 100):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        numbers, made = keep(tmp_path)
        assert numbers == list(range(100)), place
        found += made
        assert (f"'{path}' is damaged (" in capsys.readouterr().out) == made
        path.write_bytes(whole)

    assert found > 90


@pytest.mark.parametrize(
    "table",
    [pa.table({"other": [1]}), pa.table({"number": [1]}).replace_schema_metadata({})],
)
def test_a_table_of_something_else_is_replaced(tmp_path, table):
    keep(tmp_path)
    (path,) = tmp_path.iterdir()
    pq.write_table(table, path)

    assert keep(tmp_path) == (list(range(100)), True)
    assert files.read_parquet(path).num_rows == 100

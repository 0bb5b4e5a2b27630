"""Predicted boxes in sidecars: what is stored is read back."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tasks.detection.boxes_to_choose import (
    predicted,
    random_predictions,
    rows_of,
    write_shards,
)

from noisy_student_jax.pseudo_labels import sidecar as shards
from noisy_student_jax.tasks.detection import sidecar


def test_columns_are_lists_of_the_boxes_from_the_lowest_score_on():
    found = predicted([[(2, 0.9, 0.8), (0, 0.05, 0.5), (1, 0.049, 1.0)], []])
    columns = sidecar.columns(found, top_k=None)

    assert columns["classes"].to_pylist() == [[2, 0], []]
    assert columns["scores"].to_pylist()[0] == pytest.approx([0.9, 0.05])
    assert columns["reliabilities"].to_pylist()[0] == pytest.approx([0.8, 0.5])
    assert [len(box) for box in columns["boxes"].to_pylist()[0]] == [4, 4]
    assert columns["boxes"].type == pa.list_(pa.list_(pa.float32(), 4))
    assert sidecar.columns(found, top_k=1)["classes"].to_pylist() == [[2], []]


def test_what_is_stored_is_read_back(tmp_path):
    found = random_predictions(40, 3)
    found["scores"][:, 9:] = 0.9  # as many boxes as there are places
    order = np.argsort(-found["scores"], axis=1)
    found["scores"] = np.take_along_axis(found["scores"], order, axis=1)
    bad = (0, 7, 39)
    path = write_shards(tmp_path, found, 3, bad=bad) / "shard_000000.parquet"
    (rows,) = shards.batches(path)

    read = sidecar.read_predictions(rows)

    stored = found["scores"] >= sidecar.LOWEST_SCORE
    stored[list(bad)] = False
    for name, array in found.items():
        there = stored[..., None] if array.ndim == 3 else stored
        np.testing.assert_array_equal(read[name], np.where(there, array, 0))
        assert read[name].dtype == array.dtype
    part = sidecar.read_predictions(rows.slice(5, 4))
    np.testing.assert_array_equal(part["boxes"], read["boxes"][5:9])


def test_the_columns_are_plain_lists_to_a_database(tmp_path):
    found = predicted([[(2, 0.9, 0.8), (0, 0.5, 0.5)], [], [(1, 0.7, 1.0)]])
    path = write_shards(tmp_path, found, 3) / "shard_000000.parquet"

    duckdb = pytest.importorskip("duckdb")
    rows = duckdb.sql(
        f"select key, unnest(classes) c, unnest(scores) s from '{path}' order by s"
    )
    assert [row[:2] for row in rows.fetchall()] == [
        ("image 0", 0),
        ("image 2", 1),
        ("image 0", 2),
    ]


def test_columns_are_counted_by_another_reader(tmp_path):
    found = predicted([[(2, 0.9, 0.8), (0, 0.5, 0.5)], [], [(1, 0.7, 1.0)]])
    path = write_shards(tmp_path, found, 3) / "shard_000000.parquet"

    table = pq.read_table(path)
    assert pa.compute.list_value_length(table["boxes"]).to_pylist() == [2, 0, 1]
    assert pa.compute.list_flatten(table["classes"]).to_pylist() == [2, 0, 1]


def test_an_image_without_boxes_is_ok_and_scores_nothing(tmp_path):
    found = predicted([[], [(2, 0.04, 1.0)], [(1, 0.2, 1.0)]])
    path = write_shards(tmp_path, found, 3) / "shard_000000.parquet"

    (rows,) = shards.batches(path)
    assert shards.first_fault(rows) is None
    assert rows["label"].to_pylist() == [0, 0, 1]
    assert rows["score"].to_pylist() == pytest.approx([0, 0, 0.2])
    assert shards.write_quarantine(tmp_path)["labeled"] == 3


def test_a_score_that_is_no_number_is_not_hidden():
    found = predicted([[(0, 0.9, 1.0)], [(0, 0.8, 1.0)]])
    found["scores"][1, 0] = np.nan
    assert np.isnan(sidecar.score(found)).tolist() == [False, True]


def test_targets_are_of_one_width_whatever_the_number_of_boxes():
    few, none = predicted([[(1, 0.9, 0.8)], []]), predicted([[]])
    for found in (few, none):
        stored = sidecar.stored_targets(rows_of(found))
        assert {name: array.shape[1:] for name, array in stored.items()} == {
            "boxes": (100, 4),
            "classes": (100,),
            "kinds": (100,),
            "scores": (100,),
            "box_weights": (100,),
        }
    assert stored["kinds"].dtype == np.int8
    assert sidecar.stored_targets(rows_of(few))["kinds"].sum() == 1


def test_the_estimate_is_of_all_places():
    found = random_predictions(3, 2)
    found["scores"][:] = 0.5
    columns = sidecar.columns(found, top_k=7)
    numbers = [len(column.flatten()) for column in columns.values()]
    numbers[0] = len(columns["boxes"].flatten().flatten())
    assert 4 * sum(numbers) == 3 * sidecar.record_bytes(top_k=7)
    assert sidecar.record_bytes(top_k=None) == sidecar.record_bytes(top_k=100)

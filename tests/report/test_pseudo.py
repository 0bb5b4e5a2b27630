"""What the report says of a selection: its method, its cap, what to expect of it."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from noisy_student_jax.core import files
from noisy_student_jax.pseudo_labels import selection, sidecar
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.report import pseudo
from noisy_student_jax.report.students import Shown
from noisy_student_jax.runs.paths import OUT_OF_FOLD, GenerationPaths
from noisy_student_jax.tasks.classification import Classification


def said(folder, **options):
    """What is said of a teacher whose student is trained on such a selection."""
    sidecar.write_shard(
        folder / "labels" / "0.parquet",
        keys=[f"k{i}" for i in range(40)],
        status=["ok"] * 40,
        label=np.arange(40) % 2,
        score=np.linspace(0.2, 0.9, 40),
        metadata={"task": "t", "model": "m", "model_sha256": "0", "classes": "2"},
    )
    sidecar.write_quarantine(folder / "labels")
    one = SelectionOptions(min_score=0.4, per_class=50, **options)
    selection.select(folder / "labels", folder / "selection", one)
    students = [Shown(f"generation {k}", f"s{k}", folder, {}, k) for k in range(2)]
    task = Classification(("a", "b"))
    paths = GenerationPaths(folder, "train", False)
    run = SimpleNamespace(task=task)
    run.named = lambda name: SimpleNamespace(paths=paths, run=run)
    (teacher,) = pseudo.teachers(run, {"classes": ["a", "b"]}, students)
    return teacher


def leave_out(folder, labels, truth):
    """Writes predictions for images left out, all as sure as can be."""
    table = {
        "key": [f"l{n}" for n in range(len(labels))],
        "truth": np.array(truth, np.int32),
        "probabilities": pa.array(list(np.eye(2, dtype=np.float32)[labels])),
    }
    files.write_parquet(folder / "train" / OUT_OF_FOLD, pa.table(table))


@pytest.mark.parametrize(
    ("method", "says"), [("paper", "selected above 0.4"), ("reference", "from 0.4")]
)
def test_the_threshold_is_said_as_the_method_has_it(tmp_path, method, says):
    teacher = said(tmp_path, method=method)
    assert teacher["method"] == method
    assert teacher["adds_up"]
    assert says in teacher["histogram"]


def test_a_cap_on_repeats_is_said_and_its_warning_shown(tmp_path):
    teacher = said(tmp_path, max_copies=3)
    assert "No record is drawn more than 3 times an epoch." in teacher["lowest"]
    assert "because max_copies 3 caps" in teacher["warnings"][0]


def test_without_a_cap_none_is_said(tmp_path):
    assert "drawn more" not in said(tmp_path)["lowest"]


def test_a_share_is_said_and_where_it_ends(tmp_path):
    teacher = said(tmp_path, method="all", share=0.2)

    assert teacher["adds_up"] and teacher["counts"]["selected"] == 8
    assert teacher["over"] == "after the surest 20 % of the pool"
    assert "selected from 0.7744" in teacher["histogram"]
    everything = said(tmp_path / "all", method="all")
    assert everything["over"] == "over a class's capacity"
    assert "selected above 0.4" in everything["histogram"]


def test_what_to_expect_of_each_class_is_said_the_least_precise_first(tmp_path):
    leave_out(tmp_path, labels=[0, 0, 1, 1], truth=[0, 0, 0, 1])

    found = said(tmp_path)["precision"]

    assert (found["images"], found["taken"], found["overall"]) == (4, 4, "75.0 %")
    assert found["rows"] == [
        {"name": "b", "taken": 2, "right": 1, "share": "50.0 %"},
        {"name": "a", "taken": 2, "right": 2, "share": "100.0 %"},
    ]
    assert found["bare"] == []


def test_classes_of_which_nothing_is_known_are_named(tmp_path):
    leave_out(tmp_path, labels=[1], truth=[1])

    assert said(tmp_path)["precision"]["bare"] == ["a"]


def test_nothing_is_expected_without_images_left_out_or_of_damage(tmp_path):
    assert said(tmp_path / "without")["precision"] is None
    path = tmp_path / "train" / OUT_OF_FOLD
    path.parent.mkdir()
    path.write_bytes(b"PAR1")

    assert "is damaged" in said(tmp_path)["precision"]["missing"]

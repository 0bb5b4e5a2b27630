"""What is expected of pseudo-labels, from labeled images that were left out."""

from types import SimpleNamespace

import jax
import numpy as np
import pyarrow as pa
import pytest

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import DamagedFileError
from noisy_student_jax.generation.left_out import expected_precision, left_out, told
from noisy_student_jax.runs.paths import GenerationPaths
from noisy_student_jax.tasks.classification import Classification


def teacher(folder, rows, *, classes=("ant", "bee\x00", "cat")):
    """A teacher with rows (truth, label, score) of images that were left out."""
    probabilities = np.zeros((len(rows), len(classes)), np.float32)
    for n, (_, label, score) in enumerate(rows):
        probabilities[n] = (1 - score) / (len(classes) - 1)
        probabilities[n, label] = score
    table = {
        "key": [f"image {n}" for n in range(len(rows))],
        "truth": np.array([truth for truth, _, _ in rows], np.int32),
        "probabilities": pa.array(list(probabilities)),
    }
    path = folder / "train" / "out_of_fold.parquet"
    files.write_parquet(path, pa.table(table))
    run = SimpleNamespace(
        task=Classification(tuple(classes)), dataset=SimpleNamespace(classes=classes)
    )
    return SimpleNamespace(paths=GenerationPaths(folder, "train", False), run=run)


def said(one, **selection):
    """What is said of pseudo-labels that a teacher gave and that were selected."""
    return told(expected_precision(one, selection), one.run.dataset.classes)


ROWS = [
    *[(0, 0, 0.95)] * 3,
    (1, 0, 0.9),
    (1, 0, 0.6),  # wrong, but not as sure as those selected
    *[(1, 1, 0.7)] * 2,
    (2, 1, 0.65),
]


def test_precision_is_that_of_images_as_sure_as_the_selected(tmp_path):
    one = teacher(tmp_path, ROWS)

    found = said(one, method="paper", thresholds=[0.9, 0.66, None])

    assert found == (
        "expected to be right: 83.3% of the selected, if all are of these classes,"
        " going by 6 labeled images that"
        " were left out and score as they do; by class ant 75% of 4, bee\\x00 100% of"
        " 2, no such image of cat"
    )


def test_one_threshold_of_all_classes_is_the_lowest_selected_score(tmp_path):
    one = teacher(tmp_path, ROWS)

    found = said(one, method="all", thresholds=[0.9, 0.62, None])

    assert "71.4% of the selected, if all are of these classes, going by 7" in found
    assert "by class bee\\x00 67% of 3, ant 75% of 4" in found


def test_many_classes_are_counted(tmp_path):
    names = tuple(f"class {n}" for n in range(30))
    one = teacher(tmp_path, [(n, n, 0.9) for n in range(30)], classes=names)

    found = said(one, method="all", thresholds=[0.5] * 30)

    assert found.count(" of 1,") == 10
    assert found.endswith("20 more, no less precise")


def test_classes_without_an_image_left_out_are_named_up_to_ten(tmp_path):
    names = tuple(f"class {n}" for n in range(30))
    one = teacher(tmp_path, [(n, n, 0.9) for n in range(5)], classes=names)

    found = said(one, method="all", thresholds=[0.5] * 30)

    assert "no such image of class 5, class 6, " in found
    assert found.endswith("class 14 and 15 more")


def test_images_that_are_all_less_sure_tell_nothing(tmp_path):
    one = teacher(tmp_path, ROWS)

    found = said(one, method="all", thresholds=[0.99] * 3)

    assert found.startswith("none of the 8 labeled images, each left out in turn")


def test_predictions_are_those_of_the_task(tmp_path):
    class Other(Classification):
        """A task whose predictions have other names."""

        def predict(self, outputs):
            return {"odds": jax.nn.softmax(outputs["logits"])}

    one = teacher(tmp_path, ROWS)
    found = left_out(one).predictions
    one.run.task = Other(one.run.task.classes)

    other = left_out(one).predictions

    assert found.keys() == {"probabilities", "logits"}
    assert other.keys() == {"odds"}
    assert other["odds"] == pytest.approx(found["probabilities"], abs=1e-6)


def test_other_trainings_leave_no_image_out_and_damage_is_named(tmp_path):
    one = teacher(tmp_path / "a", ROWS)
    other = SimpleNamespace(
        paths=GenerationPaths(tmp_path / "b", "train", False), run=one.run
    )
    assert left_out(other) is None
    assert expected_precision(other, {"method": "all", "thresholds": []}) is None

    (tmp_path / "a" / "train" / "out_of_fold.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedFileError):
        left_out(one)

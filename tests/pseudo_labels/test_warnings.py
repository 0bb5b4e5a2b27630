"""Warnings: each on a pool made to be so, and none on one that is as it should be."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from pseudo_labels.records import write
from support import ROOT

from noisy_student_jax.cli.main import main
from noisy_student_jax.pseudo_labels import plan
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.pseudo_labels.selection import select
from noisy_student_jax.pseudo_labels.warnings import Expected

GRAY = ROOT / "tests" / "configs" / "gray.py"
CLASSES = ("ant", "bee", "cat\n", "dog")
OPTIONS = SelectionOptions(per_class=30)


def pool(counts, *, mean=0.8, spread=0.1):
    """Records of each class with scores around a mean; labels as counted."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    scores = np.clip(rng.normal(mean, spread, len(labels)), 0, 1)
    return [
        (f"k{i}", int(label), score)
        for i, (label, score) in enumerate(zip(labels, scores.tolist(), strict=True))
    ]


def scores(mean, *, images=200, spread=0.1):
    """What an evaluation says of validation images that score so."""
    rng = np.random.default_rng(1)
    drawn = np.clip(rng.normal(mean, spread, images), 0, 1).astype(np.float32)
    return {
        "histogram": plan.histogram(drawn).tolist(),
        "mean": plan.mean(plan.fixed_point(drawn, 1), images),
    }


def expected(*, labels=(0, 1, 2, 3) * 5, mean=0.8, **changes):
    return Expected.from_run(
        np.array(labels), classes=4, scores=scores(mean, **changes)
    )


def warnings_of(tmp_path, records, options=OPTIONS, *, classes=CLASSES, **more):
    """The warnings of a selection, which its file says too."""
    number = len(list(tmp_path.iterdir()))
    labels, out = tmp_path / f"labels{number}", tmp_path / f"out{number}"
    write(labels, records, classes=len(classes))
    summary = select(labels, out, options, classes=classes, **more)
    written = json.loads((out / "selection.json").read_text())
    assert written["warnings"] == summary["warnings"]
    assert all("\n" not in warning for warning in summary["warnings"])
    return summary["warnings"]


@pytest.mark.parametrize("method", ["paper", "reference", "all"])
def test_a_pool_like_the_labeled_images_is_not_warned_of(tmp_path, method):
    options = SelectionOptions(method=method, per_class=30)
    records = pool([40, 60, 50, 30], mean=0.77)
    assert warnings_of(tmp_path, records, options, expected=expected()) == []


# --- classes without any --------------------------------------------------------


def test_empty_classes_are_warned_of_by_number(tmp_path):
    records = [("a", 0, 0.9), ("b", 2, 0.2), ("c", 4, 0.8)]
    few = SelectionOptions(per_class=2)
    write(tmp_path / "six", records, classes=6)
    (warning,) = select(tmp_path / "six", tmp_path / "a", few)["warnings"]
    assert warning.startswith("4 of 6 classes get no pseudo-labels: 1, 2, 3, 5 (")
    assert "no record of theirs scores above min_score 0.3" in warning
    assert "3 of them the teacher never predicts" in warning
    assert "chance" not in warning
    assert "lower min_score" in warning
    write(tmp_path / "forty", records, classes=40)
    (warning,) = select(tmp_path / "forty", tmp_path / "b", few)["warnings"]
    assert "10, 11 and 28 more" in warning


def test_empty_classes_are_warned_of_by_name_where_they_have_one(tmp_path):
    (warning,) = warnings_of(tmp_path, pool([40, 40, 0, 0]))
    assert "get no pseudo-labels: 'cat\\n', 'dog' (" in warning


def test_a_class_that_chance_leaves_empty_is_told_from_one_without_records(tmp_path):
    options = SelectionOptions(method="reference", per_class=1)
    (warning,) = warnings_of(tmp_path, pool([1, 40, 0, 0], spread=0), options)
    # One of forty, drawn with a chance of a fortieth each.
    assert "3 of 4 classes" in warning
    assert "1 of them lose their few records by chance" in warning
    assert "no record of theirs scores at least min_score 0.3" in warning


def test_a_class_that_is_not_among_the_surest_is_told_from_one_without(tmp_path):
    records = [*pool([40, 40, 0, 0]), ("unsure", 2, 0.31)]
    options = SelectionOptions(method="all", share=0.5)
    (warning,) = warnings_of(tmp_path, records, options)
    assert warning.startswith("2 of 4 classes get no pseudo-labels: 'cat\\n', 'dog' (")
    assert "1 of them have no record in the surest 50.0% of the pool" in warning
    assert "take a larger share" in warning
    assert "min_score 0.3" in warning


# --- the cap --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["paper", "reference"])
def test_classes_that_the_cap_leaves_short_are_warned_of(tmp_path, method):
    options = SelectionOptions(method=method, per_class=30, max_copies=2)
    (warning,) = warnings_of(tmp_path, pool([15, 14, 400, 3]), options)
    assert warning.startswith(
        "2 of 4 classes have fewer draws than per_class 30, because max_copies 2 caps "
        "the repeats of their few records: 'bee' 28, 'dog' 6 (26 draws fewer in all);"
    )
    enough = SelectionOptions(method=method, per_class=30, max_copies=10)
    assert warnings_of(tmp_path, pool([15, 14, 400, 3]), enough) == []


def test_a_class_without_records_is_empty_and_not_capped(tmp_path):
    options = SelectionOptions(per_class=30, max_copies=2)
    empty, capped = warnings_of(tmp_path, pool([40, 40, 14, 0]), options)
    assert empty.startswith("1 of 4 classes get no pseudo-labels: 'dog' (")
    assert "repeats of their few records: 'cat\\n' 28 (2 draws fewer" in capped


def test_without_balance_there_is_nothing_to_cap(tmp_path):
    options = SelectionOptions(method="all", per_class=300, max_copies=1)
    assert warnings_of(tmp_path, pool([5, 5, 5, 5]), options) == []


# --- unevenness -----------------------------------------------------------------


def uneven(found):
    return [warning for warning in found if "classes in effect" in warning]


@pytest.mark.parametrize("counts", [[197, 1, 1, 1], [1, 600, 2, 5], [90, 90, 4, 3]])
def test_predictions_of_few_classes_are_warned_of(tmp_path, counts):
    (warning,) = warnings_of(tmp_path, pool(counts), expected=expected())
    most = CLASSES[int(np.argmax(counts))]
    assert f"gives '{most}' {max(counts) / sum(counts):.0%} of the pool" in warning
    assert "which is 25% of the labeled images" in warning
    assert "the labeled images have 4.0 " in warning


def test_one_class_far_above_its_share_is_warned_of(tmp_path):
    names = [f"c{k}" for k in range(20)]
    even = Expected(class_counts=np.full(20, 3))
    found = warnings_of(tmp_path, pool([190] + [20] * 19), classes=names, expected=even)
    assert "gives 'c0' 33% of the pool, which is 5% of the labeled" in found[0]
    # The other classes are even: by their effective number nobody would see it.
    assert "over 13.5 classes in effect, the labeled images have 20.0" in found[0]
    found = warnings_of(tmp_path, pool([90] + [20] * 19), classes=names, expected=even)
    assert found == []


def test_a_labeled_set_that_is_uneven_itself_is_the_measure(tmp_path):
    labels = [0] * 180 + [1] * 7 + [2] * 7 + [3] * 6
    records = pool([450, 20, 16, 14])
    assert warnings_of(tmp_path, records, expected=expected(labels=labels)) == []
    assert uneven(warnings_of(tmp_path, records, expected=expected()))


def test_draws_at_natural_shares_may_be_as_uneven_as_the_pool(tmp_path):
    records, natural = pool([1, 600, 2, 5]), SelectionOptions(method="all")
    assert warnings_of(tmp_path, records, natural, expected=expected()) == []
    (warning,) = warnings_of(tmp_path, records, expected=expected())
    assert "draw it at its natural shares (selection.method 'all')" in warning


@pytest.mark.parametrize("counts", [[10, 3], [200, 45], [200, 150]])
def test_two_classes_may_have_other_shares(tmp_path, counts):
    two = Expected(class_counts=np.array([5, 5]))
    assert warnings_of(tmp_path, pool(counts), classes="ab", expected=two) == []


def test_two_classes_may_not_become_one(tmp_path):
    two = Expected(class_counts=np.array([5, 5]))
    assert uneven(warnings_of(tmp_path, pool([200, 9]), classes="ab", expected=two))


def test_a_pool_of_few_images_cannot_be_even(tmp_path):
    records = pool([16, 1, 1, 1])
    assert warnings_of(tmp_path, records, expected=expected()) == []
    assert uneven(warnings_of(tmp_path, pool([17, 1, 1, 1]), expected=expected()))


@pytest.mark.parametrize(
    "labels",
    [None, [0.1, 0.2], [[0, 1], [2, 3]], [0, 9], [-1, 0], [], ["ant"]],
    ids=str,
)
def test_labels_that_are_no_class_numbers_are_not_counted(labels):
    found = Expected.from_run(labels, classes=4, scores=None)
    assert found.class_counts is None
    assert found.scores is None


def test_labels_are_counted_by_class():
    found = Expected.from_run(np.uint8([1, 1, 3]), classes=5, scores=None)
    assert found.class_counts.tolist() == [0, 2, 0, 1, 0]


# --- other images ---------------------------------------------------------------


def test_a_pool_that_the_teacher_is_unsure_of_is_warned_of(tmp_path):
    records = pool([50] * 4, mean=0.4)
    (warning,) = warnings_of(tmp_path, records, expected=expected(mean=0.9))
    assert warning.startswith("the pool may be of other images than the labeled ones:")
    assert "mean score is 0.40 on it and 0.89 on validation images" in warning
    above = np.mean([score >= 0.3 for _, _, score in records])
    assert f"and {above:.0%} of it pass min_score 0.3 where 100% of those" in warning
    every = SelectionOptions(method="all", min_score=0)
    (warning,) = warnings_of(tmp_path, records, every, expected=expected(mean=0.9))
    assert "min_score 0" not in warning


@pytest.mark.parametrize(("mean", "warned"), [(0.78, 0), (0.7, 0), (0.58, 1)])
def test_a_little_less_sure_is_no_other_domain(tmp_path, mean, warned):
    records = pool([50] * 4, mean=mean)
    found = warnings_of(tmp_path, records, expected=expected(mean=0.8))
    assert len(found) == warned


def test_more_sure_than_on_validation_images_is_no_other_domain(tmp_path):
    records = pool([50] * 4, mean=0.9)
    assert warnings_of(tmp_path, records, expected=expected(mean=0.5)) == []


def test_a_handful_of_images_tells_nothing_of_the_domain(tmp_path):
    records = pool([50] * 4, mean=0.6)
    few, many = expected(images=4, spread=0.3), expected()
    assert few.scores.mean > 0.8 and many.scores.mean < 0.81
    assert warnings_of(tmp_path, records, expected=few) == []
    assert warnings_of(tmp_path, records, expected=many)


# --- in a run -------------------------------------------------------------------

COMMANDS = ("train", "evaluate", "label", "select")


def status(workdir, data, command):
    """Runs a command of the first generation."""
    data = f"--config.data.name=pseudo_labels.pools:{data}"
    where = [f"--workdir={workdir}", "--generation=0"]
    return main([command, f"--config={GRAY}", data, *where])


def told(capsys, workdir, data, *commands):
    """Runs commands that have to succeed; returns the warnings that are printed."""
    assert [status(workdir, data, command) for command in commands] == [0] * len(
        commands
    )
    lines = capsys.readouterr().out.splitlines()
    return [line.removeprefix("WARNING: ") for line in lines if line[:8] == "WARNING:"]


def test_a_run_on_a_pool_like_the_labeled_images_warns_of_nothing(tmp_path, capsys):
    assert told(capsys, tmp_path / "run", "alike", *COMMANDS) == []


def test_a_run_on_a_pool_of_one_class_says_so(tmp_path, capsys):
    (empty,) = told(capsys, tmp_path / "run", "one_class", *COMMANDS)
    assert empty.startswith("1 of 2 classes get no pseudo-labels: 'dark' (")


def test_a_run_on_a_pool_of_noise_says_so(tmp_path, capsys):
    found = told(capsys, tmp_path / "run", "noise", *COMMANDS)
    assert any("the pool may be of other images" in warning for warning in found)
    written = tmp_path / "run" / "generation_0" / "selection" / "selection.json"
    assert json.loads(written.read_text())["warnings"] == found
    # A run that was stopped after the files were there says it again.
    (tmp_path / "run" / "ledger" / "generation_0.select.json").unlink()
    assert told(capsys, tmp_path / "run", "noise", "select") == found


def test_an_evaluation_tells_the_scores_of_each_split(tiny_run):
    folder = tiny_run / "generation_0"
    splits = json.loads((folder / "evaluation.json").read_text())["splits"]
    for split in splits.values():
        assert sum(split["scores"]["histogram"]) == split["images"]
    table = pq.read_table(folder / "predictions.parquet")
    drawn = table["score"].to_numpy()
    assert splits["test"]["scores"]["mean"] == pytest.approx(drawn.mean(), abs=1e-5)
    assert splits["test"]["scores"]["histogram"] == plan.histogram(drawn).tolist()


def test_without_the_evaluation_there_is_no_selection(tmp_path, capsys):
    told(capsys, tmp_path / "run", "alike", "train", "label")
    assert status(tmp_path / "run", "alike", "select") == 2
    says = "generation_0/select needs generation_0/evaluate, which has not finished"
    assert says in capsys.readouterr().err
    # Nor does it stand in the way of the right order.
    told(capsys, tmp_path / "run", "alike", "evaluate", "select")

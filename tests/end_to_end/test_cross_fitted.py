"""Labeled images, each left out in turn, take the place of validation images."""

import json
import shutil

import numpy as np
import pytest
from support import TINY, mistake

from noisy_student_jax import config
from noisy_student_jax.cli.main import main
from noisy_student_jax.core import files
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.pseudo_labels import plan
from noisy_student_jax.runs.run import Run

MODELS = ("generation_0", "generation_1", "generation_2", "control")


def line(tiny_run, folders, workdir, *more, command="run"):
    """Heads on a backbone that has learned from other images."""
    return [
        command,
        f"--config={TINY}",
        f"--workdir={workdir}",
        "--config.data.name=own",
        f"--config.labeled={folders / 'labeled'}",
        f"--config.unlabeled={folders / 'unlabeled'}",
        "--config.data.labels_per_class=none",
        "--config.data.validation_fraction=0",
        "--config.data.workers=1",
        f"--config.init={tiny_run / 'generation_1' / 'model'}",
        "--config.train=head",
        "--config.train.optimizer=lbfgs",
        "--config.train.targets=hard",
        "--config.selection.method=all",
        *more,
    ]


@pytest.fixture(scope="module")
def three_generations(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "three.py"
    path.write_text(
        TINY.read_text().replace("generations = ({}, {})", "generations = ({}, {}, {})")
    )
    return f"--config={path}"


@pytest.fixture(scope="module")
def crossed(tiny_run, folders, three_generations, tmp_path_factory):
    """A finished run. Do not change it."""
    workdir = tmp_path_factory.mktemp("crossed") / "run"
    assert main(line(tiny_run, folders, workdir, three_generations)) == 0
    return workdir


@pytest.fixture(scope="module")
def run(crossed):
    asked = config.from_json(crossed / "config.json")
    return Run(asked, crossed, interruption=Interruption())


def test_all_labeled_images_are_learned_from(crossed, run):
    parts = files.read_parquet(crossed / "data/splits.parquet")["part"].to_pylist()

    assert set(parts) == {"labeled", "pool", "test"}
    assert parts.count("labeled") + parts.count("test") == 48
    for name in MODELS:
        counts = run.ledger.finished(f"{name}/train")["counts"]
        assert counts["labeled"] == parts.count("labeled")


@pytest.mark.parametrize("name", MODELS)
def test_validation_is_what_was_predicted_of_those_left_out(crossed, run, name):
    left_out = files.read_parquet(crossed / name / "train/out_of_fold.parquet")
    found = np.stack(left_out["probabilities"].to_pylist())
    right = found.argmax(axis=1) == left_out["truth"].to_numpy()
    entry = files.read_json(crossed / name / "evaluation.json")["splits"]["validation"]

    assert entry["images"] == len(right) == len(run.dataset.labeled)
    assert entry["ema"]["top1"] == entry["raw"]["top1"] == right.mean()
    histogram = plan.histogram(found.max(axis=1).astype(np.float32))
    assert entry["scores"]["histogram"] == histogram.tolist()
    last = (crossed / name / "train/metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["validation/ema/top1"] == right.mean()

    table, tested = (
        files.read_parquet(crossed / name / f"{part}.parquet")
        for part in ("validation", "predictions")
    )
    assert table.column_names == tested.column_names
    assert table["key"].to_pylist() == left_out["key"].to_pylist()
    assert table["primary"].to_pylist() == right.astype(float).tolist()


def test_the_model_to_use_is_chosen_on_them(crossed, run):
    summary = files.read_json(crossed / "summary.json")
    count = len(run.dataset.labeled)

    assert summary["splits"]["train"] == summary["splits"]["validation"] == count
    for lead in summary["choice"]["leads"]:
        assert lead["paired"]
        assert lead["images"] == count
    assert f": {count} labeled images left out in turn " in summary["choice"]["says"]
    assert "validation image" not in summary["choice"]["says"]
    report = (crossed / "report.html").read_text()
    assert "each labeled image, left out of trainings in turn" in report
    assert "on validation: labeled images that were left out of" in report


def test_it_goes_on_and_is_known_without_its_images(
    tiny_run, folders, crossed, three_generations, tmp_path, capsys
):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(crossed, workdir)
    shutil.copytree(folders, moved)

    assert main(line(tiny_run, moved, workdir, three_generations)) == 0
    stages = [row for row in capsys.readouterr().out.splitlines() if row[:1] == "["]
    assert all(row.endswith("finished already, skipped") for row in stages)
    shutil.rmtree(moved)
    assert main(["status", f"--workdir={workdir}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] is True


def test_a_plan_counts_no_image_twice(
    tiny_run, folders, crossed, run, three_generations, capsys
):
    asked = line(
        tiny_run, folders, crossed, three_generations, "--json", command="plan"
    )
    assert main(asked) == 0

    facts = json.loads(capsys.readouterr().out)
    sizes = {name: len(part) for name, part in run.dataset.parts().items()}
    assert facts["splits"] == sizes
    flops = run.student(0).cost.flops
    assert facts["generations"][0]["evaluate_flops"] == sizes["test"] * flops


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--config.train=all",), "generation_0 is no head that is solved"),
        (
            ("--config.control.train.optimizer=adamw",),
            "control is no head that is solved",
        ),
        (
            ("--config.selection.method=paper",),
            "generation_1 does not learn from pseudo-labels at their natural shares",
        ),
        (("--config.teacher={given}",), "the teacher that is given may have learned"),
    ],
)
def test_where_it_cannot_be_done_nothing_is_computed(
    more, why, tiny_run, folders, tmp_path, capsys
):
    given = tiny_run / "generation_1" / "model"
    more = [flag.format(given=given) for flag in more]

    told = mistake(capsys, *line(tiny_run, folders, tmp_path / "w", *more))

    assert told.startswith("config.data.validation_fraction is 0, so that each labeled")
    assert f", but {why}" in told
    assert told.endswith(
        ": hold some out with --config.data.validation_fraction=0.1, or give others"
        " with --config.validation=DIR"
    )
    assert not (tmp_path / "w" / "prepared").exists()


def test_a_pool_that_is_too_large_is_refused(
    tiny_run, folders, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("noisy_student_jax.generation.left_out.MOST_FOLD_LABELS", 500)

    told = mistake(capsys, *line(tiny_run, folders, tmp_path / "w"))

    assert "but the pool is too large to be labeled once" in told


def test_classes_of_one_image_leave_nothing_to_learn_from(
    tiny_run, folders, tmp_path, capsys
):
    single = "--config.data.labels_per_class=1"

    told = mistake(capsys, *line(tiny_run, folders, tmp_path / "w", single))

    assert "but no class has two of them" in told


def test_weights_that_have_learned_from_labeled_images_are_refused(
    tiny_run, folders, crossed, tmp_path, capsys
):
    own = f"--config.init={crossed / 'generation_1' / 'model'}"

    told = mistake(capsys, *line(tiny_run, folders, tmp_path / "w", own))

    assert "labeled images, which are left out of trainings in turn, are among" in told

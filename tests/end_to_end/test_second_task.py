"""Find the bright square: a second task goes through the whole loop.

Task, data and model are in ``tests/outside``; the package knows nothing of them.
"""

import contextlib
import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outside.bright_square import CELLS, TOLERANCE, BrightSquare
from support import ROOT

from noisy_student_jax.cli.main import main
from noisy_student_jax.config import load
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.evaluation import resampling
from noisy_student_jax.generation import streams
from noisy_student_jax.runs.run import Run

CONFIG = ROOT / "tests" / "configs" / "bright_square.py"
CHANCE = (2 * TOLERANCE) ** 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("squares") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["run", f"--config={CONFIG}", f"--workdir={workdir}"]) == 0
    workdir.with_name("said").write_text(out.getvalue())
    return workdir


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run / "summary.json").read_text())


def test_the_task_is_small_and_the_package_does_not_know_it():
    lines = (ROOT / "tests/outside/bright_square.py").read_text().splitlines()
    assert len(lines) < 120
    for path in (ROOT / "noisy_student_jax").rglob("*.py"):
        assert "bright_square" not in path.read_text()


def test_it_learns(summary):
    assert summary["primary_metric"] == "found"
    assert summary["classes"][0] == "top left"
    assert [g["generation"] for g in summary["generations"]] == [0, 1]
    for entry in [*summary["generations"], summary["control"]]:
        assert entry["metrics"]["found"] > 5 * CHANCE
        assert entry["metrics"]["distance"] < TOLERANCE
        assert entry["validation"]["found"] > 5 * CHANCE
    assert summary["generations"][1]["pseudo_labeled"] > 50


def test_its_verdict_is_told(run, summary, capsys):
    says = summary["verdict"]["says"]
    assert re.match(
        r"student \d+\.\d %, labels-only \d+\.\d %, difference .* on 120 test images: ",
        says,
    )
    assert says in (run / "README.md").read_text()
    assert (run / "report.html").stat().st_size > 0
    capsys.readouterr()
    assert main(["report", f"--config={CONFIG}", f"--workdir={run}"]) == 0
    out = capsys.readouterr().out
    assert "finished already, skipped" in out
    assert "found raw  found EMA" in out


def test_its_metric_is_no_mean_over_images_and_has_intervals(run, summary):
    task = BrightSquare(summary["classes"])
    for entry in summary["generations"]:
        folder = run / f"generation_{entry['generation']}"
        statistics = pq.read_table(folder / "predictions.parquet")["primary"]
        statistics = statistics.combine_chunks()
        assert statistics.type.names == ["found", "quadrant"]
        assert task.primary(statistics).tolist() == [entry["metrics"]["found"]]
        low, high = resampling.interval(
            statistics, task.primary, confidence=0.95, samples=1000, seed=0
        )
        assert entry["interval"] == [low, high]
        assert entry["intervals"] == {"found": [low, high]}
    verdict = summary["verdict"]
    assert verdict["only_student_right"] is verdict["only_rival_right"] is None
    assert all(lead["paired"] for lead in summary["choice"]["leads"])
    assert "Where they differ" not in (run / "report.html").read_text()


def test_its_sidecars_hold_its_own_columns(run):
    paths = sorted((run / "generation_0/labels").glob("shard_*.parquet"))
    assert len(paths) == 3
    table = pa.concat_tables(pq.read_table(path) for path in paths)
    assert table.column_names == ["key", "status", "label", "score", "center"]
    assert table.schema.field("center").type == pa.list_(pa.float32())
    centers = np.array(table["center"].to_pylist())
    assert centers.shape == (160, 2)
    quadrant = 2 * (centers[:, 0] >= 0.5) + (centers[:, 1] >= 0.5)
    np.testing.assert_array_equal(table["label"].to_numpy(), quadrant)
    score = table["score"].to_numpy()
    assert ((score > 0) & (score <= 1 + 1e-6)).all()
    metadata = pq.read_schema(paths[0]).metadata
    assert metadata[b"noisy_student.task"] == b"outside.bright_square:BrightSquare"
    assert metadata[b"noisy_student.classes"] == b"4"


def test_its_students_learn_from_the_stored_centers(run):
    selection = run / "generation_0/selection"
    plan, picks = pq.read_table(selection / "plan.parquet"), selection / "picks.npy"
    stored = np.load(selection / "targets" / "center.npy")
    assert stored.shape == (len(plan), 2)
    assert np.bincount(plan["label"].to_numpy(), weights=plan["copies"]).tolist() == [
        60,
        30,
        30,
        30,
    ]
    assert np.load(picks).shape == (150, 2)
    entries = [json.loads(line) for line in metrics(run, "generation_1")]
    losses = [entry["pseudo/loss"] for entry in entries if "pseudo/loss" in entry]
    assert losses[-1] < np.log(len(CELLS))
    assert any("validation/ema/found" in entry for entry in entries)


def test_its_choice_within_records_is_told(run):
    kept = json.loads((run / "generation_0/selection/selection.json").read_text())
    assert list(kept["facts"]["mean coordinate"]) == ["labeled", "pseudo-labeled"]
    assert kept["warnings"] == ["look at a few squares"]
    page = (run / "report.html").read_text()
    assert "<dt>mean coordinate</dt><dd>labeled 0." in page
    said = run.with_name("said").read_text()
    assert re.search(r"  mean coordinate: labeled 0\.\d+, pseudo-labeled 0\.\d+", said)
    assert "WARNING: look at a few squares" in said


def test_its_labeled_records_are_repeated(run):
    opened = Run(load(CONFIG), run, interruption=Interruption())
    learned = streams.make(opened.student(1))
    repeats = np.bincount(learned.labeled.picks[:, 0])
    in_first = (learned.labeled.targets["center"] < 0.5).all(axis=1)
    np.testing.assert_array_equal(repeats, 1 + in_first)
    assert set(repeats) == {1, 2}


def metrics(run, generation: str) -> list[str]:
    return (run / generation / "train" / "metrics.jsonl").read_text().splitlines()

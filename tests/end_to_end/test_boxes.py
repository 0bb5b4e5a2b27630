"""The whole loop with boxes in place of classes, on discs and squares."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import TINY_BOXES

from noisy_student_jax.cli.main import main


def line(workdir, *more):
    return ["run", f"--config={TINY_BOXES}", f"--workdir={workdir}", *more]


@pytest.fixture(scope="module")
def run(tiny_boxes_run):
    return tiny_boxes_run


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def test_it_learns(summary):
    """Models that find nothing have an average precision of 0."""
    assert summary["primary_metric"] == "AP"
    for entry in [*summary["generations"], summary["control"]]:
        metrics = entry["metrics"]
        assert metrics["AP50"] > 0.3
        assert metrics["AP"] < metrics["AP50"]
        assert {"AP75", "AR100", "AP/disc", "AP/square"} <= metrics.keys()
    assert summary["generations"][1]["pseudo_labeled"] == 60


def test_its_verdict_compares_resampled_images(run, summary):
    assert "on 24 test images" in summary["verdict"]["says"]
    assert summary["verdict"]["says"] in (run / "README.md").read_text("utf-8")
    assert (run / "report.html").stat().st_size > 0


def test_a_student_learns_from_boxes_above_the_thresholds_of_their_classes(run):
    selection = run / "generation_0" / "selection"
    plan = pq.read_table(selection / "plan.parquet")
    kinds, scores, classes = (
        np.load(selection / "targets" / f"{name}.npy")
        for name in ("kinds", "scores", "classes")
    )
    assert len(plan) == len(kinds) == 60
    facts = json.loads((selection / "selection.json").read_text("utf-8"))["facts"]
    for label, name in enumerate(("disc", "square")):
        taken = scores[(kinds == 1) & (classes == label)]
        # Sure ones, too, where a surer one of the other class overlaps with them.
        ignored = scores[(kinds == 2) & (classes == label)]
        assert taken.min() >= facts["threshold"][name] - 1e-3
        assert ignored.min() >= 0.1
    assert (kinds == 0).all(axis=1).any(), "images without objects are learned from too"


def test_stopped_in_the_middle_of_a_student_it_ends_the_same(run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    # As a run that was killed after its checkpoint at step 40.
    for name in ("generation_1.train", "generation_1.evaluate", "report"):
        (workdir / "ledger" / f"{name}.json").unlink()
    student = workdir / "generation_1"
    shutil.rmtree(student / "model")
    shutil.rmtree(student / "train" / "raw_model")
    for last in (student / "train" / "checkpoints").glob("step_00000060*"):
        shutil.rmtree(last) if last.is_dir() else last.unlink()

    assert main(line(workdir)) == 0

    assert digest(workdir) == digest(run)
    resumed = json.loads((workdir / "ledger/generation_1.train.json").read_text())
    assert resumed["counts"]["images_drawn"] == 60 * 24


def digest(workdir):
    weights = workdir / "generation_1" / "model" / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()

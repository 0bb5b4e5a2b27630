"""The paper's L2 recipe is run, with small models and images and a short schedule."""

import importlib.util
import json
import pathlib
from collections import Counter

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import ROOT

from noisy_student_jax import config as configs
from noisy_student_jax.cli.main import main
from noisy_student_jax.core import sharding
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.types import LABELED, PSEUDO
from noisy_student_jax.generation import streams
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.runs.run import Run

STUDENTS = (1, 2, 3)
FROZEN = ("stem_conv", "stem_bn", "blocks_0")
EVERY = 60  # draws of each class
STAGES = [
    "data",
    "contact_sheet",
    *(f"generation_0/{stage}" for stage in ("train", "evaluate", "label", "select")),
    *(
        f"generation_{student}/{stage}"
        for student in (1, 2)
        for stage in ("train", "fixres", "evaluate", "label", "select")
    ),
    *(f"generation_3/{stage}" for stage in ("train", "fixres", "evaluate")),
    "report",
]


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """The command line of the launch script; its records are written."""
    path = ROOT / "launch" / "miniature.py"
    spec = importlib.util.spec_from_file_location("miniature", path)
    miniature = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(miniature)
    return miniature.line(tmp_path_factory.mktemp("miniature") / "run")


@pytest.fixture(scope="module")
def workdir(line):
    """The directory of the finished run. Do not change it."""
    assert main(line) == 0
    (flag,) = (flag for flag in line if flag.startswith("--workdir="))
    return pathlib.Path(flag.partition("=")[2])


@pytest.fixture(scope="module")
def run(workdir):
    config = configs.from_json(workdir / "config.json")
    return Run(config, workdir, interruption=Interruption())


def read(path):
    return json.loads(path.read_text())


def plan(workdir, teacher):
    table = pq.read_table(workdir / f"generation_{teacher}/selection/plan.parquet")
    return table.to_pydict()


def labels(workdir, teacher):
    """What a teacher says of each record of the pool, by key."""
    shards = sorted(workdir.glob(f"generation_{teacher}/labels/shard_*"))
    rows = pa.concat_tables([pq.read_table(path) for path in shards]).to_pylist()
    return {row["key"]: row for row in rows}


@pytest.mark.parametrize(("student", "ratio"), [(1, 14), (2, 14), (3, 28)])
def test_a_batch_has_so_many_pseudo_labeled_images_for_each_labeled_one(
    workdir, run, student, ratio
):
    entry = read(workdir / "summary.json")["generations"][student]
    steps = run.student(student).spec.schedule.steps
    refining = run.student(student).final.spec.schedule.steps

    assert (steps, refining) == (15, 8)
    assert entry["images_drawn"] == steps * 8 * (1 + ratio) + refining * 8
    assert entry["pseudo_labeled"] == len(plan(workdir, student - 1)["key"])


def test_both_streams_of_the_last_batches_are_noised(run):
    student = run.student(3)
    pipeline = streams.open_pipeline(
        student,
        streams.make(student),
        sharding.make_mesh(),
        student.spec.model.preprocessing,
    )
    try:
        batch, drawn = pipeline(5), pipeline.records(5)
    finally:
        pipeline.close()

    stream = np.asarray(batch["stream"])
    assert Counter(stream.tolist()) == {LABELED: 8, PSEUDO: 8 * 28}
    assert batch["image"].shape[1:] == (64, 64, 3)
    assert np.all(np.asarray(batch["weight"]) == 1)
    for name in ("dropout", "stochastic_depth"):
        assert np.all(np.asarray(batch["noise"][name]) == 1)
    # Noise differs between the draws of a record.
    images = np.asarray(batch["image"])[stream == PSEUDO]
    key, count = Counter(drawn["pseudo"]).most_common(1)[0]
    same = images[[one == key for one in drawn["pseudo"]]]
    assert len(np.unique(same, axis=0)) == count > 1
    for own in (student.spec.config.noise[name] for name in ("labeled", "pseudo")):
        assert (own.randaugment_layers, own.randaugment_magnitude) == (2, 27)
        assert own.crop_area == 0.08 and own.flip


def test_rare_classes_are_repeated_until_each_class_has_as_many_draws(workdir):
    own = plan(workdir, 0)
    predicted = Counter(row["label"] for row in labels(workdir, 0).values())
    kept, draws = Counter(own["label"]), Counter()
    for label, copies in zip(own["label"], own["copies"], strict=True):
        draws[label] += copies

    assert sorted(predicted) == [0, 1, 2]
    assert draws == dict.fromkeys(predicted, EVERY)
    assert kept == {label: min(n, EVERY) for label, n in predicted.items()}
    # The first class is cut, and the others are repeated.
    assert predicted[0] > EVERY
    for label, copies in zip(own["label"], own["copies"], strict=True):
        assert copies in (EVERY // kept[label], EVERY // kept[label] + 1)
    assert max(own["copies"]) > 1
    picks = np.load(workdir / "generation_0/selection/picks.npy")
    assert len(picks) == 3 * EVERY


@pytest.mark.parametrize("teacher", [1, 2])
def test_a_later_teacher_labels_the_records_that_the_first_one_selected(
    workdir, teacher
):
    first, later = plan(workdir, 0), plan(workdir, teacher)
    said = labels(workdir, teacher)
    folder = workdir / f"generation_{teacher}"
    targets = np.load(folder / "selection/targets/probabilities.npy")
    before = np.load(workdir / "generation_0/selection/targets/probabilities.npy")
    summary = read(folder / "selection/selection.json")

    assert (later["key"], later["copies"]) == (first["key"], first["copies"])
    assert later["label"] == [said[key]["label"] for key in later["key"]]
    expected = [said[key]["probabilities"] for key in later["key"]]
    np.testing.assert_array_equal(targets, np.array(expected, np.float16))
    assert not np.array_equal(targets, before)
    # The teacher is the fine-tuned one.
    assert summary["labels"]["model_sha256"] == bundles.read(folder / "model").sha256


@pytest.mark.parametrize("student", STUDENTS)
def test_fixres_trains_at_a_higher_resolution_behind_frozen_blocks(workdir, student):
    before = bundles.read(workdir / f"generation_{student}/before_fixres")
    after = bundles.read(workdir / f"generation_{student}/model")

    sides = [one.preprocessing.resolution for one in (before, after)]
    assert sides == [64, 96]
    assert after.origin["fixres"]["frozen_blocks"] == 1
    for collection in ("params", "batch_stats"):
        for module, was in before.variables[collection].items():
            now = after.variables[collection][module]
            same = jax.tree.leaves(jax.tree.map(np.array_equal, was, now))
            assert all(same) == (module in FROZEN), (collection, module)


def test_models_compute_in_bfloat16_and_keep_weights_in_float32(workdir):
    for generation in (0, *STUDENTS):
        bundle = bundles.read(workdir / f"generation_{generation}/model")
        assert bundle.arguments["dtype"] == "bfloat16"
        leaves = jax.tree.leaves(bundle.variables)
        assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def test_every_generation_is_evaluated_and_reported(workdir):
    report = (workdir / "report.html").read_text()
    for generation in (0, *STUDENTS):
        evaluation = read(workdir / f"generation_{generation}/evaluation.json")
        bundle = bundles.read(workdir / f"generation_{generation}/model")
        assert evaluation["sha256"] == bundle.sha256
        assert evaluation["splits"]["test"]["images"] == 24
        assert f"generation {generation}" in report
    # Labels are counted from 1 in the records, and from 0 here.
    summary = read(workdir / "summary.json")
    assert summary["classes"] == ["0", "1", "2"]
    assert summary["splits"]["pool"] == 145
    # Relabeling passes on what the first selection was.
    assert report.count("not in the plan, which is kept") == 2


def test_the_ledger_has_every_stage_and_the_same_command_does_nothing(
    workdir, line, capsys
):
    assert main(["status", f"--workdir={workdir}", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in status["stages"]] == STAGES
    assert status["finished"]
    assert main(line) == 0

    out = capsys.readouterr().out
    assert out.count("finished already, skipped") == len(STAGES)

"""What was written before goes on: runs, bundles and decisions of older versions.

``tests/witnesses`` keeps what each version of a format wrote. Version 0.1 spelled keys
as in ``labelled``, and had a value of its own for every field left open; its run was
killed after the checkpoint of step 8 of 12 of the second generation.
"""

import json
import shutil
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from people import line
from support import ROOT, TINY

from noisy_student_jax import config as configs
from noisy_student_jax import tasks
from noisy_student_jax.cli.main import main
from noisy_student_jax.core import files
from noisy_student_jax.core.devices import processor
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.planning import auto_config
from noisy_student_jax.runs.ledger import environment_changes

WITNESSES = ROOT / "tests" / "witnesses"
FINISHED = (
    "data",
    "generation_0/train",
    "generation_0/evaluate",
    "generation_0/label",
    "generation_0/select",
)
WEIGHTS = "model/model.safetensors"
FOLDER_OF_0_1 = ROOT / "tests" / "configs" / "folder_of_0_1.py"
PROCESSOR = "x86_64-fff8d890470f"
"""That the witness was made on: results are bit-equal on one kind of machine."""


def unpacked(name, folder):
    """The folder that a witness is in now."""
    with tarfile.open(WITNESSES / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def of_run(workdir, command="run", *more):
    return [command, f"--config={TINY}", f"--workdir={workdir}", *more]


@pytest.fixture
def stopped(tmp_path):
    """A run of 0.1 that was killed in the middle of a training."""
    return unpacked("run_of_0_1", tmp_path / "run")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The same, to its end by this version; and what that printed. Do not change it."""
    workdir = unpacked("run_of_0_1", tmp_path_factory.mktemp("older") / "run")
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr(
            "noisy_student_jax.core.console.say", lambda *a, **_: said.append(a)
        )
        assert main(of_run(workdir)) == 0
    return workdir, "\n".join(str(one[0]) if one else "" for one in said)


def test_the_witness_is_of_before(stopped):
    kept = json.loads((stopped / "config.json").read_text())
    record = json.loads((stopped / "ledger/generation_0.train.json").read_text())

    assert kept["noise"].keys() == {"labelled", "pseudo"}
    assert kept["model"]["dropout_rate"] == -1.0
    assert "labelled" in record["counts"]
    assert not (stopped / "generation_1" / "model").exists()


def test_a_stopped_run_resumes_and_redoes_no_finished_stage(resumed):
    _, out = resumed

    for stage in FINISHED:
        assert f"{stage}: finished already, skipped" in out
    assert "generation_1/train: resuming" in out
    assert "continues from the checkpoint of step 8" in out


def test_finished_stages_keep_every_byte(resumed, stopped):
    workdir, _ = resumed

    for path in ("generation_0/evaluation.json", f"generation_0/{WEIGHTS}"):
        assert (workdir / path).read_bytes() == (stopped / path).read_bytes()
    for folder in ("labels", "selection"):
        made = [
            p for p in (stopped / "generation_0" / folder).rglob("*") if p.is_file()
        ]
        assert made
        for path in made:
            kept = workdir / path.relative_to(stopped)
            assert kept.read_bytes() == path.read_bytes()


def test_its_end_is_that_of_an_unbroken_run(resumed, stopped):
    # From the same labels, the second generation from its first step on.
    shutil.rmtree(stopped / "generation_1")
    started = stopped / "ledger" / "generation_1.train.started.json"
    there = files.read_json(started)["environment"]
    started.unlink()
    assert main(of_run(stopped)) == 0

    workdir, _ = resumed
    ours, theirs = (files.read_json(one / "summary.json") for one in (workdir, stopped))
    for key in ("labeled", "pseudo_labeled", "images_drawn"):
        assert ours["generations"][1][key] == theirs["generations"][1][key]
    if processor() != PROCESSOR or environment_changes(there):
        return  # the first eight steps are equal to rounding only
    ours, theirs = (one / "generation_1" / WEIGHTS for one in (workdir, stopped))
    assert files.sha256(ours) == files.sha256(theirs)


def test_once_finished_it_is_finished_for_good(resumed, capsys):
    workdir, _ = resumed

    assert main(of_run(workdir)) == 0

    stages = [row for row in capsys.readouterr().out.splitlines() if row[:1] == "["]
    assert len(stages) == 11
    assert all(row.endswith("finished already, skipped") for row in stages)


def test_status_reads_its_config(stopped, capsys):
    assert main(["status", f"--workdir={stopped}", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    states = {row["stage"]: row["state"] for row in found["stages"]}
    assert {name for name, state in states.items() if state == "finished"} == {
        *FINISHED
    }
    assert states["generation_1/train"] == "started"


def test_its_config_is_that_of_today(stopped):
    kept = configs.from_json(stopped / "config.json")
    # The layers that `auto` takes here had no other name.
    today = configs.load(
        TINY, ["--config.checkpoint.keep=1", "--config.model.layers=own"]
    )

    assert configs.plain(kept) == configs.plain(today)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("noise.labeled.flip=true", "config.noise.labeled.flip: False → True"),
        ("model.dropout_rate=0.1", "config.model.dropout_rate: none → 0.1"),
        ("labels.top_k=3", "config.labels.top_k: none → 3"),
    ],
)
def test_a_changed_setting_is_still_named(stopped, capsys, override, says):
    assert main(of_run(stopped, "run", f"--config.{override}")) == 2

    assert says in capsys.readouterr().err


def test_a_bundle_opens_and_predicts_what_one_of_today_does(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    older = bundles.read(WITNESSES / "bundle_of_0_1")
    bundles.write(older, tmp_path / "today")
    predicted = []
    for bundle in (older, bundles.read(tmp_path / "today")):
        predict = Predictor.from_bundle(
            bundle, tasks.create(bundle.task, bundle.classes), batch=4
        )
        ready = bundle.preprocessing.apply_all(list(images))
        predicted.append(predict(predict.place(bundle.variables), ready)["logits"])

    np.testing.assert_array_equal(*predicted)
    assert np.ptp(predicted[0]) > 0
    assert bundles.read(tmp_path / "today").sha256 == older.sha256


def test_a_bundle_is_a_teacher_as_before(tmp_path, capsys):
    flag = f"--config.teacher={WITNESSES / 'bundle_of_0_1'}"

    assert main(of_run(tmp_path / "run", "prepare", flag)) == 0

    kept = configs.from_json(tmp_path / "run" / "config.json")
    assert kept.generations[0].model.batch_norm_group is None


def test_ones_own_images_stay_in_their_parts_and_decisions_stay(
    tmp_path, capsys, monkeypatch
):
    unpacked("own_images_of_0_1", tmp_path)
    workdir = tmp_path / "run"
    before = json.loads((workdir / "decisions.json").read_text())
    splits = pq.read_table(workdir / "data" / "splits.parquet").to_pydict()
    dealt = next((workdir / "prepared").glob("splits_*.parquet"))
    assert "labelled" in pq.read_table(dealt)["part"].to_pylist()

    def anew(*_):
        raise AssertionError("it was decided anew")

    monkeypatch.setattr(auto_config, "decide", anew)
    asked = line("prepare", tmp_path / "people", workdir, f"--config={FOLDER_OF_0_1}")
    assert main(asked) == 0

    assert "data: finished already, skipped" in capsys.readouterr().out
    assert pq.read_table(workdir / "data" / "splits.parquet").to_pydict() == splits
    after = json.loads((workdir / "decisions.json").read_text())
    assert [row["why"] for row in after["decisions"]] == [
        row["why"] for row in before["decisions"]
    ]
    shutil.rmtree(workdir / "data")
    # What is dealt anew is dealt as it was.
    assert main([*asked, "--again"]) == 0
    again = pq.read_table(workdir / "data" / "splits.parquet").to_pydict()
    assert again["key"] == splits["key"]
    assert again["part"] == [
        part.replace("labelled", "labeled") for part in splits["part"]
    ]

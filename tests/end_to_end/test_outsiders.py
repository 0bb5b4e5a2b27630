"""A model, a data source and a task from outside, by name, without touching ours."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from outside.gray import CLASSES, Images
from PIL import Image
from support import ROOT, command

from noisy_student_jax.cli.main import main

CONFIG = ROOT / "tests" / "configs" / "gray.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("gray") / "run"
    assert main(["run", f"--config={CONFIG}", f"--workdir={workdir}"]) == 0
    return workdir


def test_the_whole_loop_with_all_three(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["task"] == "outside.gray:Errors"
    assert summary["dataset"] == "gray"
    assert summary["splits"] == {
        "train": 12,
        "validation": 20,
        "test": 30,
        "pool": 40,
    }
    assert summary["primary_metric"] == "right"
    for entry in [*summary["generations"], summary["control"]]:
        assert entry["model"] == "outside.gray:averages"
        assert entry["parameters"] == 3 * 4 + 4 + 4 * 2 + 2
        assert entry["metrics"] == {"right": pytest.approx(1, abs=0.2)}


def test_the_bundle_names_them(run):
    card = json.loads((run / "best" / "model.json").read_text())
    assert card["architecture"] == "outside.gray:averages"
    assert card["arguments"] == {"outputs": 2}
    assert card["task"] == "outside.gray:Errors"
    assert card["classes"] == list(CLASSES)
    assert card["preprocessing"]["resolution"] == 8


def test_predict_from_its_bundle_is_what_evaluation_saw(run, tmp_path, capsys):
    source, paths = Images("test", 30), []
    for index in range(len(source)):
        paths.append(tmp_path / source.key(index))
        Image.fromarray(source.image(index)).save(paths[-1])
    line = ["predict", f"--model={run / 'generation_1/model'}", "--json", "--trust"]
    capsys.readouterr()
    assert main([*line, *map(str, paths)]) == 0
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    recorded = pq.read_table(run / "generation_1" / "predictions.parquet")
    assert recorded["key"].to_pylist() == [path.name for path in paths]
    assert [row["index"] for row in rows] == recorded["label"].to_pylist()
    assert [row["class"] for row in rows] == [CLASSES[row["index"]] for row in rows]
    np.testing.assert_allclose(
        [row["probability"] for row in rows], recorded["score"].to_numpy(), rtol=1e-5
    )


@pytest.mark.parametrize("name", ["averages", "efficientnet_test"])
def test_one_of_ours_and_theirs_mix(name, tmp_path, capsys):
    model = "outside.gray:averages" if name == "averages" else name
    line = [f"--config={CONFIG}", f"--config.model.name={model}"]
    assert main(["plan", "--json", *line, "--config.task=classification"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [g["model"] for g in facts["generations"]] == [model, model]


def test_in_a_process_with_a_python_path(run, tmp_path):
    Image.fromarray(Images("test", 2).image(1)).save(tmp_path / "one.png")
    line = ["predict", f"--model={run / 'best'}", "--json", tmp_path / "one.png"]
    process = command(*line)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "needs code from outside this package, 'outside.gray:averages'" in err
    line.append("--trust")
    out, err = command(*line).communicate(timeout=120)
    assert json.loads(out)["class"] == "bright", err
    process = command(*line, env={"PYTHONPATH": str(ROOT)})
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "cannot import 'outside'; is it installed, or on PYTHONPATH?" in err
    assert "Traceback" not in err


def test_a_part_without_images_is_told_before_anything_runs(tmp_path, capsys):
    line = [f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}"]
    assert main(["run", *line, "--config.data.options.pool=0"]) == 2
    assert "the pool part of dataset 'gray' is empty" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

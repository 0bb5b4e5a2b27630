"""A whole study: tables, differences and sentences of some models on a target."""

import json

import numpy as np
import pytest
from made_up_bundles import make_target, write_bundle

from noisy_student_jax.cli.main import main
from noisy_student_jax.studies.transfer import text

SHOTS = ["1-shot", "5-shot"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def asked(folder, tmp_path_factory):
    """Returns a command line without its output."""
    place = tmp_path_factory.mktemp("study")
    names = ("teacher", "student", "control")
    models = [
        f"{name}={write_bundle(place / name, seed=seed)}"
        for seed, name in enumerate(names)
    ]
    # The weights of seed 0 are those that are drawn as random.
    return [
        "transfer",
        f"--models={','.join(models)},random",
        f"--target={folder}",
        "--shots=5,1",
        f"--workdir={place / 'work'}",
    ]


@pytest.fixture(scope="module")
def found(asked, tmp_path_factory):
    output = tmp_path_factory.mktemp("result") / "transfer.json"
    assert main([*asked, f"--output={output}"]) == 0
    return json.loads(output.read_text())


def test_each_model_has_a_probe_of_each_number_of_shots(found):
    names = [one["name"] for one in found["models"]]
    assert names == ["teacher", "student", "control", "random"]
    for one in found["models"]:
        assert list(one["probe"]) == SHOTS
        for own in one["probe"].values():
            assert len(own["accuracies"]) == len(own["penalties"]) == found["draws"]
            assert own["mean"] == pytest.approx(np.mean(own["accuracies"]))
            assert own["sd"] == pytest.approx(np.std(own["accuracies"], ddof=1))


def test_probes_see_the_colors_that_tell_classes_apart(found):
    for one in found["models"]:
        assert one["probe"]["5-shot"]["mean"] > 0.6


def test_the_same_weights_have_the_same_probes(found):
    teacher, student, _, random = found["models"]

    assert teacher["probe"] == random["probe"]
    assert teacher["probe"] != student["probe"]


def test_differences_are_from_the_teacher_and_from_the_control(found):
    pairs = {(one["model"], one["against"]) for one in found["differences"]}
    assert pairs == {
        (model, rival)
        for rival in ("teacher", "control")
        for model in ("teacher", "student", "control", "random")
        if model != rival
    }
    means = {one["name"]: one["probe"] for one in found["models"]}
    for one in found["differences"]:
        ours, theirs = (means[one[k]][one["measure"]] for k in ("model", "against"))
        assert one["value"] == pytest.approx(ours["mean"] - theirs["mean"])
        assert one["low"] <= one["value"] <= one["high"]
    level = [one for one in found["differences"] if one["model"] == "random"]
    assert {one["outcome"] for one in level if one["against"] == "teacher"} == {
        "cannot tell"
    }


def test_the_effect_of_self_training_is_told(found):
    (one,) = found["effects"]

    gap = next(
        one
        for one in found["differences"]
        if (one["model"], one["against"], one["measure"])
        == ("student", "control", "5-shot")
    )
    assert one["says"].startswith(
        "effect of self-training (student − control): 5-shot "
    )
    assert one["says"].endswith(gap["outcome"])


def test_the_tables_show_every_model_and_measure(found):
    shown = text.told(found)

    for name in ("teacher", "student", "control", "random", *SHOTS, "±"):
        assert name in shown
    assert "36 images to learn from, 12 test images of 3 classes" in shown
    assert "points more than teacher, 95% intervals" in shown
    assert shown.splitlines()[-1] == found["effects"][0]["says"]
    assert "source" not in shown and "fine-tuned" not in shown


def test_what_runs_have_measured_is_shown_beside(found):
    models = [dict(one) for one in found["models"]]
    models[1]["source"] = {"top1": 0.873, "ece": 0.0412, "nll": 1.0}

    shown = text.told({**found, "models": models}).splitlines()
    head, _, student = shown[2:5]
    assert head.split()[:3] == ["parameters", "source", "ECE"]
    assert student.split()[2:4] == ["87.3", "0.041"]


def test_the_command_prints_json_from_features_that_are_kept(asked, found, capsys):
    assert main([*asked, "--json"]) == 0

    out, err = capsys.readouterr()
    assert json.loads(out) == found
    assert "features of" not in err

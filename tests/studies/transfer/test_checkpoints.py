"""Which models a study of transfer compares, from what names them."""

import dataclasses

import jax
import numpy as np
import pytest
from made_up_bundles import write_bundle

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.studies.transfer import checkpoints


def read(given, *, trust=False):
    return checkpoints.read(str(given), trust=trust)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns what a run of a teacher, a student and a control leaves of models."""
    folder = tmp_path_factory.mktemp("made") / "run"
    for seed, name in enumerate(("generation_0", "generation_1", "control")):
        write_bundle(folder / name / "model", seed=seed)
    files.write_json(folder / "config.json", {})
    return folder


def test_a_bundle_is_named_as_said_or_by_its_folder(run):
    found = read(f"mine={run / 'control' / 'model'},{run / 'generation_1' / 'model'}")

    assert [one.name for one in found] == ["mine", "generation_1"]
    assert found[0].init == str(run / "control" / "model")


def test_the_models_of_a_run_are_named_by_their_roles(run):
    assert [one.name for one in read(run)] == ["teacher", "student", "control"]


def test_several_students_are_numbered(run, tmp_path):
    files.copy_folder(run, tmp_path / "longer")
    write_bundle(tmp_path / "longer" / "generation_2" / "model", seed=7)

    names = [one.name for one in read(tmp_path / "longer")]
    assert names == ["teacher", "student_1", "student_2", "control"]


def test_random_has_the_architecture_of_the_first_bundle_and_other_weights(run):
    random, first, *_ = read(f"random,{run}")

    assert random.name == random.init == "random"
    assert random.parameters == first.parameters
    assert random.bundle.preprocessing == first.bundle.preprocessing
    shapes = [jax.tree.map(np.shape, one.bundle.variables) for one in (random, first)]
    assert shapes[0] == shapes[1]
    last = read(run)[1].bundle.variables["params"]
    assert not all(
        np.array_equal(ours, theirs)
        for ours, theirs in zip(
            jax.tree.leaves(random.bundle.variables["params"]),
            jax.tree.leaves(last),
            strict=True,
        )
    )


def test_parameters_are_counted_without_those_of_the_classes(run):
    (found,) = read(f"a={run / 'control' / 'model'}")

    params = found.bundle.variables["params"]
    head = sum(leaf.size for leaf in jax.tree.leaves(params["classifier"]))
    assert head
    assert found.parameters + head == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_what_a_run_measured_of_a_model_is_found(run, tmp_path):
    files.copy_folder(run, tmp_path / "run")
    student = tmp_path / "run" / "generation_1"
    sha256 = bundles.read(student / "model").sha256
    metrics = {"top1": 0.75, "ece": 0.125, "nll": None}
    evaluation = {"sha256": sha256, "splits": {"test": {"ema": metrics}}}
    files.write_json(student / "evaluation.json", evaluation)
    worn = {"sha256": sha256, "mean_error": 0.5}
    files.write_json(student / "robustness" / "corruptions.json", worn)

    teacher, found, _ = read(tmp_path / "run")
    assert found.source() == {"top1": 0.75, "ece": 0.125, "corrupted": 0.5}
    assert teacher.source() == {}


def test_what_was_measured_of_other_weights_does_not_count(run, tmp_path):
    files.copy_folder(run, tmp_path / "run")
    evaluation = {"sha256": "0" * 64, "splits": {"test": {"ema": {"top1": 1.0}}}}
    files.write_json(tmp_path / "run" / "control" / "evaluation.json", evaluation)

    assert read(tmp_path / "run")[-1].source() == {}


@pytest.mark.parametrize("given", ["nowhere", "mine=nowhere", "pretrained"])
def test_what_is_no_folder_is_refused(given):
    with pytest.raises(UserError, match="is no folder: give a bundle, NAME=BUNDLE"):
        read(given)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a model bundle"):
        read(tmp_path)


def test_weights_that_nobody_publishes_are_refused():
    with pytest.raises(
        UserError, match="no package carries weights of 'efficientnet_b7'"
    ):
        read("pretrained:efficientnet_b7")


@pytest.mark.parametrize("given", ["random", ",", ""])
def test_names_without_a_bundle_are_refused(given):
    with pytest.raises(UserError, match="names no bundle"):
        read(given)


def test_two_models_of_one_name_are_refused(run):
    with pytest.raises(UserError, match="names 2 models 'teacher': tell them apart"):
        read(f"{run},teacher={run / 'control' / 'model'}")


def test_a_run_without_a_model_is_refused(tmp_path):
    files.write_json(tmp_path / "config.json", {})

    with pytest.raises(UserError, match="has no trained model yet"):
        read(tmp_path)


def test_a_detector_is_refused(run, tmp_path):
    place = write_bundle(
        tmp_path / "boxes", name="fcos_test", task="detection", side=64
    )

    with pytest.raises(UserError, match="no pooled features to probe: give classif"):
        read(place)


def test_code_that_a_bundle_names_is_used_only_if_it_is_trusted(run, tmp_path):
    own = bundles.read(run / "control" / "model")
    other = dataclasses.replace(own, task="some.module:Task")
    bundles.write(other, tmp_path / "other")

    with pytest.raises(UserError, match="needs code from outside"):
        read(tmp_path / "other")
    assert read(tmp_path / "other", trust=True)


def test_a_finished_run_gives_its_models_and_what_it_measured(tiny_run):
    found = read(tiny_run)

    assert [one.name for one in found] == ["teacher", "student", "control"]
    for one in found:
        evaluation = files.read_json(one.folder / "evaluation.json")
        test = evaluation["splits"]["test"]["ema"]
        assert one.source()["top1"] == test["top1"]
        assert one.source()["ece"] == test["ece"]

"""A model, labels or a selection that a task cannot use are refused before training."""

import numpy as np
import pytest
from outside.bright_square import BrightSquare
from support import ROOT, TINY

from noisy_student_jax import config
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.generation import preconditions
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.runs.run import Run

BOXES = ROOT / "tests" / "configs" / "tiny_boxes.py"
SQUARES = ROOT / "tests" / "configs" / "bright_square.py"
CLASSIFIER = "model.name=efficientnet_test"


@pytest.fixture
def check(tmp_path):
    def checked(path, *overrides):
        given = [f"--config.{override}" for override in overrides]
        loaded = config.load(path, given)
        run = Run(loaded, tmp_path / "run", interruption=Interruption())
        preconditions.check(run, devices=1)
        return run

    return checked


@pytest.mark.parametrize(
    ("path", "overrides", "told"),
    [
        (BOXES, [CLASSIFIER, "model.views=1"], "0: model 'efficientnet_test' finds"),
        (BOXES, ["model.framing=center_crop"], "framing is 'center_crop', which shows"),
        (
            BOXES,
            ["model.views=3"],
            "views must be 1, or 2 for the image and its",
        ),
        (
            BOXES,
            ["train.part=head"],
            r"'fcos_test' has no head that can be trained alone .*: set train\.part",
        ),
        (BOXES, ["selection.method=paper"], "_1: config.selection.method is 'paper'"),
        (BOXES, ["data.name=outside.squares:squares"], "labeled images have no boxes"),
        (TINY, ["model.name=fcos_test"], "'fcos_test' does not tell classes of whole"),
        (BOXES, ["task=classification", CLASSIFIER], "of another kind than one class"),
    ],
)
def test_what_a_task_cannot_use_is_refused(check, path, overrides, told):
    check(path)
    with pytest.raises(UserError, match=told):
        check(path, *overrides)


@pytest.mark.parametrize(
    ("part", "told"), [("labeled", "to learn from"), ("test", "to measure by")]
)
def test_a_part_without_one_object_is_refused(check, part, told):
    task = check(BOXES).task
    labels = np.zeros((9, 2, 6), np.float32)

    with pytest.raises(UserError, match=f"not one of the 9 {part} images .* {told}"):
        task.check_labels(labels, part)


def test_a_class_that_cannot_be_learned_is_named(check, capsys):
    task = check(BOXES).task
    labels = np.array([[[0, 0, 0.5, 0.5, 1, 1]]], np.float32)
    capsys.readouterr()

    task.check_labels(labels, "test")
    assert not capsys.readouterr().out
    task.check_labels(labels, "labeled")
    assert "1 of 2 classes have no box in the images to learn from, and will" in (
        capsys.readouterr().out
    )


def test_a_task_of_your_own_may_check_too(check, monkeypatch):
    asked = {"check_labels": [], "check_model": [], "check_selection": []}
    for name, seen in asked.items():
        monkeypatch.setattr(
            BrightSquare,
            name,
            lambda self, *given, seen=seen: seen.append(given),
            raising=False,
        )

    check(SQUARES)

    parts = [part for _, part in asked["check_labels"]]
    assert parts == ["labeled", "validation", "test"]
    model, outputs = asked["check_model"][0]
    assert model["name"] == "outside.squares:heat_map"
    assert outputs["logits"].shape == (1, BrightSquare.outputs)
    assert {type(one) for (one,) in asked["check_selection"]} == {SelectionOptions}

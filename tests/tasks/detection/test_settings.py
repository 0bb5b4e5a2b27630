"""Settings of a detector that follow from boxes and machine."""

import dataclasses

import pytest
from support import ROOT

from noisy_student_jax import config as configs
from noisy_student_jax.config import decisions
from noisy_student_jax.config.decisions import Facts
from noisy_student_jax.config.load import _execute
from noisy_student_jax.planning import auto_config
from noisy_student_jax.tasks.detection import settings

LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
FROZEN = "generations[0].train.frozen_blocks"


FACTS = Facts(
    machine="cpu",
    shorter_side=400,
    labeled=100,
    pool=900,
    classes=3,
    median_class=50.0,
    pretrained=LITE,
    small_box=0.1,
)


def decided(*overrides, **facts):
    given = [f"--config.{override}" for override in overrides]
    config = configs.complete(_execute(ROOT / "configs/boxes.py"), overrides=given)
    made = settings.decide(config, dataclasses.replace(FACTS, **facts))
    return {decision.field: decision.value for decision in made}


def test_published_weights_keep_their_first_blocks_on_a_cpu():
    made = decided()
    assert made["generations[0].model.name"] == "fcos_lite0"
    assert made["generations[0].model.init"] == "pretrained"
    assert made[FROZEN] == settings.FROZEN
    assert FROZEN not in decided(machine="accelerator")
    assert FROZEN not in decided(pretrained=())


@pytest.mark.parametrize("model", ["fcos_mini_m", "fcos_tiny_s", "fcos_test"])
def test_a_small_detector_of_your_own_is_trained_whole(model):
    """It has fewer blocks than are frozen of published weights."""
    made = decided(f"model.name={model}", "init=runs/earlier/best")
    assert FROZEN not in made


@pytest.mark.parametrize(
    ("small_box", "side"), [(None, 192), (0.5, 192), (0.05, 224), (0.001, 256)]
)
def test_the_resolution_shows_small_boxes(small_box, side):
    assert decided(small_box=small_box)["generations[0].model.resolution"] == side


def test_a_cpu_trains_a_teacher_and_one_student():
    assert decided()["generations"] == settings.ON_CPU
    assert "generations" not in decided(machine="accelerator")


def test_a_start_from_nothing_is_said_without_results_of_another_task():
    config = configs.complete(_execute(ROOT / "configs/boxes.py"))
    facts = dataclasses.replace(FACTS, pretrained=())
    made = settings.decide(config, facts)

    assert "start from random weights, and learn far less" in " ".join(
        decision.why for decision in made
    )
    assert auto_config.from_nothing(decisions.apply(config, made)) is None


def test_on_a_cpu_students_and_control_start_from_the_teacher():
    made = decided()
    assert made["generations[1].model.init"] == "teacher"
    assert made["control.model.init"] == "teacher"
    assert made["generations[1].train.frozen_blocks"] == settings.FROZEN

    on_accelerators = decided(machine="accelerator")
    assert on_accelerators["generations[1].model.init"] == "pretrained"


def test_a_student_of_another_model_starts_on_its_own():
    made = decided(pretrained=())
    assert made["generations[0].model.name"] == "fcos_mini_m"
    assert made["generations[1].model.name"] == "fcos_mini_l"
    assert made["generations[1].model.init"] == "random"


def test_a_start_of_your_own_is_kept():
    made = decided("init=pretrained")
    assert not any(field.endswith("model.init") for field in made)

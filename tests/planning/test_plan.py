"""What a plan reckons with, before there is anything to be measured."""

import types

from support import TINY

from noisy_student_jax import config
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.planning.plan import record_bytes, run_facts
from noisy_student_jax.runs.run import Run
from noisy_student_jax.tasks.classification import Classification


def test_a_task_tells_what_its_record_takes():
    task = Classification(("a", "b", "c"))

    assert record_bytes(task, top_k=None) == 2 * 3
    assert record_bytes(task, top_k=2) == 2 * (2 + 4)


def test_a_task_that_does_not_tell_is_taken_to_keep_two_bytes_a_class():
    task = types.SimpleNamespace(classes=("a", "b", "c"))

    assert record_bytes(task, top_k=2) == 2 * 3


def test_features_are_counted_on_disk_once_and_checkpoints_where_there_are_some():
    def disks(*overrides):
        heads = ("train.part=head", "model.init=pretrained", *overrides)
        asked = [f"--config.{one}" for one in ("model.name=efficientnet_lite0", *heads)]
        loaded = config.load(TINY, asked)
        run = Run(loaded, "nowhere", interruption=Interruption(), look_only=True)
        facts = run_facts(run)
        weights = 4 * run.student(0).cost.parameters
        return [one["disk"] for one in facts["generations"]], weights

    (teacher, student), weights = disks("train.optimizer=lbfgs", "model.views=2")
    # All of the digits, in both views, by the teacher.
    features = 2 * (30 + 1617 + 50 + 100) * 1280 * 4
    folds = 5 * 1617 * 10 * 4
    assert features + folds < teacher - 2 * weights < 1.1 * (features + folds)
    assert student < 2.1 * weights
    assert disks("train.optimizer=adamw")[0][1] > 14 * weights

"""The teacher labels in the step: un-noised, at its own resolution, and unchanged."""

import functools
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import TINY

from noisy_student_jax.cli.main import main
from noisy_student_jax.core import sharding
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import LossOptions
from noisy_student_jax.core.types import PSEUDO
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.generation import preconditions, streams
from noisy_student_jax.generation import train as generation
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.tasks.classification import Classification
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import (
    StepOptions,
    Teacher,
    TrainStep,
    jit_train_step,
)

ON = "--config.generations[1].labels.mode=on_the_fly"
OTHER_SIDE = "--config.generations[1].model.resolution=12"


def batch_of(student, step=2):
    pipeline = streams.open_pipeline(
        student,
        streams.make(student),
        sharding.make_mesh(),
        student.spec.model.preprocessing,
    )
    try:
        return pipeline(step), pipeline.records(step)["pseudo"]
    finally:
        pipeline.close()


def expected_images(student, keys):
    pool = student.run.dataset.pool
    index = {pool.key(n): n for n in range(len(pool))}
    images = pool.read([index[key] for key in keys]).images
    return student.teacher.spec.model.preprocessing.apply_all(images)


@pytest.mark.parametrize(
    "road", [(), ("--config.data.resident_gigabytes=0",)], ids=["resident", "hosted"]
)
def test_the_teacher_sees_the_same_images_without_noise_at_its_resolution(
    tiny_student, road
):
    student = tiny_student(1, ON, OTHER_SIDE, *road)
    batch, keys = batch_of(student)

    assert batch["image"].shape == (32, 12, 12, 3)
    expected = expected_images(student, keys)
    assert expected.shape == (16, 8, 8, 3)
    np.testing.assert_array_equal(batch["teacher_image"], expected)
    assert streams.make(tiny_student(1, OTHER_SIDE, *road)).second.teacher is None


def test_stored_labels_and_those_of_the_step_agree(tiny_student):
    student = tiny_student(1, ON)
    batch, keys = batch_of(student)
    teacher, taught_by = generation.teacher_of(student)
    labeled = jax.jit(teacher.label)(taught_by, batch)

    # To the rounding of the sidecar's half precision.
    pseudo = np.asarray(batch["stream"]) == PSEUDO
    np.testing.assert_allclose(
        labeled["target"][pseudo], batch["target"][pseudo], rtol=2e-3, atol=1e-6
    )
    assert not np.array_equal(labeled["target"][pseudo], batch["target"][pseudo])
    np.testing.assert_array_equal(labeled["target"][~pseudo], batch["target"][~pseudo])
    # And they are what the teacher's bundle predicts when it labels a pool.
    bundle = bundles.read(student.teacher.paths.model)
    predictor = Predictor.from_bundle(bundle, student.run.task, batch=len(keys))
    predicted = predictor(bundle.variables, expected_images(student, keys))
    np.testing.assert_allclose(
        labeled["target"][pseudo], predicted["probabilities"], rtol=1e-5, atol=1e-7
    )


class Linear(nn.Module):
    """Refuses noise and training where it teaches."""

    teaches: bool = False

    @nn.compact
    def __call__(self, images, train, noise=None):
        assert not (self.teaches and (train or noise))
        logits = nn.Dense(3, name="own")(images.reshape(len(images), -1))
        return {"logits": logits}


LAYOUT = BatchLayout(labeled=4, pseudo=8)


@functools.cache
def taught_step(microbatches, *, on_the_fly=True):
    """A step of a linear student, taught by another linear model."""
    task = Classification(tuple("abc"))
    teacher = Teacher(
        Linear(teaches=True),
        lambda outputs: task.taught_targets(task.predict(outputs)),
        mean=(0.5,),
        std=(0.3,),
    )
    optimizer = optax.sgd(0.1)
    step = TrainStep(
        Linear(),
        functools.partial(task.loss, options=LossOptions()),
        optimizer,
        lambda step: jnp.float32(0.1),
        StepOptions(ratio=2.0, weight_decay=0.1, microbatches=microbatches, group=3),
        mean=(0.5,),
        std=(0.3,),
        teacher=teacher if on_the_fly else None,
    )
    variables = {"params": {"own": {"kernel": np.ones((4, 3)), "bias": np.zeros(3)}}}
    state = TrainState.create(variables, optimizer, seed=0, generation=0)
    return teacher, step, state


def taught_batch():
    rng = np.random.default_rng(0)
    noise = {name: np.ones(12, np.float32) for name in ("dropout", "stochastic_depth")}
    return {
        "image": rng.integers(0, 256, (12, 2, 2, 1)).astype(np.uint8),
        "teacher_image": rng.integers(0, 256, (8, 3, 3, 1)).astype(np.uint8),
        "target": np.eye(3, dtype=np.float32)[rng.integers(0, 3, 12)],
        "weight": np.ones(12, np.float32),
        "stream": LAYOUT.stream(),
        "noise": noise,
    }


def taught_by():
    kernel = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    return {"params": {"own": {"kernel": kernel, "bias": np.zeros(3, np.float32)}}}


@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_each_image_gets_the_label_of_its_own_teacher_image(microbatches):
    _, step, state = taught_step(microbatches)
    batch = taught_batch()
    logits = (batch["teacher_image"].reshape(8, -1) / 255 - 0.5) / 0.3
    logits = logits @ taught_by()["params"]["own"]["kernel"]
    stored = dict(batch, target=batch["target"].copy())
    del stored["teacher_image"]
    stored["target"][LAYOUT.stream() == PSEUDO] = jax.nn.softmax(logits)

    live, _ = jax.jit(step)(state, batch, taught_by())
    _, plain, _ = taught_step(1, on_the_fly=False)
    expected, _ = jax.jit(plain)(state, stored)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        live.params,
        expected.params,
    )


def test_the_teacher_is_neither_trained_nor_saved_nor_given_away():
    _, step, state = taught_step(1)
    mesh, teacher = sharding.make_mesh(), taught_by()
    placed = jax.device_put(teacher, sharding.replicated(mesh))
    run = jit_train_step(step, mesh, taught=True)
    shapes = jax.tree.map(jnp.shape, state)
    state, first = run(jax.tree.map(jnp.copy, state), taught_batch(), placed)
    state, _ = run(state, taught_batch(), placed)

    assert jax.tree.map(jnp.shape, state) == shapes
    jax.tree.map(np.testing.assert_array_equal, placed, teacher)
    own = jax.tree.leaves(taught_step(1)[2].params)
    # Its weights are in no L2 term either.
    np.testing.assert_allclose(first["l2"], sum((w**2).sum() for w in own) / 2)


def test_a_run_goes_through_and_only_the_student_is_trained_again(
    tiny_run, tmp_path, capsys
):
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    line = ["run", f"--config={TINY}", f"--workdir={workdir}", ON]
    assert main(line) == 2
    assert "labels.mode: (absent) → on_the_fly" in capsys.readouterr().err
    assert main([*line, "--again"]) == 0
    out = capsys.readouterr().out
    rows = [row for row in out.splitlines() if row.startswith("[")]
    stages = [row.split()[1] for row in rows if not row.endswith("skipped")]
    # On a slow machine there are lines of progress among them.
    assert [stage for stage in stages if not stage.endswith(":")] == [
        "generation_1/train",
        "generation_1/evaluate",
        "report",
    ]

    def losses(folder):
        path = folder / "generation_1/train/metrics.jsonl"
        rows = map(json.loads, path.read_text().splitlines())
        return [row["loss"] for row in rows if "loss" in row]

    np.testing.assert_allclose(losses(workdir), losses(tiny_run), rtol=5e-3)
    assert losses(workdir) != losses(tiny_run)


def test_a_task_that_cannot_teach_in_the_step_is_named(tiny_student, monkeypatch):
    monkeypatch.delattr(Classification, "taught_targets")
    with pytest.raises(UserError, match="has no taught_targets"):
        preconditions.check(tiny_student(1, ON).run)

"""One device or eight: the same batches, losses, labels and checkpoints.

What eight devices do is done in a process of its own, as the number of CPU devices
is fixed when JAX starts.
"""

import re

import pytest
from support import TINY, on_eight_devices

WORK = """
import hashlib, json, pathlib, re, sys
import jax, numpy as np
from noisy_student_jax import config
from noisy_student_jax.generation import streams
from noisy_student_jax.models import bundle
from noisy_student_jax.training.checkpoints import Checkpoints
from noisy_student_jax.data.pipelines.device_resident import ResidentPipeline
from noisy_student_jax.data.sources import read_all_good
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.generation.train import step_and_state, teacher_of
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.generation.trainable import part
from noisy_student_jax.runs.run import Run
from noisy_student_jax.core import sharding
from noisy_student_jax.training.step import jit_train_step

tiny, workdir, folder = sys.argv[1:]
overrides = ["--config.train.ratio=2", "--config.train.microbatches=2"]
run = Run(config.load(tiny, overrides), workdir, interruption=Interruption())
student = run.student(1)
learned = streams.make(student)
assert jax.device_count() == 8
found, pipelines = {}, {}
overrides.append("--config.labels.mode=on_the_fly")
live = Run(config.load(tiny, overrides), workdir, interruption=Interruption())
teacher, taught_by = teacher_of(live.student(1))


def training(devices):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    layout = student.spec.layout
    layout.check(devices=devices, microbatches=2)
    pipeline = ResidentPipeline(
        learned.both, layout, mesh, student.spec.model.preprocessing,
        seed=0, generation=1,
    )
    pipelines[devices] = pipeline
    step, state = step_and_state(part(student))
    whole = sharding.replicated(mesh)
    state = jax.device_put(state, whole)
    compiled = jit_train_step(step, mesh).lower(state, pipeline(0)).compile()
    batches, metrics = [], []
    for number in range(3):
        batch = pipeline(number)
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(batch):
            digest.update(np.asarray(leaf).tobytes())
        batches.append(digest.hexdigest())
        state, measured = compiled(state, batch)
        metrics.append({name: float(value) for name, value in measured.items()})
    shards = [
        [shard.index[0].start or 0, np.asarray(shard.data).tolist()]
        for shard in batch["stream"].addressable_shards
    ]
    return state, {
        "batches": batches, "metrics": metrics, "streams": shards,
        "step": compiled.as_text(),
    }


for devices in (1, 8):
    state, told = training(devices)
    model = bundle.read(pathlib.Path(workdir) / "generation_0" / "model")
    predictor = Predictor(
        run.task,
        student.spec.model.module,
        model.preprocessing,
        batch=60,
        devices=jax.devices()[:devices],
    )
    images, _ = read_all_good(
        run.dataset.pool, model.preprocessing, range(100), part="pool"
    )
    placed = predictor.place(model.variables)
    told["probabilities"] = predictor(placed, images)["probabilities"].tolist()
    text = predictor.apply.lower(placed, images[: predictor.batch]).compile()
    told["predictor"] = text.as_text()
    told["predictor_batch"] = predictor.batch
    batch = dict(jax.device_get(pipelines[devices](0)))
    batch["teacher_image"] = batch["image"][batch["stream"] == 1]
    mesh = sharding.make_mesh(jax.devices()[:devices])
    spread, whole = sharding.along_batch(mesh), sharding.replicated(mesh)
    batch = sharding.put_batch(batch, mesh)
    weights = jax.device_put(taught_by, whole)
    labeling = jax.jit(teacher.label, out_shardings=spread).lower(weights, batch)
    labeling = labeling.compile()
    told["teacher"] = labeling.as_text()
    told["taught"] = np.asarray(labeling(weights, batch)["target"]).tolist()
    found[str(devices)] = told

checkpoints = Checkpoints(pathlib.Path(folder))
checkpoints.save(state)
one = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
like = jax.device_put(step_and_state(part(student))[1], one)
back = checkpoints.restore_latest(like)
checkpoints.close()
found["restored_devices"] = sorted(
    {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(back)}
)
found["restored_equal"] = all(
    np.array_equal(a, b)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True)
)
found["restored_step"] = int(back.step)
print(json.dumps(found))
"""

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)


def collectives(program):
    """Returns which kinds of collective a compiled program holds."""
    return {kind for kind in COLLECTIVES if re.search(rf"\b{kind}(-start)?\(", program)}


@pytest.fixture(scope="module")
def found(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices") / "checkpoints"
    return on_eight_devices(WORK, TINY, tiny_run, folder)


def test_batches_are_equal_to_the_bit_augmentation_and_all(found):
    assert found["8"]["batches"] == found["1"]["batches"]
    assert len(set(found["1"]["batches"])) == 3


def test_losses_are_equal_to_rounding(found):
    for one, eight in zip(found["1"]["metrics"], found["8"]["metrics"], strict=True):
        assert one.keys() == eight.keys()
        for name, value in one.items():
            assert eight[name] == pytest.approx(value, rel=1e-5), name
        assert one["pseudo/loss"] > 0


def test_every_device_is_given_both_streams_in_the_ratio(found):
    shards = found["8"]["streams"]

    assert len({start for start, _ in shards}) == 8
    for _, streams in shards:
        assert len(streams) == 6
        assert sum(streams) == 4


def test_no_example_moves_between_devices_in_a_step(found):
    # Batch norm and gradients are summed over devices; that is all.
    assert collectives(found["8"]["step"]) == {"all-reduce"}
    assert collectives(found["1"]["step"]) == set()


def test_labels_are_equal_whoever_gives_them(found):
    one, eight = found["1"]["probabilities"], found["8"]["probabilities"]

    assert len(one) == len(eight) == 100
    for ours, theirs in zip(one, eight, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-7)


def test_labeling_devices_never_speak_to_each_other(found):
    assert collectives(found["8"]["predictor"]) == set()


def test_a_teacher_labels_in_the_step_what_is_on_its_device(found):
    one, eight = found["1"]["taught"], found["8"]["taught"]

    assert len(one) == len(eight) == 48
    for ours, theirs in zip(one, eight, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-7)
    assert collectives(found["8"]["teacher"]) == set()


def test_a_batch_of_images_is_rounded_up_to_whole_devices(found):
    assert found["1"]["predictor_batch"] == 60
    assert found["8"]["predictor_batch"] == 64


def test_a_checkpoint_of_eight_devices_is_read_on_one(found):
    assert found["restored_devices"] == [1]
    assert found["restored_equal"]
    assert found["restored_step"] == 3

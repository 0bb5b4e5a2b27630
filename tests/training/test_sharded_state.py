"""A state that eight devices share: the same training as with eight whole copies.

What eight devices do is done in a process of its own, as the number of CPU devices is
fixed when JAX starts.
"""

import numpy as np
import pytest
from support import TINY, on_eight_devices

WORK = """
import json, pathlib, shutil, sys
import jax, numpy as np
from noisy_student_jax import config
from noisy_student_jax.generation import train as generation
from noisy_student_jax.training import loop
from noisy_student_jax.models import bundle
from noisy_student_jax.training.checkpoints import Checkpoints
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.runs.run import Run
from noisy_student_jax.training.loop import read_metrics
from noisy_student_jax.core import sharding

tiny, workdir, folder = sys.argv[1], *map(pathlib.Path, sys.argv[2:])
assert jax.device_count() == 8
mesh = sharding.make_mesh()
found = {
    str(shape): list(sharding.split(shape, mesh).shard_shape(shape))
    for shape in [
        (3, 3, 8, 57), (1, 1, 24, 1376), (100, 41), (1, 1, 20, 206), (77, 55), (8192,)
    ]
}
found = {"split": found}
# The model is tiny, and so is what is large in it.
sharding.LARGE = 16
trained, states = loop.train, {}


def train(*arguments, **options):
    states[name] = trained(*arguments, **options)
    return states[name]


loop.train = train


def bytes_of_a_device(state):
    held = {"matrices": 0, "vectors": 0}
    for leaf in jax.tree.leaves(state):
        kind = "matrices" if leaf.ndim > 1 else "vectors"
        held[kind] += leaf.addressable_shards[0].data.nbytes
    return held


def restored(name, like):
    checkpoints = Checkpoints(folder / name / "generation_1" / "train" / "checkpoints")
    back = checkpoints.restore_latest(like)
    checkpoints.close()
    return {
        "equal": all(
            np.array_equal(a, b)
            for a, b in zip(
                jax.tree.leaves(back), jax.tree.leaves(states[name]), strict=True
            )
        ),
        "placed": all(
            leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
            for leaf, wanted in zip(
                jax.tree.leaves(back), jax.tree.leaves(like), strict=True
            )
        ),
        "bytes": bytes_of_a_device(back),
        "step": int(back.step),
    }


for name, sharded in (("whole", "false"), ("shared", "true")):
    shutil.copytree(workdir, folder / name)
    shutil.rmtree(folder / name / "generation_1")
    overrides = ["microbatches=2", f"shard_state={sharded}"]
    overrides = [f"--config.train.{one}" for one in overrides]
    run = Run(config.load(tiny, overrides), folder / name, interruption=Interruption())
    student = run.student(1)
    told = generation.train(student)
    weights = bundle.read(student.paths.averaged).variables
    found[name] = {
        "bytes": bytes_of_a_device(states[name]),
        "log": read_metrics(student.paths.folder / "train" / "metrics.jsonl")[0],
        "weights": [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(weights)],
        "names": str(jax.tree.structure(weights)),
    }
one = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
alone = jax.device_put(jax.device_get(states["shared"]), one)
found["on_one"] = restored("shared", alone)
found["on_eight"] = restored("whole", states["shared"])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    return on_eight_devices(WORK, TINY, tiny_run, folder)


def test_large_arrays_are_split_where_they_divide_best(found):
    assert found["split"] == {
        "(3, 3, 8, 57)": [3, 3, 1, 57],
        "(1, 1, 24, 1376)": [1, 1, 24, 172],
        # Four devices hold each part twice.
        "(100, 41)": [25, 41],
        "(1, 1, 20, 206)": [1, 1, 5, 206],
        "(77, 55)": [77, 55],
        # A vector stays whole.
        "(8192,)": [8192],
    }


def test_a_device_holds_its_share_of_the_state(found):
    whole, shared = found["whole"]["bytes"], found["shared"]["bytes"]

    assert 1 / 8 <= shared["matrices"] / whole["matrices"] < 1.1 / 8
    assert shared["vectors"] == whole["vectors"] < 0.1 * whole["matrices"]


def test_losses_are_those_of_whole_copies(found):
    whole, shared = found["whole"]["log"], found["shared"]["log"]

    assert len(whole) == len(shared) == 5
    for ours, theirs in zip(shared, whole, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"images_per_second"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


def test_bundles_are_those_of_whole_copies(found):
    assert found["shared"]["names"] == found["whole"]["names"]
    for ours, theirs in zip(
        found["shared"]["weights"], found["whole"]["weights"], strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_shared_checkpoint_is_read_on_one_device(found):
    told = found["on_one"]

    assert told["equal"] and told["placed"] and told["step"] == 12
    assert told["bytes"] == found["whole"]["bytes"]


def test_a_checkpoint_of_whole_copies_is_read_to_be_shared(found):
    told = found["on_eight"]

    assert told["equal"] and told["placed"] and told["step"] == 12
    assert told["bytes"] == found["shared"]["bytes"]

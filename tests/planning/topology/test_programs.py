"""The real programs, compiled for eight devices from shapes alone.

In a process of its own, as the number of CPU devices is fixed when JAX starts.
"""

import pytest
from support import TINY, on_eight_devices

WORK = """
import json, sys
import jax
from noisy_student_jax import config
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.runs.run import Run
from noisy_student_jax.generation.init_weights import initial_variables
from noisy_student_jax.planning.topology import command, programs, slices
from noisy_student_jax.core import sharding

sharding.LARGE = 16


def student(*overrides):
    overrides = ["--config.train.ratio=2", *overrides]
    loaded = config.load(sys.argv[1], overrides)
    run = Run(loaded, "nowhere", interruption=Interruption())
    return run, run.student(1)


where = slices.of_devices(jax.devices(), name="here")
run, _ = student("--config.train.shard_state=true", "--config.train.microbatches=2")
found = {"facts": command.facts(run, where, generation="1")}
found["text"] = command.text(found["facts"])
live = [leaf.nbytes for leaf in jax.live_arrays()]
found["allocated"] = sum(live)

# Traced only: what a teacher in the step, and FixRes, add.
_, taught = student("--config.labels.mode=on_the_fly")
program, _ = programs.programs(taught, where)
found["taught"] = len(jax.tree.leaves(program.lower().in_avals))
_, plain = student()
program, _ = programs.programs(plain, where)
found["plain"] = len(jax.tree.leaves(program.lower().in_avals))
found["teacher"] = len(jax.tree.leaves(taught.teacher.cost.shapes))
_, fixed = student(
    "--config.generations[1].fixres.resolution=16", "--config.fixres.steps=2"
)
found["fixres"] = []
for program in programs.programs(fixed, where):
    state_and_batch, _ = program.lower().in_avals
    images = state_and_batch[-1]
    images = images["image"] if isinstance(images, dict) else images
    found["fixres"].append([program.what, list(images.shape), str(images.dtype)])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    return on_eight_devices(WORK, TINY)


@pytest.fixture
def step(found):
    return found["facts"]["programs"][0]


def test_a_device_is_told_its_share_of_the_batch(found, step):
    assert found["facts"]["devices"] == 8
    assert step["program"] == "train"
    assert step["images_per_device"] == 48 // 8
    assert step["microbatches"] == 2


def test_the_memory_of_a_step_adds_up(step):
    memory = step["memory"]

    # Of four copies of the weights its eighth, the vectors whole; and its images.
    copies = 4 * 4 * 7352
    assert copies / 8 < memory["arguments"] < copies / 4
    # The state takes its own place; metrics do not.
    assert memory["arguments"] > memory["aliased"] > 0
    assert memory["outputs"] > memory["aliased"]
    needed = memory["arguments"] + memory["outputs"] - memory["aliased"]
    assert step["needed"] == needed + memory["temporaries"] + memory["program"]


def test_the_operations_of_a_step_are_told(step):
    # Of one microbatch; the compiler's count is not ours.
    analytic = step["analytic_flops"] / 2
    assert 0.5 * analytic < step["operations"]["flops"] < 2 * analytic
    assert step["operations"]["bytes"] > 0
    assert step["compile_seconds"] > 0


def test_labeling_is_told_for_a_device(found):
    label = found["facts"]["programs"][1]

    assert label["program"] == "label"
    assert label["images_per_device"] == 8


def test_what_memory_there_is_may_not_be_known(found, step):
    assert step["fits"] and step["limit"] == 0
    assert "compiles; the available memory is unknown" in found["text"]
    assert "unknown memory" in found["text"]


def test_nothing_is_allocated(found):
    # Weights alone would be 29 kB.
    assert found["allocated"] < 1000


def test_a_teacher_in_the_step_brings_its_weights_and_its_images(found):
    assert found["taught"] == found["plain"] + found["teacher"] + 1


def test_fixres_has_a_step_of_its_own_and_labels_at_its_resolution(found):
    assert found["fixres"] == [
        ["train", [48, 8, 8, 3], "uint8"],
        ["fixres", [16, 16, 16, 3], "uint8"],
        ["label", [64, 16, 16, 3], "uint8"],
    ]

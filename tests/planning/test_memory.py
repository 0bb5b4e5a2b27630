"""What a step takes of the device's memory: donated, foretold, and less in parts."""

import functools
import types

import jax
import pytest
from support import TINY

from noisy_student_jax import config
from noisy_student_jax.core import sharding
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.features import reduction
from noisy_student_jax.generation.train import step_and_state
from noisy_student_jax.generation.trainable import part
from noisy_student_jax.planning import flops, memory, plan, throughput
from noisy_student_jax.runs.run import Run
from noisy_student_jax.training.step import jit_train_step


def student_of(*overrides):
    given = ["data.resident_gigabytes=0", "model.resolution=32", *overrides]
    loaded = config.load(TINY, [f"--config.{one}" for one in given])
    run = Run(loaded, "nowhere", interruption=Interruption(), look_only=True)
    return run.student(0)


@functools.cache
def compiled(*overrides):
    """A step's student, program, state and batch; compiled once for all tests."""
    student = student_of(*overrides)
    trained, mesh = part(student), sharding.make_mesh(jax.devices()[:1])
    step, state = step_and_state(trained)
    images = trained.synthetic(student.spec.layout.total)
    rest = throughput.all_but_images(student)
    batch = sharding.put_batch({**rest, "image": images}, mesh)
    placed = jax.device_put(state, sharding.replicated(mesh))
    program = jit_train_step(step, mesh).lower(placed, batch).compile()
    return student, program, placed, batch


WHOLE, LARGER, IN_PARTS = (), ("train.batch=64",), ("train.microbatches=4",)


def size(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def test_the_state_is_given_to_the_step_and_its_memory_used_again():
    _, program, state, batch = compiled(*WHOLE)
    state = jax.tree.map(lambda leaf: leaf.copy(), state)

    after, _ = program(state, batch)

    assert program.memory_analysis().alias_size_in_bytes == size(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, batch)))


def test_microbatches_take_less_memory():
    _, whole, *_ = compiled(*WHOLE)
    _, parts, *_ = compiled(*IN_PARTS)

    one, four = (p.memory_analysis().temp_size_in_bytes for p in (whole, parts))
    # A quarter of the activations, another gradient, and the batch as it was dealt.
    assert one / 4 < four < one / 3


@pytest.mark.parametrize("kind", [WHOLE, LARGER, IN_PARTS])
def test_the_estimate_is_near_what_the_compiler_says(kind):
    student, program, *_ = compiled(*kind)

    facts = plan.run_facts(student.run)["generations"][0]

    assert facts["memory_from"] == "estimated"
    assert facts["memory_per_device"] == pytest.approx(
        memory.of_program(program), rel=0.2
    )


def test_what_a_small_batch_takes_foretells_a_large_one():
    small, of_small, *_ = compiled(*WHOLE)
    found = memory.of_step(of_small, small, devices=1)

    assert found.at(small, devices=1) == memory.of_program(of_small)
    for kind in (LARGER, IN_PARTS):
        student, program, *_ = compiled(*kind)
        told = memory.of_program(program)
        assert found.at(student, devices=1) == pytest.approx(told, rel=0.1)


def test_more_devices_take_less_each():
    student, program, *_ = compiled(*WHOLE)
    found = memory.of_step(program, student, devices=1)

    saved = found.at(student, devices=1) - found.at(student, devices=4)
    assert saved == pytest.approx(12 * found.per_image, abs=1)


def test_a_plan_that_measured_says_what_was_compiled():
    student = student_of()
    _, program, *_ = compiled(*WHOLE)
    found = memory.of_step(program, student, devices=jax.device_count())
    speed = throughput.Speed(10.0, 10.0, found)

    facts = plan.measured_facts(student.run, speeds=lambda _: speed)

    first = facts["generations"][0]
    ahead = student.spec.layout.total * 3 * student.spec.model.resolution**2
    assert first["memory_from"] == "compiled"
    assert first["memory_per_device"] == found.at(student, devices=1) + ahead
    assert "per device (as compiled)" in plan.run_text(facts)


def test_a_compiler_that_does_not_tell_leaves_the_estimate():
    silent = types.SimpleNamespace(memory_analysis=lambda: None)

    assert memory.of_program(silent) == 0
    assert memory.of_step(silent, student_of(), devices=1) is None


def test_for_a_chip_dtype_and_remat_spare_memory_and_on_cpu_they_do_not():
    def estimated(*overrides):
        return memory.estimated(student_of(*overrides), devices=1)

    half, again = "model.dtype=bfloat16", "model.remat=true"
    assert estimated(half) > estimated(again) == estimated()
    chip = "plan.chip=tpu_v5e"
    assert estimated(chip, half) < estimated(chip)
    assert estimated(chip, again) < estimated(chip)
    own = "model.layers=own"
    assert estimated(chip, own) < estimated()
    assert estimated(chip, own) < estimated(chip)
    assert estimated(chip, "model.layers=flax") == estimated(chip)


def test_a_shared_state_is_gathered_beside_the_shares():
    whole = memory.state_bytes(student_of("model.name=efficientnet_b0"), 8)
    shared = student_of("model.name=efficientnet_b0", "train.shard_state=True")
    copies = memory.GATHERED * shared.cost.parameters * memory.FLOAT32
    assert copies < memory.state_bytes(shared, 8) < whole


def test_a_solved_head_takes_what_its_directions_and_their_search_take(monkeypatch):
    heads = ("train.part=head", "train.optimizer=lbfgs", "model.init=pretrained")
    one = student_of("model.name=efficientnet_lite0", "model.views=2", *heads)
    student = one.run.student(1)
    labeled, floats = len(one.run.dataset.labeled), one.cost.parameters

    def told():
        return plan._memory(student, None, resident=0)["memory_per_device"] / 4

    assert told() >= floats + 2 * (2 * labeled + reduction.SAMPLE) * 1280
    monkeypatch.setattr(plan, "SAMPLE", 0)
    monkeypatch.setattr(reduction, "LEAST", 8)
    monkeypatch.setattr(reduction, "LABELED_PER_DIRECTION", 1)
    assert told() > floats + 2 * flops.solved_rows(student) * labeled

"""What is proposed for a student that does not fit, by a compiler that is made up."""

import dataclasses
import functools

import jax
import pytest
from support import TINY

from noisy_student_jax import config
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.planning.memory import state_bytes
from noisy_student_jax.planning.topology import command, slices
from noisy_student_jax.planning.topology.compiling import Outcome, refusal
from noisy_student_jax.planning.topology.estimate import TYPICAL, MemoryEstimator
from noisy_student_jax.planning.topology.programs import FIXRES, LABEL, TRAIN
from noisy_student_jax.planning.topology.proposals import Setting, settings
from noisy_student_jax.runs.run import Run

FIXRES_TOO = ("generations[1].fixres.resolution=16", "fixres.steps=2")


def a_run(*overrides):
    overrides = [f"--config.{one}" for one in overrides]
    return Run(config.load(TINY, overrides), "nowhere", interruption=Interruption())


def a_slice(memory):
    here = slices.of_devices(jax.devices()[:1], name="here")
    return dataclasses.replace(here, memory=memory)


class Compiler:
    """Needs `factor` times the estimate, and so many bytes an image labeled."""

    def __init__(self, where, *, factor=1.0, label_bytes=1.0):
        self.where, self.factor, self.label_bytes = where, factor, label_bytes
        self.asked, self.estimator = [], MemoryEstimator(where)

    def __call__(self, program):
        train = program.student.spec.config.train
        needed = program.images * self.label_bytes
        if program.what != LABEL:
            needed = self.factor * self.estimator.needed(program.student)
        self.asked.append((program.what, train.microbatches, program.images))
        return Outcome(needed, self.where.memory, 1.0)


def told(run, where, **behavior):
    compiler = Compiler(where, **behavior)
    facts = command.facts(run, where, generation="1", compile_program=compiler)
    return facts, compiler.asked


@functools.cache
def needed(*, fixres=False):
    """Bytes that the step of the student, or of its FixRes, is estimated to need."""
    run = a_run(*FIXRES_TOO) if fixres else a_run()
    student = run.student(1)
    return MemoryEstimator(a_slice(1)).needed(student.final if fixres else student)


def test_settings_come_with_the_fastest_first():
    found = settings(a_run().student(1), devices=4)

    assert found[0] == Setting(remat=False, microbatches=1, shard_state=False)
    # Four groups on each of four devices; remat costs more than all the rest.
    assert {one.microbatches for one in found} == {1, 2, 4}
    assert [one.remat for one in found] == [False] * 6 + [True] * 6
    assert [one.time for one in found] == sorted(one.time for one in found)


def test_where_everything_fits_nothing_is_proposed():
    facts, asked = told(a_run(), a_slice(1e9))

    assert [program["program"] for program in facts["programs"]] == [TRAIN, LABEL]
    assert all(program["fits"] for program in facts["programs"])
    assert facts["proposals"] == []
    assert len(asked) == 2


def test_the_fastest_setting_that_fits_is_proposed_and_was_compiled():
    run = a_run()
    # A little less than it needs, so that half of the images at once is enough.
    where = a_slice(0.9 * needed())
    facts, asked = told(run, where)

    program, _ = facts["programs"]
    assert not program["fits"]
    (proposal,) = facts["proposals"]
    assert proposal["fits"]
    assert proposal["overrides"] == ["--config.generations[1].train.microbatches=2"]
    (verified,) = proposal["verified"]
    assert verified["microbatches"] == 2 and verified["fits"]
    assert [(what, parts) for what, parts, _ in asked if what == TRAIN] == [
        (TRAIN, 1),
        (TRAIN, 2),
    ]


def test_its_overrides_make_a_config_that_fits():
    where = a_slice(0.9 * needed())
    facts, _ = told(a_run(), where)
    (proposal,) = facts["proposals"]

    overrides = [one.removeprefix("--config.") for one in proposal["overrides"]]
    assert told(a_run(*overrides), where)[0]["proposals"] == []


def test_what_the_compiler_told_sieves_what_is_compiled_next():
    run = a_run()
    # It takes four times the estimate: half the images would still be too many.
    where = a_slice(1.3 * needed())
    facts, asked = told(run, where, factor=4.0)

    steps = [parts for what, parts, _ in asked if what == TRAIN]
    assert steps[0] == 1 and steps[1] > 2
    (proposal,) = facts["proposals"]
    assert proposal["fits"] and proposal["compiled"] == len(steps) - 1 <= 3


def test_a_hopeless_program_is_not_compiled():
    run = a_run()
    facts, asked = told(run, a_slice(0.5 * needed()))

    program, _ = facts["programs"]
    assert not program["fits"] and program["compile_seconds"] == 0
    assert program["refused"].startswith("an estimated ")
    assert program["refused"].endswith(" GB, so it was not compiled")
    assert (TRAIN, 1) not in {(what, parts) for what, parts, _ in asked}
    assert "does not fit: an estimated" in command.text(facts)


def test_where_nothing_fits_that_is_said():
    facts, asked = told(a_run(), a_slice(1000))

    assert [one["fits"] for one in facts["proposals"]] == [False]
    assert asked == [(LABEL, 1, 64)]
    assert "no setting was found to fit" in command.text(facts)


def test_fixres_shares_the_setting_and_is_verified_with_it():
    assert needed(fixres=True) > needed()
    facts, _ = told(a_run(*FIXRES_TOO), a_slice(0.9 * needed(fixres=True)))

    assert [one["program"] for one in facts["programs"]] == [TRAIN, FIXRES, LABEL]
    (proposal,) = facts["proposals"]
    assert proposal["fits"]
    assert [one["program"] for one in proposal["verified"]] == [TRAIN, FIXRES]
    parts = {one["microbatches"] for one in proposal["verified"]}
    assert len(parts) == 1 and parts != {1}


def test_a_smaller_batch_is_proposed_for_labeling():
    facts, asked = told(a_run(), a_slice(1e9), label_bytes=6e7)

    # 64 images of 60 MB; 16 fit.
    (proposal,) = facts["proposals"]
    assert proposal["overrides"] == ["--config.generations[1].labels.batch=16"]
    assert [images for what, _, images in asked if what == LABEL] == [64, 16]


def test_programs_that_cost_the_same_are_compiled_once():
    where = a_slice(1e9)
    compiler = Compiler(where)
    facts = command.facts(a_run(), where, compile_program=compiler)

    assert len(facts["programs"]) == 6
    assert len(compiler.asked) == 3
    same = {(o["student"], o["program"]): o["same_as"] for o in facts["programs"]}
    assert same["control", TRAIN] == "generation_1"
    assert same["generation_1", LABEL] == "generation_0"
    told = "control, training step: efficientnet_test at 8 px, 32 images a device: as"
    assert told in command.text(facts)


def test_the_state_is_reckoned_with_its_optimizer_and_gradients():
    student, where = a_run().student(1), a_slice(1e9)
    leaves = jax.tree.leaves(student.cost.shapes)
    # RMSProp's two, the weights, their average and the gradients.
    assert state_bytes(student, len(where.devices)) == 5 * 4 * sum(
        leaf.size for leaf in leaves
    )
    kept = 32 * student.cost.activation_bytes * TYPICAL[False]
    assert needed() == pytest.approx(state_bytes(student, len(where.devices)) + kept)


def test_a_refusal_is_told_in_the_compilers_figures():
    outcome = refusal(
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in"
        " memory space hbm. Used 20.25G of 15.75G hbm. Exceeded hbm capacity by 4.5G.\n"
        "Total hbm usage >= 20.50G:\n  reserved 258.00M",
        limit=16e9,
        seconds=60.0,
    )
    assert outcome.needed == 20.25 * 2**30
    assert outcome.limit == 15.75 * 2**30
    assert outcome.refused == "the compiler says 'Used 20.25G of 15.75G hbm'"
    assert not outcome.fits


def test_a_refusal_of_temporaries_alone_is_told_in_the_compilers_figures():
    outcome = refusal(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for"
        " HLO temporaries (86.88G) exceeds available HBM (15.75G).",
        limit=16e9,
        seconds=60.0,
    )
    assert outcome.needed == 86.88 * 2**30
    assert outcome.limit == 15.75 * 2**30
    told = "HLO temporaries (86.88G) exceeds available HBM (15.75G)"
    assert told in outcome.refused


def test_another_refusal_is_told_as_it_is():
    outcome = refusal("RESOURCE_EXHAUSTED: out of\n  vmem", limit=16e9, seconds=1.0)
    assert outcome.refused == "the compiler says 'RESOURCE_EXHAUSTED: out of vmem'"
    assert not outcome.fits and outcome.limit == 16e9
    assert not outcome.broken


def test_what_the_compiler_cannot_do_is_said_and_nothing_proposed():
    outcome = refusal("INTERNAL: RET_CHECK failure", limit=16e9, seconds=1.0)
    facts = command.facts(
        a_run(), a_slice(1e9), generation="1", compile_program=lambda program: outcome
    )

    assert facts["proposals"] == []
    assert not any(program["fits"] for program in facts["programs"])
    told = command.text(facts)
    assert "cannot be compiled: the compiler says 'INTERNAL: RET_CHECK failure'" in told
    assert "does not fit" not in told


def test_no_setting_cuts_a_group_of_batch_norm():
    group = 16
    run = a_run(f"generations[1].model.batch_norm_group={group}")
    student = run.student(1)
    free = settings(a_run().student(1), devices=1)
    found = settings(student, devices=1)
    assert found
    assert all(
        student.spec.layout.total % (group * one.microbatches) == 0 for one in found
    )
    assert {one.microbatches for one in found} < {one.microbatches for one in free}

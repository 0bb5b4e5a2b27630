"""Everything is compiled once: before the first step, and by the first validation."""

import collections
import contextlib
import json
import threading

import jax
import pytest
from support import TINY, jax_keeps

from noisy_student_jax.cli.main import main
from noisy_student_jax.evaluation import predictor
from noisy_student_jax.training.compiled_step import StepProgram

EVENT = "/jax/core/compile/backend_compile_duration"
GRADIENTS, UPDATE = "jit(gradients)", "jit(update)"
PREDICT, BATCH = "jit(apply)", "jit(_assemble)"
STEPS, GENERATIONS = 12, 3
"""Trained by a run of the tiny config: a teacher, a student and the control."""


@contextlib.contextmanager
def compilations(where):
    """Counts what is compiled, by the name that `where` holds meanwhile."""
    found = collections.defaultdict(collections.Counter)

    def listen(event, seconds, fun_name=None, **_):
        if event == EVENT:
            found[where[0]][fun_name] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What a whole run compiles, by the training and its step."""
    for thread in threading.enumerate():
        if thread.name.startswith("compile"):
            thread.join()  # of a test before
    where, trainings = [(0, 0)], collections.Counter()
    predictor._shared_program.cache_clear()
    trained = StepProgram.__call__

    def counted(program, state, batch):
        trainings[program] += 1
        where[0] = len(trainings), trainings[program]
        return trained(program, state, batch)

    workdir = tmp_path_factory.mktemp("compilations") / "run"
    with pytest.MonkeyPatch.context() as patch, compilations(where) as found:
        patch.setattr(StepProgram, "__call__", counted)
        assert main(["run", f"--config={TINY}", f"--workdir={workdir}"]) == 0
    assert list(trainings.values()) == [STEPS] * GENERATIONS
    return found


@pytest.mark.parametrize("training", range(1, GENERATIONS + 1))
def test_after_its_first_step_a_training_compiles_nothing_but_its_validation(
    compiled, training
):
    later = collections.Counter()
    for (number, step), names in compiled.items():
        # After the last one come the stages behind it.
        if number == training and 1 < step < STEPS:
            later += names

    assert later.keys() <= {PREDICT}


def test_one_program_predicts_for_validation_evaluation_and_labels(compiled):
    total = sum(compiled.values(), collections.Counter())

    # At most one a model; a last batch of fewer images is no other program. The
    # models of this run are one architecture.
    assert total[PREDICT] == 1


def test_a_training_is_two_programs_and_its_batches_another(compiled):
    total = sum(compiled.values(), collections.Counter())

    assert total[GRADIENTS] == total[UPDATE] == GENERATIONS
    assert not total["jit(step)"]
    assert total[BATCH] == GENERATIONS


def test_no_program_is_compiled_for_each_shape_of_an_array(compiled):
    total = sum(compiled.values(), collections.Counter())

    assert max(total.values()) <= 2 * GENERATIONS, total


def test_a_training_made_again_finds_its_programs_and_learns_the_same(tmp_path):
    kept, logs = [], []
    for name in ("first", "second"):
        with jax_keeps(jax_compilation_cache_dir=str(tmp_path / "jax")):
            line = ["train", f"--config={TINY}", f"--workdir={tmp_path / name}"]
            assert main([*line, "--generation=0"]) == 0
        kept.append(sorted(path.name for path in (tmp_path / "jax").glob("*-cache")))
        log = tmp_path / name / "generation_0" / "train" / "metrics.jsonl"
        entries = map(json.loads, log.read_text().splitlines())
        logs.append(
            [
                {what: v for what, v in entry.items() if what != "images_per_second"}
                for entry in entries
            ]
        )

    names = {name.split("-")[0] for name in kept[0]}
    assert {"jit_gradients", "jit_update"} <= names
    assert kept[0] == kept[1]
    assert logs[0] == logs[1]

"""The training loop: it goes on where it was, says what it saw, and stops in time."""

import dataclasses
import functools
import json
import math
import shutil
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from noisy_student_jax.core import files, sharding
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import (
    Interrupted,
    NotSavedError,
    TrainingDivergedError,
    UserError,
)
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.protocols import LossOptions
from noisy_student_jax.tasks.classification import Classification
from noisy_student_jax.training import loop
from noisy_student_jax.training.checkpoints import Checkpoints
from noisy_student_jax.training.compiled_step import StepProgram
from noisy_student_jax.training.loop import LoopOptions, MetricsLog, read_metrics
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import StepOptions, TrainStep

STEPS, BATCH = 11, 8


class Small(nn.Module):
    """Batch norm and dropout: whatever a checkpoint could forget."""

    @nn.compact
    def __call__(self, images, train, noise):
        hidden = images.reshape(len(images), -1)
        hidden = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, name="head_bn"
        )(hidden)
        hidden = nn.Dropout(0.5, deterministic=not train)(hidden)
        return {"logits": nn.Dense(3)(hidden)}


def batch(step):
    rng = np.random.default_rng(step)
    labels = rng.integers(0, 3, BATCH)
    return {
        "image": rng.integers(0, 256, (BATCH, 2, 2, 1)).astype(np.uint8),
        "target": np.eye(3, dtype=np.float32)[labels],
        "weight": np.ones(BATCH, np.float32),
        "stream": np.zeros(BATCH, np.int32),
        "noise": {
            "dropout": np.ones(BATCH, np.float32),
            "stochastic_depth": np.ones(BATCH, np.float32),
        },
    }


def poisoned(at):
    def batches(step):
        whole = batch(step)
        if step == at:
            whole["weight"] = np.full(BATCH, np.nan, np.float32)
        return whole

    return batches


@functools.cache
def step_and_state():
    """One step for all, so that it is compiled once; and what makes fresh states."""
    task = Classification(("a", "b", "c"))
    optimizer = optax.rmsprop(0.05, momentum=0.9, initial_scale=1.0)
    step = TrainStep(
        Small(),
        lambda outputs, batch: task.loss(outputs, batch, LossOptions()),
        optimizer,
        lambda step: jnp.full((), 0.05),
        StepOptions(ratio=0.0, ema_decay=0.9),
        mean=(0.5,),
        std=(0.3,),
    )
    variables = Small().init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)), False, {})
    variables = jax.device_get(variables)
    return step, lambda: TrainState.create(variables, optimizer, seed=0, generation=0)


@functools.cache
def compiled(step, mesh):
    """The programs of a step, for all trainings with it."""
    _, fresh = step_and_state()
    return StepProgram(step, mesh, state=fresh(), batch=batch(0))


class Training:
    """A training in a folder, to be run, stopped and run again."""

    def __init__(self, folder):
        self.folder = folder
        self.mesh = sharding.make_mesh(jax.devices()[:1])
        self.validated = []
        self.step, self.fresh = step_and_state()

    def records(self, step):
        return {"labeled": [f"r{step}-{n}" for n in range(10)]}

    def validate(self, state):
        self.validated.append(int(state.step))
        weight = state.params["Dense_0"]["kernel"][0, 0]
        average = state.ema_params["Dense_0"]["kernel"][0, 0]
        return {"validation/raw/w": float(weight), "validation/ema/w": float(average)}

    def run(
        self,
        *,
        batches=batch,
        stop_before=None,
        steps=STEPS,
        place=sharding.put_batch,
        further=None,
        **options,
    ):
        interruption = Interruption()

        def watched(step):
            if step == stop_before:
                # The signal arrives while this step is made ready.
                interruption.signal = 15
            return place(batches(step), self.mesh)

        state = self.fresh()
        program = compiled(self.step, self.mesh)

        def step(state, batch):
            state, metrics = program(state, batch)
            return state, {**metrics, **(further or {})}

        return loop.train(
            step,
            jax.device_put(state, program.held),
            watched,
            LoopOptions(
                **{
                    "steps": steps,
                    "checkpoint_every": 4,
                    "checkpoints_kept": 2,
                    "log_every": 2,
                    "validate_every": 5,
                }
                | options
            ),
            folder=self.folder,
            batch_size=BATCH,
            validate=self.validate,
            records=self.records,
            interruption=interruption,
            progress=Progress(every_seconds=1e9),
        )

    @property
    def checkpoints(self):
        opened = Checkpoints(self.folder / "checkpoints")
        try:
            return opened.steps()
        finally:
            opened.close()

    @property
    def log(self):
        return read_metrics(self.folder / "metrics.jsonl")[0]


def without_rates(log):
    """What does not depend on the clock."""
    return [
        {key: value for key, value in entry.items() if key != "images_per_second"}
        for entry in log
    ]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    training = Training(tmp_path_factory.mktemp("unbroken"))
    training.state = training.run()
    return training


@pytest.fixture
def training(tmp_path):
    return Training(tmp_path)


def assert_equal(state, other):
    jax.tree.map(np.testing.assert_array_equal, state, other)


def test_it_trains_to_the_last_step_and_keeps_it(unbroken):
    assert int(unbroken.state.step) == STEPS
    assert unbroken.checkpoints == [8, 11]


def test_every_interval_and_the_last_step_are_logged(unbroken):
    logged = [entry["step"] for entry in unbroken.log if "loss" in entry]
    validated = [entry["step"] for entry in unbroken.log if "loss" not in entry]

    assert logged == [2, 4, 6, 8, 10, 11]
    assert validated == unbroken.validated == [5, 10, 11]
    for entry in unbroken.log:
        if "loss" in entry:
            assert {"labeled/loss", "learning_rate", "images_per_second"} <= (
                entry.keys()
            )
        else:
            assert {"validation/raw/w", "validation/ema/w"} <= entry.keys()
            assert entry["validation/raw/w"] != entry["validation/ema/w"]


def test_tensorboard_is_told_as_well(unbroken):
    events = list((unbroken.folder / "tensorboard").glob("events*"))

    assert len(events) == 1
    assert b"validation/ema/w" in events[0].read_bytes()


@pytest.mark.parametrize("stop", [1, 4, 6])
@pytest.mark.parametrize("prefetch", [0, 1, 2])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    training, unbroken, stop, prefetch
):
    with pytest.raises(Interrupted, match="SIGTERM"):
        training.run(stop_before=stop, prefetch=prefetch)
    # The step that was at work is saved with the rest.
    assert training.checkpoints[-1] == max(1, stop + 1 - prefetch)

    state = training.run()

    assert_equal(state, unbroken.state)
    assert without_rates(training.log) == without_rates(unbroken.log)


def test_a_training_that_was_killed_ends_as_one_that_was_not(training, unbroken):
    class Killed(BaseException):
        """Nothing of ours catches it."""

    def killed(step):
        if step == 10:
            raise Killed
        return batch(step)

    with pytest.raises(Killed):
        training.run(batches=killed, prefetch=0)
    assert training.checkpoints == [4, 8]
    # There are lines of steps that will be made again.
    assert max(entry["step"] for entry in training.log) > 8

    state = training.run()

    assert_equal(state, unbroken.state)
    assert without_rates(training.log) == without_rates(unbroken.log)


def test_a_damaged_checkpoint_costs_steps_and_not_the_result(
    training, unbroken, capsys
):
    with pytest.raises(Interrupted):
        training.run(stop_before=8, prefetch=0)
    assert training.checkpoints == [8, 9]
    shutil.rmtree(training.folder / "checkpoints" / "step_00000009")

    state = training.run()

    said = capsys.readouterr().out
    assert "step_00000009' is damaged" in said
    assert "continues from the checkpoint of step 8" in said
    assert_equal(state, unbroken.state)


def test_a_finished_training_has_nothing_left_to_do(training, unbroken):
    shutil.copytree(unbroken.folder, training.folder, dirs_exist_ok=True)
    before = training.log

    state = training.run(batches=None)

    assert_equal(state, unbroken.state)
    assert training.log == before


def test_a_longer_training_goes_on_from_a_shorter_one(training, unbroken):
    training.run(steps=8)
    state = training.run()

    assert_equal(state, unbroken.state)


def test_a_loss_that_is_not_finite_names_step_and_records(training):
    with pytest.raises(TrainingDivergedError) as caught:
        training.run(batches=poisoned(at=6))

    said = str(caught.value)
    assert "the loss became nan at step 7" in said
    assert "the checkpoint of step 4 is kept" in said
    assert "lower config.train.learning_rate" in said
    assert "labeled: r6-0, r6-1, " in said
    assert said.endswith("r6-7 and 2 more")


@pytest.mark.parametrize(("at", "kept"), [(0, []), (3, []), (7, [4]), (10, [4, 8])])
def test_no_checkpoint_is_made_of_what_diverged(training, at, kept):
    with pytest.raises(TrainingDivergedError) as caught:
        training.run(batches=poisoned(at=at))

    assert training.checkpoints == kept
    assert ("there is no checkpoint yet" in str(caught.value)) == (not kept)
    assert all(math.isfinite(entry.get("loss", 0)) for entry in training.log)


def test_a_gradient_that_is_not_finite_is_noticed_before_it_is_saved(training):
    # The loss of the fourth step is fine; what it makes of the weights is not.
    class Overflowing(TrainStep):
        def update(self, state, *given, **options):
            after, metrics = super().update(state, *given, **options)
            bad = jnp.where(state.step == 3, jnp.inf, 0.0)
            norm = metrics["gradient_norm"] + bad
            params = jax.tree.map(lambda w: w + bad, after.params)
            return after.replace(params=params), metrics | {"gradient_norm": norm}

    names = [field.name for field in dataclasses.fields(TrainStep)]
    training.step = Overflowing(**{n: getattr(training.step, n) for n in names})
    with pytest.raises(
        TrainingDivergedError, match="the gradient became inf at step 4 "
    ):
        training.run()

    assert training.checkpoints == []


def test_a_training_that_diverged_is_not_saved_when_it_is_asked_to_stop(training):
    with pytest.raises(TrainingDivergedError):
        training.run(batches=poisoned(at=5), stop_before=5, prefetch=0)

    assert training.checkpoints == [4]


@pytest.fixture
def slow_disk(monkeypatch):
    """Whose checkpoints are not whole before the next steps are over."""
    hashed = files.tree_hashes

    def slowly(*arguments):
        time.sleep(0.3)
        return hashed(*arguments)

    monkeypatch.setattr(files, "tree_hashes", slowly)


def test_how_long_checkpoints_are_written_changes_nothing(
    training, unbroken, slow_disk
):
    with pytest.raises(Interrupted):
        training.run(stop_before=6)
    assert training.checkpoints == [4, 6]

    state = training.run()

    assert training.checkpoints == [8, 11]
    assert_equal(state, unbroken.state)
    assert without_rates(training.log) == without_rates(unbroken.log)


def test_a_training_that_diverges_while_a_checkpoint_is_written_has_it(
    training, slow_disk
):
    with pytest.raises(TrainingDivergedError, match="checkpoint of step 4 is kept"):
        training.run(batches=poisoned(at=4))

    assert training.checkpoints == [4]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_checkpoint_that_could_not_be_written_ends_the_training(
    training, monkeypatch, written
):
    hashed, calls = files.tree_hashes, []

    def failing(*arguments):
        if len(calls) == written:
            raise OSError(28, "No space left on device")
        calls.append(arguments)
        return hashed(*arguments)

    monkeypatch.setattr(files, "tree_hashes", failing)
    failed = (4, 8, 11)[written]
    with pytest.raises(NotSavedError, match=f"the checkpoint of step {failed} could"):
        training.run()

    assert training.checkpoints == [4, 8][:written]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_what_goes_wrong_with_a_batch_does_not_cost_the_steps_before(
    training, prefetch
):
    asked = []

    def missing(step):
        asked.append(step)
        if step == 5:
            raise UserError("the images of step 6 are gone")
        return batch(step)

    with pytest.raises(UserError, match="step 6"):
        training.run(batches=missing, prefetch=prefetch)

    assert training.checkpoints == [4, 5]
    assert asked == list(range(6))


def test_nothing_is_sent_to_a_step_in_passing(training):
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        training.run(place=lambda batch, mesh: batch)


def test_no_batch_is_made_twice_or_after_the_last(training):
    made = []

    def watched(step):
        made.append(step)
        return batch(step)

    training.run(batches=watched, prefetch=2)

    assert made == list(range(STEPS))


def test_names_of_records_cannot_write_to_the_terminal(training):
    training.records = lambda step: {"labeled": ["a\x1b[2J\n"], "pseudo": []}

    with pytest.raises(TrainingDivergedError) as caught:
        training.run(batches=poisoned(at=0))

    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lines_after_the_step_that_is_gone_on_from_are_dropped(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (2, 4, 5, 6):
        log.write(step, {"loss": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')

    log = MetricsLog(tmp_path, 4)
    log.write(6, {"loss": 0.5})
    log.close()

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 2, "loss": 2.0},
        {"step": 4, "loss": 4.0},
        {"step": 6, "loss": 0.5},
    ]


def test_a_log_that_is_not_there_is_empty(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == ([], 0)


@pytest.mark.parametrize(
    "line",
    [
        *(b"[1]", b"5", b'"step"', b"null", b"{}", b'{"loss": 1.0}', b"\xff\xfe", b""),
        *(b'{"step": "4"}', b'{"step": true}', b'{"step": 4, "loss": "low"}'),
        *(b'{"step": 4, "loss": [1]}', b"[" * 100_000, b'{"step": 4, "loss": 1.0'),
    ],
)
def test_a_damaged_line_is_counted_and_left_out(line, tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 2, "loss": 2.0}\n' + line + b'\n{"step": 5}\n{"st')

    assert read_metrics(path) == ([{"step": 2, "loss": 2.0}, {"step": 5}], 1)
    MetricsLog(tmp_path, 4).close()

    assert path.read_text() == '{"step": 2, "loss": 2.0}\n'
    assert f"1 damaged lines of '{path}' are left out" in capsys.readouterr().out


def test_a_pseudo_labeled_loss_out_of_proportion_is_warned_of_once(training, capsys):
    further = {"pseudo/loss": jax.device_put(jnp.float32(5e3))}
    training.run(further=further)

    said = capsys.readouterr().out
    assert said.count("WARNING: the loss of pseudo-labeled images is") == 1
    assert "5e+03 in the mean of steps 1 to 11 against" in said

"""Checkpoints written while training goes on: as whole as those it waits for."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import NotSavedError
from noisy_student_jax.training.checkpoints import Checkpoints
from noisy_student_jax.training.state import TrainState

OPTIMIZER = optax.rmsprop(0.1, momentum=0.9)


def state_at(step, size=8):
    values = np.random.default_rng(step).normal(size=(size, size)).astype(np.float32)
    variables = {"params": {"conv": {"kernel": values}}, "batch_stats": {}}
    state = TrainState.create(variables, OPTIMIZER, seed=step, generation=0)
    return state.replace(step=jnp.asarray(step, jnp.int32))


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints")
    yield opened
    opened.close()


@pytest.fixture
def held(monkeypatch):
    """Keeps all writing from being finished until it is set."""
    let_go, hashed = threading.Event(), files.tree_hashes

    def waiting(*arguments):
        assert let_go.wait(60)
        return hashed(*arguments)

    monkeypatch.setattr(files, "tree_hashes", waiting)
    yield let_go
    let_go.set()


def overwritten(state):
    """Gives the buffers of a state to others, many times, as training does."""
    step = jax.jit(
        lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0
    )
    for _ in range(20):
        state = step(state)
    return jax.block_until_ready(state)


@pytest.mark.parametrize("size", [8, 1500])
def test_what_was_saved_is_not_what_its_buffers_became(checkpoints, size):
    state = state_at(3, size)
    before = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)

    checkpoints.save(state)
    after = overwritten(state)

    found = checkpoints.restore_latest(after)
    jax.tree.map(np.testing.assert_array_equal, found, before)
    assert float(after.params["conv"]["kernel"][0, 0]) != float(
        before.params["conv"]["kernel"][0, 0]
    )


def test_a_step_is_not_there_before_it_is_whole(checkpoints, held):
    checkpoints.save(state_at(3))

    # It came back, and nothing of the step counts.
    assert checkpoints.steps() == []
    other = Checkpoints(checkpoints.folder)
    assert other.restore_latest(state_at(0)) is None
    other.close()

    held.set()
    checkpoints.wait()
    assert checkpoints.steps() == [3]


def test_a_save_waits_for_the_one_before(checkpoints):
    for step in range(1, 5):
        checkpoints.save(state_at(step))
    checkpoints.wait()

    assert checkpoints.steps() == [3, 4]
    assert int(checkpoints.restore_latest(state_at(0)).step) == 4


def test_closing_waits_for_what_is_being_written(tmp_path, held):
    opened = Checkpoints(tmp_path)
    opened.save(state_at(3))
    threading.Timer(0.2, held.set).start()

    opened.close()

    assert opened.steps() == [3]


@pytest.fixture
def full_disk(monkeypatch):
    def failing(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "tree_hashes", failing)


@pytest.mark.parametrize("then", ["save", "wait", "close", "restore_latest"])
def test_what_goes_wrong_in_the_background_is_told_by_what_comes_next(
    tmp_path, full_disk, then
):
    opened = Checkpoints(tmp_path)
    opened.save(state_at(3))

    arguments = [state_at(4)] if then in ("save", "restore_latest") else []
    with pytest.raises(NotSavedError) as caught:
        getattr(opened, then)(*arguments)

    said = str(caught.value)
    assert said.startswith("the checkpoint of step 3 could not be written to '")
    assert f"{tmp_path / 'step_00000003'}' (No space left on device)" in said
    assert "\n" not in said
    # Told once.
    opened.close()
    assert opened.steps() == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path, capfd, caplog):
    (tmp_path / "file").write_text("")
    opened = Checkpoints(tmp_path / "file" / "deep")

    with pytest.raises(NotSavedError, match="step 3 could not be written"):
        opened.save(state_at(3))
        opened.wait()
    opened.close()
    # Once, and in one sentence.
    assert "Traceback" not in capfd.readouterr().err + caplog.text

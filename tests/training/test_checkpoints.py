"""Checkpoints: only what is on disk as it was written counts."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from noisy_student_jax.core.errors import NotSavedError
from noisy_student_jax.training.checkpoints import Checkpoints
from noisy_student_jax.training.state import TrainState

OPTIMIZER = optax.rmsprop(0.1, momentum=0.9)
SHAPE = (16, 8)


def state_at(step):
    values = np.random.default_rng(step).normal(size=SHAPE).astype(np.float32)
    variables = {
        "params": {"conv": {"kernel": values}},
        "batch_stats": {"bn": {"mean": values[0]}},
    }
    state = TrainState.create(variables, OPTIMIZER, seed=step, generation=0)
    average = jax.tree.map(lambda leaf: leaf + 1, state.ema_params)
    return state.replace(step=jnp.asarray(step, jnp.int32), ema_params=average)


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints", keep=3)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def saved_folder(tmp_path_factory):
    """Checkpoints of steps 4 and 8. Copy it first."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    opened = Checkpoints(folder)
    for step in (4, 8):
        opened.save(state_at(step))
    opened.close()
    return folder


@pytest.fixture
def saved(saved_folder, tmp_path):
    opened = Checkpoints(shutil.copytree(saved_folder, tmp_path / "checkpoints"))
    yield opened
    opened.close()


def assert_is(state, step):
    assert state is not None
    expected = state_at(step)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for got, wanted in zip(
        jax.tree.leaves(state), jax.tree.leaves(expected), strict=True
    ):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


def data_files(checkpoints, step=8):
    path = checkpoints.folder / f"step_{step:08d}"
    return sorted(member for member in path.rglob("*") if member.is_file())


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_state_comes_back_whole(checkpoints):
    checkpoints.save(state_at(3))

    assert_is(checkpoints.restore_latest(state_at(0)), 3)


def test_an_empty_folder_holds_nothing(checkpoints):
    assert checkpoints.restore_latest(state_at(0)) is None
    assert checkpoints.steps() == []
    assert not checkpoints.folder.exists()


def test_the_newest_ones_are_kept(checkpoints):
    for step in range(1, 6):
        checkpoints.save(state_at(step))
    checkpoints.wait()

    assert checkpoints.steps() == [3, 4, 5]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == sorted(
        f"step_{step:08d}{suffix}" for step in (3, 4, 5) for suffix in ("", ".json")
    )
    assert_is(checkpoints.restore_latest(state_at(0)), 5)


def test_steps_are_numbers_and_not_names(checkpoints):
    for step in (99_999_999, 100_000_000):
        checkpoints.save(state_at(step))
    checkpoints.wait()

    assert checkpoints.steps() == [99_999_999, 100_000_000]
    assert int(checkpoints.restore_latest(state_at(0)).step) == 100_000_000


def test_saving_a_step_again_leaves_it_as_it_is(saved):
    before = {path: path.stat().st_mtime_ns for path in data_files(saved)}

    saved.save(state_at(8))

    assert {path: path.stat().st_mtime_ns for path in data_files(saved)} == before


def remove_file(saved):
    data_files(saved)[0].unlink()


def remove_all(saved):
    shutil.rmtree(saved.folder / "step_00000008")


def truncate(saved):
    largest = max(data_files(saved), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])


def empty(saved):
    largest = max(data_files(saved), key=lambda path: path.stat().st_size)
    largest.write_bytes(b"")


def add_file(saved):
    (saved.folder / "step_00000008" / "stray").write_text("?")


def truncate_manifest(saved):
    manifest = saved.folder / "step_00000008.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])


def empty_manifest(saved):
    (saved.folder / "step_00000008.json").write_bytes(b"")


def other_manifest(saved):
    (saved.folder / "step_00000008.json").write_text('{"step": 8}')


def list_manifest(saved):
    (saved.folder / "step_00000008.json").write_text("[8]")


def deep_manifest(saved):
    (saved.folder / "step_00000008.json").write_text("[" * 100_000)


DAMAGES = (
    remove_file,
    remove_all,
    truncate,
    empty,
    add_file,
    truncate_manifest,
    empty_manifest,
    other_manifest,
    list_manifest,
    deep_manifest,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(saved, capsys, damage):
    damage(saved)

    assert_is(saved.restore_latest(state_at(0)), 4)

    said = capsys.readouterr().out
    assert said.startswith("WARNING: checkpoint '")
    assert f"{saved.folder / 'step_00000008'}' is damaged" in said
    assert "going back to the one before" in said
    assert said.count("\n") == 1


def test_two_damaged_checkpoints_leave_none(saved, capsys):
    for step in (4, 8):
        flip(data_files(saved, step)[-1], 7)

    assert saved.restore_latest(state_at(0)) is None
    assert capsys.readouterr().out.count("is damaged") == 2


def test_a_checkpoint_without_a_manifest_was_never_finished(saved, capsys):
    (saved.folder / "step_00000008.json").unlink()

    assert saved.steps() == [4]
    assert_is(saved.restore_latest(state_at(0)), 4)
    assert "damaged" not in capsys.readouterr().out
    saved.save(state_at(8))
    assert_is(saved.restore_latest(state_at(0)), 8)


def test_stray_files_and_folders_are_no_checkpoints(saved):
    (saved.folder / "step_00000099").mkdir()
    (saved.folder / "step_00000012.json.partial").write_text("{")
    (saved.folder / ".step_00000016.json.partial").write_text("{")
    (saved.folder / "step_old.json").write_text("{}")

    assert saved.steps() == [4, 8]
    assert_is(saved.restore_latest(state_at(0)), 8)


def test_a_damaged_checkpoint_is_written_anew_when_its_step_comes_again(saved):
    truncate(saved)
    assert_is(saved.restore_latest(state_at(0)), 4)

    saved.save(state_at(8))

    assert_is(saved.restore_latest(state_at(0)), 8)


def test_a_checkpoint_whose_folder_is_gone_is_let_go_of_in_its_turn(saved):
    remove_all(saved)

    for step in (9, 10):
        saved.save(state_at(step))
    saved.wait()

    assert saved.steps() == [9, 10]


def test_every_flipped_bit_is_noticed(saved, capsys):
    members = [*data_files(saved), saved.folder / "step_00000008.json"]
    rng = np.random.default_rng(0)
    flips = [(path, rng.integers(path.stat().st_size * 8)) for path in members]
    # Big files hold the numbers, and get most of them.
    largest = max(members, key=lambda path: path.stat().st_size)
    flips += [
        (largest, bit) for bit in rng.integers(largest.stat().st_size * 8, size=40)
    ]
    shutil.rmtree(saved.folder / "step_00000004")
    (saved.folder / "step_00000004.json").unlink()

    for path, bit in flips:
        before = path.read_bytes()
        flip(path, bit)
        found = saved.restore_latest(state_at(0))
        assert found is None, (path.name, bit)
        assert "is damaged" in capsys.readouterr().out
        path.write_bytes(before)

    assert len(flips) >= 40
    assert_is(saved.restore_latest(state_at(0)), 8)


def test_a_manifest_lists_the_hash_of_every_file(saved):
    manifest = json.loads((saved.folder / "step_00000008.json").read_text())

    assert manifest["step"] == 8
    assert len(manifest["files"]) == len(data_files(saved)) > 0


def test_a_checkpoint_of_another_training_is_named_and_not_taken(tmp_path, capsys):
    for name in ("ours", "theirs", None):
        with contextlib.closing(
            Checkpoints(tmp_path / str(name), made_for=name)
        ) as opened:
            opened.save(state_at(8 if name == "theirs" else 4))
    for path in (tmp_path / "theirs").iterdir():
        shutil.move(path, tmp_path / "ours" / path.name)

    with contextlib.closing(Checkpoints(tmp_path / "ours", made_for="ours")) as opened:
        assert_is(opened.restore_latest(state_at(0)), 4)
        said = capsys.readouterr().out
        assert "step_00000008' was made by another training" in said
        opened.save(state_at(8))
        assert_is(opened.restore_latest(state_at(0)), 8)
    with contextlib.closing(Checkpoints(tmp_path / "None", made_for="ours")) as opened:
        assert opened.restore_latest(state_at(0)) is None


def test_a_state_of_another_model_is_named_and_not_taken(saved, capsys):
    other = TrainState.create(
        {"params": {"dense": {"kernel": np.ones((3, 5), np.float32)}}},
        OPTIMIZER,
        seed=0,
        generation=0,
    )

    assert saved.restore_latest(other) is None

    assert capsys.readouterr().out.count("holds no state of this training") == 2


def test_unusable_later_checkpoints_do_not_crowd_out_new_ones(saved):
    for step in (4, 8):
        flip(data_files(saved, step)[-1], 7)

    for step in (1, 2, 3):
        saved.save(state_at(step))
    saved.wait()

    assert_is(saved.restore_latest(state_at(0)), 3)


def test_what_a_killed_process_left_is_removed_by_the_next_save(saved):
    left = saved.folder / "step_00000012.orbax-checkpoint-tmp"
    left.mkdir()

    saved.save(state_at(9))
    saved.wait()

    assert not left.exists() and saved.steps() == [8, 9]


def test_a_full_disk_is_named_in_the_words_of_the_system(saved, monkeypatch):
    def full(path, state):
        (saved.folder / "step_00000009.orbax-checkpoint-tmp").mkdir()
        raise ValueError(
            "RESOURCE_EXHAUSTED: … No space left on device [os_error='28']"
        )

    monkeypatch.setattr(saved._orbax, "save", full)
    with pytest.raises(NotSavedError) as caught:
        saved.save(state_at(9))

    assert "step_00000009' (No space left on device): make room" in str(caught.value)
    assert not list(saved.folder.glob("*tmp"))

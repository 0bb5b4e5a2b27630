"""Targets: folders of classes, with splits or without, and the digits."""

import shutil

import numpy as np
import pytest
from made_up_bundles import make_target

from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.runs.run import with_places
from noisy_student_jax.studies.transfer import target as targets


def given(place, workdir, *, held_out=0.2):
    data = targets.section(str(place), workdir, side=8)
    data.options.held_out = held_out
    return with_places(data, workdir, side=8)


def opened(place, workdir):
    helpers = {"interruption": Interruption(), "progress": Progress()}
    return targets.opened(given(place, workdir), **helpers)


def keys(source):
    return {source.key(index) for index in range(len(source))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


def test_the_splits_of_a_folder_are_used(folder, cache):
    found = opened(folder, cache)

    assert found.classes == ("blue", "green", "red")
    assert np.bincount(found.labels).tolist() == [12, 12, 12]
    assert len(found.test) == 12
    assert {key.split("/")[0] for key in keys(found.test)} == {"test"}


def test_without_splits_test_images_are_dealt_by_content(folder, cache):
    found, again = (opened(folder / "train", cache) for _ in range(2))

    assert len(found.train) + len(found.test) == 36
    assert set(found.test.read(range(len(found.test))).labels) == {0, 1, 2}
    assert not keys(found.train) & keys(found.test)
    assert keys(again.test) == keys(found.test)


def test_a_copy_of_a_test_image_is_not_learned_from(folder, cache, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "target")
    test = tmp_path / "target" / "test" / "red" / "100.png"
    shutil.copy(test, tmp_path / "target" / "train" / "blue" / "copy.png")
    found = opened(tmp_path / "target", tmp_path / "work")

    assert len(found.train) == len(found.labels) == 36
    assert "left out: 1 copies of test images" in capsys.readouterr().out


def test_the_digits_are_a_target(tmp_path):
    found = opened("digits", tmp_path)

    assert np.bincount(found.labels).tolist() == [100] * 10
    assert len(found.test) == 500


def test_a_place_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        opened(tmp_path / "nowhere", tmp_path)


def test_a_stream_is_refused(tmp_path):
    with pytest.raises(UserError, match="is read as a stream, which is not probed"):
        opened("tfds:cifar10:train", tmp_path)


def parts_of(folder, workdir, held_out):
    data = given(folder, workdir, held_out=held_out)
    helpers = {"interruption": Interruption(), "progress": Progress()}
    return targets.dataset(data, seed=0, **helpers)


@pytest.mark.parametrize(("held_out", "learned"), [(0.2, 29), (0.0, 34)])
def test_a_share_of_the_images_is_held_out(folder, cache, held_out, learned):
    found = parts_of(folder, cache, held_out)

    assert len(found.labeled) == learned == targets.learned_from(36, held_out)
    assert len(found.pool) == 1
    assert len(found.validation) == 36 - learned - 1
    parts = [keys(part) for part in found.parts().values()]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 36 + 12


def test_at_most_so_many_images_are_taken(folder, cache, monkeypatch):
    monkeypatch.setattr(targets, "MOST", 15)

    found = parts_of(folder, cache, 0.2)
    taken = [found.labeled, found.pool, found.validation]
    assert sum(map(len, taken)) == 15
    names = [key.split("/")[1] for part in taken for key in keys(part)]
    assert sorted(map(names.count, set(names))) == [5, 5, 5]


def test_records_of_each_class_come_in_turn():
    labels = np.array([0] * 5 + [1] * 2 + [2] * 3)
    order = targets.in_turn(labels, np.random.default_rng(0))

    assert sorted(order.tolist()) == list(range(10))
    assert labels[order].tolist() == [0, 1, 2, 0, 1, 2, 0, 2, 0, 0]

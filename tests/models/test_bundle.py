"""Bundles: weights are read as they were written, with what they need, or not."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models import card as cards
from noisy_student_jax.models.bundle import Bundle


def some_bundle(**changes):
    rng = np.random.default_rng(0)
    fields = {
        "architecture": "efficientnet_test",
        "arguments": {"outputs": 3, "dropout_rate": None, "stochastic_depth": 0.2},
        "preprocessing": Preprocessing(
            24, 5, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
        ),
        "task": "classification",
        "classes": ("a", "b", 'c "λ"'),
        "variables": {
            "params": {
                "conv": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)},
                "dense": {"bias": rng.normal(size=4).astype(np.float32)},
            },
            "batch_stats": {"bn": {"mean": rng.normal(size=4).astype(np.float32)}},
        },
        "origin": {"generation": 1, "steps": 7},
        "trained_on": np.array([3, 5, 2**63 + 1], np.uint64),
    }
    return Bundle(**(fields | changes))


@pytest.fixture
def folder(tmp_path):
    bundles.write(some_bundle(), tmp_path / "model")
    return tmp_path / "model"


def assert_same_tensors(got, wanted):
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, dict):
            assert_same_tensors(got[name], value)
        else:
            assert got[name].dtype == value.dtype, name
            assert got[name].shape == value.shape, name
            np.testing.assert_array_equal(got[name], value)


def test_everything_comes_back(folder):
    written, read = some_bundle(), bundles.read(folder)

    assert_same_tensors(read.variables, written.variables)
    np.testing.assert_array_equal(read.trained_on, written.trained_on)
    assert read.trained_on.dtype == np.uint64
    for field in dataclasses.fields(Bundle):
        if field.name not in ("variables", "trained_on", "sha256"):
            assert getattr(read, field.name) == getattr(written, field.name)


def test_the_hash_is_that_of_the_weights(folder):
    from noisy_student_jax.core import files

    sha256 = files.sha256(folder / bundles.WEIGHTS)
    assert bundles.read(folder).sha256 == sha256
    assert bundles.write(some_bundle(), folder).sha256 == sha256


@pytest.fixture
def loaded(monkeypatch):
    """The files that have been hashed or loaded, by name."""
    from noisy_student_jax.core import files

    names = []

    def noted(function):
        def call(path):
            names.append(path.name)
            return function(path)

        return call

    monkeypatch.setattr(files, "sha256", noted(files.sha256))
    monkeypatch.setattr(files, "read_tensors", noted(files.read_tensors))
    return names


def test_an_unchanged_bundle_is_read_and_hashed_once(folder, loaded):
    first, second = bundles.read(folder), bundles.read(folder / bundles.CARD)

    assert sorted(loaded) == [bundles.WEIGHTS] * 2 + [bundles.TRAINED_ON]
    assert_same_tensors(first.variables, second.variables)
    assert first.sha256 == second.sha256


def test_a_bundle_that_was_replaced_is_read_again(folder, loaded):
    before = bundles.read(folder)
    variables = {"params": {"scale": np.ones(5, np.float32)}, "batch_stats": {}}
    bundles.write(some_bundle(variables=variables), folder)
    loaded.clear()

    after = bundles.read(folder)

    assert sorted(loaded) == [bundles.WEIGHTS] * 2 + [bundles.TRAINED_ON]
    assert_same_tensors(after.variables, variables)
    assert_same_tensors(before.variables, some_bundle().variables)


def test_a_bundle_that_was_damaged_after_it_was_read_is_found_out(folder):
    bundles.read(folder)
    spoil(folder / bundles.WEIGHTS)
    os.utime(folder / bundles.WEIGHTS, ns=(1, 1))

    with pytest.raises(UserError, match=r"model\.safetensors' is damaged"):
        bundles.read(folder)


def test_a_card_that_was_changed_is_read_again(folder):
    bundles.read(folder)
    card = json.loads((folder / bundles.CARD).read_text())
    card["origin"] = {"generation": 7}
    (folder / bundles.CARD).write_text(json.dumps(cards.with_sum(card)))

    assert bundles.read(folder).origin == {"generation": 7}


def test_who_shares_a_bundle_cannot_change_it_for_others(folder):
    first = bundles.read(folder)
    for array in (*jax.tree.leaves(first.variables), first.trained_on):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    first.variables["params"]["dense"].clear()
    first.arguments.clear()
    first.origin.clear()

    second = bundles.read(folder)

    assert_same_tensors(second.variables, some_bundle().variables)
    assert second.arguments == some_bundle().arguments
    assert second.origin == some_bundle().origin


def test_no_more_than_a_few_bundles_are_kept(tmp_path, loaded):
    places = [tmp_path / str(number) for number in range(bundles.KEPT + 1)]
    for place in places:
        bundles.write(some_bundle(), place)
        bundles.read(place)
    loaded.clear()

    for place in reversed(places):
        bundles.read(place)

    # Of all but the first.
    assert sorted(loaded) == [bundles.WEIGHTS] * 2 + [bundles.TRAINED_ON]


def test_a_file_of_the_bundle_stands_for_its_folder(folder):
    for place in (folder, folder / bundles.CARD, folder / bundles.WEIGHTS, str(folder)):
        assert bundles.read(place).architecture == "efficientnet_test"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a.transpose(3, 2, 0, 1),
        np.asfortranarray,
        lambda a: a[:, ::-1],
        lambda a: a[..., ::2],
        lambda a: np.broadcast_to(a[:1], a.shape),
    ],
    ids=["transposed", "fortran", "reversed", "strided", "broadcast"],
)
def test_arrays_that_are_not_contiguous_keep_their_order(tmp_path, spoil):
    kernel = spoil(np.arange(3 * 3 * 2 * 4, dtype=np.float32).reshape(3, 3, 2, 4))
    assert not kernel.flags["C_CONTIGUOUS"]
    variables = {"params": {"kernel": kernel}, "batch_stats": {}}

    bundles.write(some_bundle(variables=variables), tmp_path)

    assert_same_tensors(bundles.read(tmp_path).variables, variables)
    # Other tools read the same file.
    np.testing.assert_array_equal(
        load_file(tmp_path / bundles.WEIGHTS)["params/kernel"], kernel
    )


def test_a_scalar_stays_a_scalar(tmp_path):
    variables = {"params": {"scale": np.array(3, np.float32)}, "batch_stats": {}}

    bundles.write(some_bundle(variables=variables), tmp_path)

    assert_same_tensors(bundles.read(tmp_path).variables, variables)


def test_numbers_that_are_not_finite_are_kept_as_they_are(tmp_path):
    odd = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    variables = {"params": {"odd": odd}, "batch_stats": {}}

    bundles.write(some_bundle(variables=variables), tmp_path)

    read = bundles.read(tmp_path).variables["params"]["odd"]
    assert read.tobytes() == odd.tobytes()


@pytest.mark.parametrize("given", [{}, {"batch_stats": {}}], ids=["absent", "empty"])
def test_a_model_without_batch_norm_has_empty_statistics(tmp_path, given):
    params = {"dense": {"kernel": np.ones((2, 3), np.float32)}}

    bundles.write(some_bundle(variables={"params": params, **given}), tmp_path)

    read = bundles.read(tmp_path).variables
    assert_same_tensors(read, {"batch_stats": {}, "params": params})


def spoil(path, place=-1):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", [bundles.WEIGHTS, bundles.TRAINED_ON])
@pytest.mark.parametrize("place", [0, -1])
def test_a_damaged_file_is_named(folder, name, place):
    spoil(folder / name, place)

    with pytest.raises(UserError) as caught:
        bundles.read(folder)

    assert f"'{folder / name}' is damaged: its SHA-256" in str(caught.value)
    assert "copy the bundle again" in str(caught.value)


def test_a_truncated_file_is_named(folder):
    weights = folder / bundles.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-5])

    with pytest.raises(UserError, match=r"model\.safetensors' is damaged"):
        bundles.read(folder)


def test_a_damaged_card_is_named(folder):
    card = folder / bundles.CARD
    card.write_bytes(card.read_bytes()[:-40])

    with pytest.raises(UserError, match=r"model\.json' is not readable JSON"):
        bundles.read(folder)


@pytest.mark.parametrize(
    "field", ["architecture", "preprocessing", "classes", "task", "origin", "arguments"]
)
def test_a_card_that_lacks_something_is_named(folder, field):
    card = json.loads((folder / bundles.CARD).read_text())
    del card[field]
    (folder / bundles.CARD).write_text(json.dumps(card))

    with pytest.raises(UserError, match=rf"model\.json' lacks '{field}'"):
        bundles.read(folder)


@pytest.mark.parametrize("card", ["[]", "3", '"model"'])
def test_a_card_that_is_no_card_is_refused(folder, card):
    (folder / bundles.CARD).write_text(card)

    with pytest.raises(UserError, match=r"model\.json"):
        bundles.read(folder)


@pytest.mark.parametrize("schema", [0, 2, None, "1"])
def test_another_schema_is_refused(folder, schema):
    card = json.loads((folder / bundles.CARD).read_text())
    (folder / bundles.CARD).write_text(json.dumps(card | {"schema": schema}))

    with pytest.raises(UserError) as caught:
        bundles.read(folder)

    assert f"has schema {schema}, but this version reads schema 1" in str(caught.value)


@pytest.mark.parametrize("name", [bundles.CARD, bundles.WEIGHTS])
def test_a_folder_that_is_no_bundle_is_refused(folder, name):
    (folder / name).unlink()

    with pytest.raises(UserError, match=f"is not a model bundle: it has no {name}"):
        bundles.read(folder)


def test_a_disk_that_changes_numbers_is_found_out_while_writing(tmp_path, monkeypatch):
    def forgetful(path):
        tensors = load_file(path)
        tensors["params/dense/bias"] = tensors["params/dense/bias"] + 1
        return tensors

    monkeypatch.setattr(files, "read_tensors", forgetful)

    with pytest.raises(OSError, match="did not keep tensor params/dense/bias"):
        bundles.write(some_bundle(), tmp_path)
    assert not (tmp_path / bundles.CARD).exists()


def test_a_bundle_that_lost_what_it_was_trained_on_is_refused(folder):
    (folder / bundles.TRAINED_ON).unlink()

    with pytest.raises(UserError, match=rf"incomplete.*{bundles.TRAINED_ON}"):
        bundles.read(folder)


def test_a_model_that_takes_any_argument_takes_views():
    own = some_bundle(architecture="outside.backbones:in_any", arguments={"outputs": 3})

    assert own.in_views(2).views == 2
    assert own.in_views(None) is own
    for count in (0, 5):
        with pytest.raises(UserError, match=f"--views must be 1 to 4, not {count}"):
            own.in_views(count)


@pytest.mark.parametrize("framing", ["center_crop", "letterbox"])
def test_a_bundle_keeps_how_images_are_framed(tmp_path, framing):
    one = Preprocessing(24, 0, framing=framing)
    bundles.write(some_bundle(preprocessing=one), tmp_path / "model")
    assert bundles.read(tmp_path / "model").preprocessing == one

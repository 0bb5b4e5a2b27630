"""The card of a bundle: every field in its bounds, and no change of it in silence."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models import card as cards

FLIPS = 400
OLDER = pathlib.Path(__file__).parents[1] / "witnesses" / "bundle_of_0_1"


@pytest.fixture
def older(tmp_path):
    """A bundle without a sum of its card."""
    return pathlib.Path(shutil.copytree(OLDER, tmp_path / "older"))


@pytest.fixture
def folder(older, tmp_path):
    """The same bundle, written today."""
    bundles.write(bundles.read(older), tmp_path / "model")
    return tmp_path / "model"


def edit(folder, change):
    path = folder / bundles.CARD
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


def value_of(bundle):
    arrays = [bundle.trained_on, *bundle.variables["params"]["stem_conv"].values()]
    rest = [bundle.architecture, bundle.arguments, bundle.preprocessing, bundle.task]
    rest += [bundle.classes, bundle.origin, bundle.sha256]
    return rest, [array.tobytes() for array in arrays]


def flipped(path, seed):
    whole = path.read_bytes()
    for place in np.random.default_rng(seed).integers(0, len(whole) * 8, FLIPS):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        yield place
    path.write_bytes(whole)


def test_a_flipped_bit_of_a_card_is_found_or_harmless(folder):
    wanted, found = value_of(bundles.read(folder)), 0

    for place in flipped(folder / bundles.CARD, 0):
        try:
            assert value_of(bundles.read(folder)) == wanted, place
        except UserError as error:
            assert "model.json" in str(error)
            found += 1

    # The rest are spaces between the fields.
    assert found > 0.6 * FLIPS


def test_a_flipped_bit_of_an_older_card_is_no_traceback(older):
    for _ in flipped(older / bundles.CARD, 1):
        try:
            bundles.read(older)
        except UserError as error:
            assert str(older) in str(error)


def test_an_older_bundle_opens_and_gains_a_sum_when_it_is_written(older, folder):
    assert cards.SUM not in json.loads((older / bundles.CARD).read_text())
    assert cards.SUM in json.loads((folder / bundles.CARD).read_text())
    assert value_of(bundles.read(older)) == value_of(bundles.read(folder))


CHANGES = {
    "a field too many": (lambda c: c.update(note="x"), "'note', which is unknown"),
    "no name": (lambda c: c.update(architecture=3), "'architecture' 3, and it must be"),
    "no task": (lambda c: c.update(task=""), "'task' \"\", and it must be"),
    "classes in a string": (
        lambda c: c.update(classes="0123456789"),
        "'classes' \"0123456789\", and it must be a list",
    ),
    "no classes": (lambda c: c.update(classes=[]), r"'classes' \[\]"),
    "one class twice": (
        lambda c: c["classes"].__setitem__(1, "0"),
        "a list of 1 to 1,048,576 different names",
    ),
    "a class without a name": (
        lambda c: c["classes"].__setitem__(1, ""),
        "different names",
    ),
    "a number as a class": (
        lambda c: c["classes"].__setitem__(1, 1),
        "different names",
    ),
    "fewer classes than outputs": (
        lambda c: c["classes"].pop(),
        "'arguments.outputs' 10, and it must be 9, the number of its classes",
    ),
    "no outputs": (
        lambda c: c["arguments"].pop("outputs"),
        "'arguments.outputs' null, and it must be a whole number",
    ),
    "a rate that is text": (
        lambda c: c["arguments"].update(stochastic_depth="0.2"),
        "'arguments.stochastic_depth' \"0.2\"",
    ),
    "a rate beyond all": (
        lambda c: c["arguments"].update(stochastic_depth=1.5),
        "stochastic_depth must be at least 0 and below 1, not 1.5",
    ),
    "an unknown argument": (
        lambda c: c["arguments"].update(depth=3),
        "takes no argument 'depth'",
    ),
    "frozen by a list": (
        lambda c: c["arguments"].update(frozen_blocks=[1]),
        "malformed 'arguments'",
    ),
    "no number of the file": (
        lambda c: c.update(sha256="0" * 63),
        "it must be 64 hexadecimal digits",
    ),
    "origin is a list": (lambda c: c.update(origin=[]), r"'origin' \[\]"),
    "no mean": (
        lambda c: c["preprocessing"].pop("mean"),
        "lacks 'preprocessing.mean'",
    ),
    "a mean of two": (
        lambda c: c["preprocessing"]["mean"].pop(),
        "a mean of three finite numbers",
    ),
    "a mean that is text": (
        lambda c: c["preprocessing"].update(mean="abc"),
        "'preprocessing.mean' \"abc\", and it must be a list of numbers",
    ),
    "an infinite std": (
        lambda c: c["preprocessing"].update(std=[1e999, 1, 1]),
        "Infinity is not a number",
    ),
    "a billion pixels": (
        lambda c: c["preprocessing"].update(resolution=10**9),
        "a resolution from 1 to 16,384 pixels, got 1000000000",
    ),
    "half a pixel": (
        lambda c: c["preprocessing"].update(resolution=8.5),
        "a resolution from 1 to 16,384 pixels, got 8.5",
    ),
    "an interpolation of nobody's": (
        lambda c: c["preprocessing"].update(interpolation="lanczos"),
        "interpolation 'lanczos' is not known",
    ),
    "preprocessing with more": (
        lambda c: c["preprocessing"].update(sharpen=1),
        "'preprocessing.sharpen', which is unknown",
    ),
}


@pytest.mark.parametrize("summed", [True, False], ids=["with a sum", "without"])
@pytest.mark.parametrize(("change", "says"), CHANGES.values(), ids=CHANGES)
def test_a_field_out_of_its_bounds_is_named(folder, older, change, says, summed):
    place = folder if summed else older
    edit(place, change)

    with pytest.raises(UserError, match=says) as caught:
        bundles.read(place)

    assert f"'{place / bundles.CARD}'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["preprocessing"].update(resolution=9),
        lambda card: card["classes"].reverse(),
        lambda card: card.pop("trained_on_sha256"),
        lambda card: card["origin"].update(steps=13),
    ],
    ids=["resolution", "classes", "what it was trained on", "origin"],
)
def test_a_change_within_the_bounds_is_found_and_may_be_meant(folder, change):
    edit(folder, change)

    with pytest.raises(UserError, match="was changed or damaged after it was written"):
        bundles.read(folder)

    edit(folder, lambda card: card.pop(cards.SUM))
    bundles.read(folder)


def resave(folder, change):
    tensors = load_file(folder / bundles.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / bundles.WEIGHTS)
    sha256 = files.sha256(folder / bundles.WEIGHTS)
    edit(folder, lambda card: card.update(sha256=sha256))


def rename(tensors):
    tensors["params/odd"] = tensors.pop("params/stem_conv/kernel")


def halve(tensors):
    name = "params/stem_conv/kernel"
    tensors[name] = tensors[name].astype(np.float16)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (rename, r"params/odd is float32 \[.*\] in the file and absent in the model"),
        (halve, r"stem_conv/kernel is float16 \[.*\] in the file and float32 \["),
    ],
)
def test_weights_without_a_sum_must_be_those_of_the_model(older, change, says):
    resave(older, change)

    with pytest.raises(UserError, match=says):
        bundles.read(older)


def test_another_architecture_does_not_fit(older):
    edit(older, lambda card: card.update(architecture="efficientnet_mini_s"))

    with pytest.raises(UserError, match="does not fit the model of its card"):
        bundles.read(older)


def test_a_group_and_a_tensor_of_one_name_are_refused(folder):
    resave(folder, lambda t: t.update({"params/stem_conv": np.ones(2, np.float32)}))
    edit(folder, lambda card: card.update(cards.with_sum(card)))

    with pytest.raises(UserError, match="the name of a group of others"):
        bundles.read(folder)


@pytest.mark.parametrize(
    "array", [np.arange(3.0), np.ones((2, 2), np.uint64)], ids=["floats", "a table"]
)
def test_what_it_was_trained_on_is_a_list_of_numbers(folder, array):
    np.save(folder / bundles.TRAINED_ON, array)
    sha256 = files.sha256(folder / bundles.TRAINED_ON)
    edit(folder, lambda card: card.update(trained_on_sha256=sha256))
    edit(folder, lambda card: card.update(cards.with_sum(card)))

    with pytest.raises(UserError, match="is no list of 64-bit numbers"):
        bundles.read(folder)


def test_a_pickled_array_is_not_opened(folder):
    np.save(folder / bundles.TRAINED_ON, np.array([{}]), allow_pickle=True)
    sha256 = files.sha256(folder / bundles.TRAINED_ON)
    edit(folder, lambda card: card.update(trained_on_sha256=sha256))
    edit(folder, lambda card: card.update(cards.with_sum(card)))

    with pytest.raises(UserError, match=r"trained_on\.npy' is not readable NumPy"):
        bundles.read(folder)

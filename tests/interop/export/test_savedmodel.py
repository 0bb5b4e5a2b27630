"""SavedModel: TensorFlow alone computes what the bundle does, from files' bytes."""

import io
import json

import numpy as np
import pytest
from interop.export import some
from PIL import Image

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.images.decode import decode
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop.export import agreement, to_savedmodel

pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def one():
    return some.bundle("test", side=33)


@pytest.fixture(scope="module")
def folder(one, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    to_savedmodel.export(one, path, task=some.task(one))
    return path


@pytest.fixture(scope="module")
def signatures(folder):
    from noisy_student_jax.interop.tensorflow import savedmodel

    return savedmodel.read(folder)[0]


def encoded(image, form, **options):
    held = io.BytesIO()
    Image.fromarray(image).save(held, form, **options)
    return held.getvalue()


def test_photographs_of_any_size_are_seen_nearly_as_predict_sees_them(one, signatures):
    kinds = ("JPEG", "PNG", "JPEG", "BMP", "PNG", "JPEG")
    data = [
        encoded(image, kind)
        for image, kind in zip(some.photographs(), kinds, strict=True)
    ]

    got = signatures["serving_default"](data)

    wanted = some.predictions(one, [decode(file) for file in data])
    some.assert_agree(got, wanted, tolerance=5e-3)


def test_several_networks_with_one_head_are_one_program(tmp_path):
    one = some.concatenated()

    to_savedmodel.export(one, tmp_path / "model", task=some.task(one))

    card = files.read_json(tmp_path / "model" / "assets.extra" / "model.json")
    assert [member["name"] for member in card["members"]] == list(some.MEMBERS)


def test_a_residual_network_is_a_program_too(tmp_path):
    one = some.bundle("wrn_28_2", side=16)

    told = to_savedmodel.export(one, tmp_path / "model", task=some.task(one))

    assert "predictions are the bundle's" in told
    assert (tmp_path / "model" / "saved_model.pb").is_file()


def test_views_are_averaged_in_the_program_too(tmp_path):
    savedmodel = pytest.importorskip("noisy_student_jax.interop.tensorflow.savedmodel")
    one = some.concatenated().in_views(3)

    to_savedmodel.export(one, tmp_path / "model", task=some.task(one))

    signatures, _ = savedmodel.read(tmp_path / "model")
    images = agreement.random_normalized(one)
    got = signatures[savedmodel.NORMALIZED](images)
    some.assert_agree(
        got, agreement.Reference(one, some.task(one)).of_normalized(images)
    )
    whole = agreement.Reference(one.in_views(1), some.task(one)).of_normalized(images)
    assert not np.allclose(got["logits"], whole["logits"], rtol=1e-3)


def test_the_authors_resize_is_inside_too(tmp_path):
    from noisy_student_jax.interop.tensorflow import savedmodel

    one = some.bundle("test", side=33, interpolation="bicubic_tf1")
    to_savedmodel.export(one, tmp_path / "model", task=some.task(one))
    photographs = some.photographs()

    call = savedmodel.read(tmp_path / "model")[0]["serving_default"]
    got = call([encoded(image, "PNG") for image in photographs])

    some.assert_agree(got, some.predictions(one, photographs))


def test_the_other_signature_takes_normalized_images(one, signatures):
    images = agreement.random_normalized(one)

    for count in (1, 2):
        got = signatures["normalized"](images[:count])
        wanted = agreement.Reference(one, some.task(one)).of_normalized(images[:count])
        some.assert_agree(got, wanted)


@pytest.mark.parametrize(("kind", "rare"), [("bicubic", 0.01), ("bilinear", 0.1)])
@pytest.mark.parametrize(("side", "padding"), [(24, 5), (31, 0), (200, 32)])
def test_few_pixels_differ_from_pillows_by_a_level_or_two(kind, rare, side, padding):
    from noisy_student_jax.interop.tensorflow import savedmodel

    preprocessing = Preprocessing(side, padding, kind)

    for image in some.photographs():
        found = savedmodel.crop_and_resize(image, preprocessing)
        some.assert_few_differ(found.numpy(), preprocessing.apply(image), rare)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_jpegs_are_decoded_as_by_pillow(options):
    from noisy_student_jax.interop.tensorflow import savedmodel

    data = encoded(some.photographs()[2], "JPEG", quality=70, **options)

    np.testing.assert_array_equal(savedmodel.decode(data), decode(data))


def test_tensorflow_alone_runs_the_documented_program(one, folder, tmp_path):
    photographs = some.photographs()[:2]
    paths = [tmp_path / f"{number}.jpg" for number in range(len(photographs))]
    for path, image in zip(paths, photographs, strict=True):
        path.write_bytes(encoded(image, "JPEG"))

    program = some.documented("Using the SavedModel")
    out = some.run(program, folder, *paths, folder=tmp_path)

    found = some.predictions(one, map(decode, paths))["probabilities"]
    wanted = [
        f"{path}: {some.CLASSES[row.argmax()]} ({row.max():.1%})"
        for path, row in zip(paths, found, strict=True)
    ]
    assert out == "\n".join(wanted) + "\n"


def test_the_card_is_beside_it(one, folder):
    card = json.loads((folder / "assets.extra" / "model.json").read_text())

    assert card["classes"] == list(some.CLASSES)
    assert card["origin"] == some.ORIGIN
    assert Preprocessing.from_json(card["preprocessing"]) == one.preprocessing


def test_a_program_that_computes_something_else_is_not_kept(one, tmp_path, monkeypatch):
    from noisy_student_jax.interop.tensorflow import savedmodel

    resize = savedmodel.crop_and_resize
    monkeypatch.setattr(
        savedmodel, "crop_and_resize", lambda *arguments: resize(*arguments) / 2
    )

    with pytest.raises(UserError, match="SavedModel was read again and its"):
        to_savedmodel.export(one, tmp_path / "model", task=some.task(one))
    assert not list(tmp_path.iterdir())


def test_a_model_and_a_task_from_outside_can_be_written(tmp_path):
    foreign = some.bundle(
        architecture="outside.gray:averages",
        arguments={"outputs": 2},
        classes=("dark", "bright"),
        variables=averages(),
    )

    to_savedmodel.export(foreign, tmp_path / "model", task=some.task(foreign))

    assert files.tree_hashes(tmp_path, ["model"])


def averages():
    from noisy_student_jax import models
    from noisy_student_jax.models.initialize import initialize

    module = models.create("outside.gray:averages", outputs=2)
    return initialize(module, resolution=8, seed=0)


def test_a_letterbox_is_refused(tmp_path):
    boxed = Preprocessing(8, 0, framing="letterbox")
    one = some.bundle("lite0", preprocessing=boxed)
    with pytest.raises(UserError, match="a SavedModel only crops the middle"):
        to_savedmodel.export(one, tmp_path / "model", task=some.task(one))

"""Datasets that TFDS has prepared: read as they lie on the disk, none fetched."""

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.streaming.records import UNKNOWN
from noisy_student_jax.data.streaming.tfds import tfds_source

FORMATS = ("tfrecord", "array_record")
COUNTS = {"train": 7, "test": 3}
CLASSES = ("cat", "dog")


def prepare(folder, form, *, name="tiny_pets", splits=COUNTS, features=None):
    features = features or tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
    )
    tfds.dataset_builders.store_as_tfds_dataset(
        name,
        "1.0.0",
        features,
        {split: examples(split, count) for split, count in splits.items()},
        data_dir=folder,
        file_format=form,
        disable_shuffling=True,
    )


def image(split, number):
    shape = (4 + number, 5, 3)
    return np.full(shape, 20 * number + (split == "test"), np.uint8)


def examples(split, count):
    return [(n, {"image": image(split, n), "label": n % 2}) for n in range(count)]


@pytest.fixture(scope="module", params=FORMATS)
def data_dir(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    prepare(folder, request.param)
    return str(folder)


@pytest.fixture
def open_source(data_dir, tmp_path):
    def opened(spec, **options):
        options = {"name": "labeled", "labeled": True, "data_dir": data_dir} | options
        return tfds_source(spec, index_folder=tmp_path / "index", **options)

    return opened


def test_a_split_is_found_by_name_with_images_labels_and_classes(open_source):
    source = open_source("tiny_pets:train")

    assert len(source) == 7
    assert source.classes == CLASSES
    assert source.labels.tolist() == [n % 2 for n in range(7)]
    assert source.key(3).startswith("labeled/tiny_pets-train.")
    assert source.key(3).endswith("-00000-of-00001/00000003")
    examples = source.read([6, 0, 6])
    for found, number in zip(examples.images, (6, 0, 6), strict=True):
        np.testing.assert_array_equal(found, image("train", number))
    assert examples.labels.tolist() == [0, 0, 0]


def test_a_split_is_found_in_a_folder_and_by_its_version(open_source, data_dir):
    folder = pathlib.Path(data_dir) / "tiny_pets" / "1.0.0"
    wanted = open_source("tiny_pets:test")
    for spec in (f"{folder}:test", "tiny_pets:1.0.0:test", "tiny_pets:1.*.*:test"):
        source = open_source(spec)
        assert len(source) == 3
        assert source.fingerprint == wanted.fingerprint
        np.testing.assert_array_equal(source.read([2]).images[0], image("test", 2))


def test_a_part_of_a_split_keeps_the_keys_of_the_whole(open_source):
    whole, part = open_source("tiny_pets:train"), open_source("tiny_pets:train[2:5]")

    assert [part.key(n) for n in range(3)] == [whole.key(n) for n in (2, 3, 4)]
    assert part.labels.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(part.read([1]).images[0], image("train", 3))


def test_labels_may_be_hidden(open_source):
    source = open_source("tiny_pets:train", labeled=False)

    assert source.labels is None
    assert source.classes == ()
    assert source.read([0]).labels is None


def test_the_split_has_to_be_named_where_there_are_several(open_source, tmp_path):
    with pytest.raises(UserError, match="has the splits train, test: name the one"):
        open_source("tiny_pets")
    with pytest.raises(UserError, match="no split 'tran'; did you mean 'train'"):
        open_source("tiny_pets:tran")
    with pytest.raises(UserError, match=r"no split 'train\[:x\]'"):
        open_source("tiny_pets:train[:x]")

    prepare(tmp_path / "one", "tfrecord", splits={"train": 2})
    assert len(open_source("tiny_pets", data_dir=str(tmp_path / "one"))) == 2


def test_a_data_set_that_is_not_prepared_is_refused_with_what_to_do(open_source):
    with pytest.raises(
        UserError, match=r"no prepared TFDS dataset 'mnist'.*tfds build"
    ):
        open_source("mnist:train")
    with pytest.raises(UserError, match="names no dataset of TFDS"):
        open_source(":train")


def test_other_classes_than_those_of_the_labeled_images_are_refused(open_source):
    assert open_source("tiny_pets:test", classes=CLASSES).classes == CLASSES
    with pytest.raises(UserError, match="classes of TFDS dataset 'tiny_pets/"):
        open_source("tiny_pets:test", classes=("dog", "cat"))


def test_a_data_set_without_images_or_classes_is_refused(open_source):
    with pytest.raises(
        UserError, match=r"no feature 'photo' that is an image \(its fea"
    ):
        open_source("tiny_pets:train", image="photo")
    with pytest.raises(UserError, match="no feature 'image' that is a class"):
        open_source("tiny_pets:train", label="image")


def test_what_is_damaged_is_named_and_the_others_stay(open_source, data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "damaged")
    (path,) = (tmp_path / "damaged").rglob("*-train.*")
    data = bytearray(path.read_bytes())
    # In the pixels of one image: its header is there seven times.
    places = [n for n in range(len(data)) if data[n : n + 4] == b"IDAT"]
    assert len(places) == 7
    data[places[4] + 10] ^= 0xFF
    path.write_bytes(data)

    source = open_source("tiny_pets:train", data_dir=str(tmp_path / "damaged"))
    examples = source.read(range(7))

    good = [status == "ok" for status in examples.status]
    assert good == [True] * 4 + [False] + [True] * 2
    assert examples.status[4].startswith("damaged: ")
    assert source.labels.tolist() == [0, 1, 0, 1, UNKNOWN, 1, 0]

"""People's own images with boxes: what becomes of folders."""

import pathlib
import shutil

import numpy as np
import pytest
from drawn_boxes import FORMS, save, write_yolo
from PIL import Image

from noisy_student_jax import data as datasets
from noisy_student_jax.config import ConfigDict, base_config
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.annotations import orientation
from noisy_student_jax.data.annotations.folder import Folder
from noisy_student_jax.data.labels import OBJECT, class_counts
from noisy_student_jax.data.sources import fingerprint
from noisy_student_jax.images.decode import inspect

COUNT = 20
BOXES = [[(2.0, 3.0, 12.0, 13.0), (20.0, 4.0, 36.0, 28.0)] for _ in range(COUNT)]
CLASSES = [[0, 1] if number % 4 == 0 else [0, 0] for number in range(COUNT)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Images with boxes, and others without. Do not change."""
    root = tmp_path_factory.mktemp("folders")
    (root / "labeled").mkdir()
    write_yolo(root / "labeled", BOXES, CLASSES)
    for number in range(6):
        save(root / "unlabeled" / f"{number}.png", 1000 + number)
    return root


@pytest.fixture
def copied(folders, tmp_path):
    """The same, to change."""
    return pathlib.Path(shutil.copytree(folders, tmp_path / "copied"))


def load(root, cache, *, look_only=False, **fields):
    section = base_config().data
    section.update(name="boxes", cache=str(cache), side=16, workers=1)
    section.sources.update(
        labeled=str(root / "labeled"), unlabeled=str(root / "unlabeled")
    )
    section.sources.update(fields.pop("sources", {}))
    section.update(ConfigDict({"validation_fraction": 0.2, **fields}))
    return datasets.load(
        section,
        seed=0,
        interruption=Interruption(),
        progress=Progress(),
        look_only=look_only,
    )


def sizes(dataset):
    return {name: len(part) for name, part in dataset.parts().items()}


def names(source):
    """Returns the paths of a source's images."""
    return {source.key(n).rpartition(":")[0] for n in range(len(source))}


@pytest.fixture(scope="module")
def loaded(folders, tmp_path_factory):
    return load(folders, tmp_path_factory.mktemp("cache"))


def test_images_are_split_and_none_is_lost(loaded):
    assert sizes(loaded) == {"labeled": 12, "pool": 6, "validation": 4, "test": 4}
    assert loaded.classes == ("cell", "dust")
    assert loaded.facts["read from labeled"] == "20 entries = 20 used + 0 left out"


def test_a_rare_class_is_in_each_part(loaded):
    for name in ("labeled", "validation", "test"):
        labels = loaded.parts()[name].labels
        assert (class_counts(labels, 2).sum(0) > 0).all(), name


def test_labels_are_boxes_in_units_of_the_longer_side(loaded):
    labels = loaded.labeled.labels

    assert labels.shape == (12, 2, 6) and labels.dtype == np.float32
    expected = np.array([2, 3, 12, 13]) / 40
    np.testing.assert_allclose(labels[:, 0, :4] - expected, 0, atol=1e-6)
    assert (labels[..., 5] == OBJECT).all()
    examples = loaded.labeled.read([3, 1])
    np.testing.assert_array_equal(examples.labels, labels[[3, 1]])
    assert loaded.pool.read([0]).labels is None


@pytest.mark.parametrize("form", FORMS)
def test_each_format_gives_the_same_parts_and_labels(form, loaded, folders, tmp_path):
    (tmp_path / "labeled").mkdir()
    FORMS[form](tmp_path / "labeled", BOXES, CLASSES)
    shutil.copytree(folders / "unlabeled", tmp_path / "unlabeled")
    found = load(tmp_path, tmp_path / "cache")

    for name in ("labeled", "validation", "test"):
        one, other = found.parts()[name], loaded.parts()[name]
        assert one.sha256 == other.sha256
        np.testing.assert_allclose(one.labels, other.labels, atol=1e-6)


def test_another_box_is_another_fingerprint(copied, loaded, tmp_path):
    path = copied / "labeled" / "labels" / "0.txt"
    path.write_text(path.read_text().replace("0.175", "0.176"))
    found = load(copied, tmp_path / "cache")
    before, after = (
        {name: fingerprint(part) for name, part in one.parts().items()}
        for one in (loaded, found)
    )

    assert sum(before[name] != after[name] for name in before) == 1


def test_looking_only_counts_the_same_parts(folders, loaded, tmp_path):
    found = load(folders, tmp_path / "cache", look_only=True)

    assert sum(sizes(found).values()) == sum(sizes(loaded).values())
    assert not (tmp_path / "cache").exists()


def test_splits_of_the_folders_own_are_used(copied, tmp_path):
    root = copied / "labeled"
    for number in range(COUNT):
        part = "test" if number >= 16 else "val" if number >= 12 else "train"
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            (root / kind / part).mkdir(exist_ok=True)
            path = root / kind / f"{number}.{suffix}"
            path.rename(root / kind / part / path.name)
    found = load(copied, tmp_path / "cache")

    assert sizes(found) == {"labeled": 12, "pool": 6, "validation": 4, "test": 4}
    assert names(found.test) == {f"labeled/images/test/{n}.jpg" for n in range(16, 20)}
    assert "split" not in found.facts
    shutil.rmtree(root / "images" / "test")
    found = load(copied, tmp_path / "other")
    assert sizes(found)["validation"] == 4
    assert found.facts["split"].endswith(f"{12 - sizes(found)['test']} labeled, 2 test")


def test_a_test_set_of_its_own_has_the_same_classes(folders, tmp_path):
    (tmp_path / "test").mkdir()
    boxes, classes = [[(1.0, 1.0, 9.0, 9.0)] for _ in range(24)], [[0]] * 24
    write_yolo(tmp_path / "test", boxes, classes, ("dust", "cell"))
    for number in range(COUNT):  # of equal bytes
        path = tmp_path / "test" / "images" / f"{number}.jpg"
        save(path, 5000 + number)
    (tmp_path / "test" / "labels" / "23.txt").unlink()
    found = load(folders, tmp_path / "cache", sources={"test": str(tmp_path / "test")})

    assert sizes(found)["test"] == 23
    assert (found.test.labels[:, 0, 4] == 1).all()
    assert found.facts["left out of test: no boxes are known of them"] == 1


def test_images_without_a_label_file_join_the_pool(copied, tmp_path):
    for number in (3, 7):
        (copied / "labeled" / "labels" / f"{number}.txt").unlink()
    found = load(copied, tmp_path / "cache")

    assert sizes(found)["pool"] == 8
    assert names(found.pool) >= {"labeled/images/3.jpg", "labeled/images/7.jpg"}
    read = found.pool.read([7, 0, 1])
    assert read.status == ["ok"] * 3 and read.labels is None
    shape = read.images[0].shape
    assert shape == found.pool.read([7]).images[0].shape
    assert len(set(found.pool.pixel_hashes)) == 8


def test_the_pool_may_be_the_images_without_a_label_file(copied, tmp_path):
    for number in (3, 7):
        (copied / "labeled" / "labels" / f"{number}.txt").unlink()
    found = load(copied, tmp_path / "cache", sources={"unlabeled": None})
    assert sizes(found)["pool"] == 2

    (copied / "labeled" / "labels" / "3.txt").write_text("")
    (copied / "labeled" / "labels" / "7.txt").write_text("")
    with pytest.raises(UserError, match="no unlabeled images are given"):
        load(copied, tmp_path / "cache", sources={"unlabeled": None})


def test_few_labels_are_images_with_each_class(folders, tmp_path):
    found = load(folders, tmp_path / "cache", labels_per_class=2)

    counts = class_counts(found.labeled.labels, 2)
    assert ((counts > 0).sum(0) >= 2).all()
    assert len(found.labeled) < 12


def test_images_that_look_alike_stay_on_one_side(copied, tmp_path):
    blocks = np.random.default_rng(9).integers(20, 230, (6, 8), np.uint8)
    pattern = np.kron(blocks, np.ones((5, 5), np.uint8))[..., None].repeat(3, axis=2)
    for number in range(8):
        shifted = pattern + np.uint8(number)
        path = copied / "labeled" / "images" / f"{number}.jpg"
        Image.fromarray(shifted).save(path.with_suffix(".png"))
        path.unlink()
    found = load(copied, tmp_path / "cache")
    alike = {f"labeled/images/{number}.png" for number in range(8)}
    where = [name for name, part in found.parts().items() if alike & names(part)]

    assert len(where) == 1
    assert found.facts["labeled images that look alike"].startswith("8 in 1 groups")


def test_an_image_keeps_its_part_when_the_folder_grows(copied, tmp_path):
    before = load(copied, tmp_path / "cache")
    for number in range(COUNT, COUNT + 10):
        save(copied / "labeled" / "images" / f"{number}.jpg", number)
        text = (copied / "labeled" / "labels" / "0.txt").read_text()
        (copied / "labeled" / "labels" / f"{number}.txt").write_text(text)
    after = load(copied, tmp_path / "cache")

    assert len(after.labeled) > len(before.labeled)
    for name in ("labeled", "validation", "test"):
        assert names(before.parts()[name]) <= names(after.parts()[name])


def test_copies_with_other_boxes_are_left_out_and_equal_ones_count_once(
    copied, tmp_path, capsys
):
    images, labels = (copied / "labeled" / kind for kind in ("images", "labels"))
    shutil.copy(images / "1.jpg", images / "copy_a.jpg")
    shutil.copy(labels / "1.txt", labels / "copy_a.txt")
    shutil.copy(images / "2.jpg", images / "copy_b.jpg")
    (labels / "copy_b.txt").write_text("")
    found = load(copied, tmp_path / "cache")

    assert found.facts["left out of labeled: one image with other boxes"] == 2
    assert found.facts["left out of labeled: byte-identical copies of each other"] == 1
    assert "because copies of them have other boxes" in capsys.readouterr().out


def test_headers_are_read_once_until_a_file_changes(copied, tmp_path, monkeypatch):
    """A file that cannot be read is tried again."""
    images = copied / "labeled" / "images"
    (images / "1.jpg").write_bytes(b"no image")
    opened = []

    def counting(path):
        opened.append(path.name)
        return inspect(path)

    monkeypatch.setattr(orientation, "inspect", counting)

    def labels(**how):
        opened.clear()
        found = load(copied, tmp_path / "cache", max_quarantined=0.2, **how)
        return {name: part.labels for name, part in found.parts().items()}

    first = labels()
    assert set(opened) == {f"{number}.jpg" for number in range(COUNT)}
    for look_only in (False, True):
        again = labels(look_only=look_only)
        assert opened == ["1.jpg"]
        for name in ("labeled", "validation", "test"):
            np.testing.assert_array_equal(first[name], again[name])
    save(images / "2.jpg", 99, orientation=6)
    labels(look_only=True)
    labels()
    assert len(set(opened)) == COUNT, "looking keeps nothing"
    labels()
    assert opened == ["1.jpg"]


def test_sizes_are_kept_with_their_turn(tmp_path):
    read = {}

    def kept(name, state, make):
        return read.setdefault(name, make())

    for number in range(1, 9):
        save(tmp_path / f"{number}.jpg", size=(40 + number, 30), orientation=number)
    folder, paths = Folder(tmp_path), [f"{number}.jpg" for number in range(1, 9)]
    sizes = orientation.all_measured(folder, paths, kept)
    assert sizes == [orientation.measured(tmp_path / path) for path in paths]
    assert [size.orientation for size in sizes] == list(range(1, 9))


def test_missing_and_broken_images_are_quarantined(copied, tmp_path):
    (copied / "labeled" / "images" / "1.jpg").write_bytes(b"no image")
    found = load(copied, tmp_path / "cache", max_quarantined=0.2)

    assert [key for key, _ in found.quarantined] == ["labeled/images/1.jpg"]
    assert sum(sizes(found).values()) == COUNT - 1 + 6


def test_boxes_are_described_for_the_report(loaded):
    facts = loaded.facts

    assert facts["boxes per image of labeled"] == "2 to 2, median 2"
    assert facts["boxes of labeled"].startswith("cell 21 in 12 images, dust 3 in 3")
    assert "5, 50 and 95 %" in facts["box sizes of labeled"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"pipeline": "streamed"}, "pipeline is 'streamed', but images with boxes"),
        ({"validation_fraction": 0}, "validation_fraction is 0, but images with boxes"),
        ({"sources": {"labeled": None}}, "a folder with images and their boxes"),
        ({"sources": {"labeled": "tfds:x"}}, "images with boxes are read from folders"),
        ({"sources": {"labeled": "/gone"}}, "'/gone' does not exist"),
    ],
)
def test_settings_that_do_not_suit_boxes_are_refused(fields, told, folders, tmp_path):
    with pytest.raises(UserError, match=told):
        load(folders, tmp_path / "cache", **fields)

"""Image files that are read when they are needed, without a cache."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from noisy_student_jax.data.cache.listing import list_classes, list_images
from noisy_student_jax.data.encoded import FolderSource, is_encoded
from noisy_student_jax.data.sources import ArraySource, fingerprint
from noisy_student_jax.images import decode
from noisy_student_jax.images.decode import Decoding


def png(value, side=6):
    image = np.full((side, side + 1, 3), value, np.uint8)
    held = io.BytesIO()
    Image.fromarray(image).save(held, "PNG")
    return held.getvalue()


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(10 * number))
    return tmp_path / "images"


@pytest.fixture
def source(folder):
    return FolderSource(list_classes(folder), "labeled")


def test_records_are_the_files_under_their_names(source, folder):
    assert len(source) == 6
    assert source.key(0) == "labeled/a/0.png"
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    encoded = source.read_encoded([4, 0])
    assert encoded.data == [png(30), png(0)]
    assert encoded.status == ["ok", "ok"]


def test_records_are_decoded_in_the_order_asked_for(source):
    examples = source.read([4, 0, 4])

    assert [image[0, 0, 0] for image in examples.images] == [30, 0, 30]
    assert examples.images[0].shape == (6, 7, 3)
    assert examples.status == ["ok"] * 3
    assert examples.labels.tolist() == [1, 0, 1]


def test_names_are_safe_to_print(folder):
    (folder / "a" / "new\nline.png").write_bytes(png(1))
    source = FolderSource(list_images(folder), "unlabeled")

    keys = [source.key(index) for index in range(len(source))]
    assert "unlabeled/a/new\\nline.png" in keys
    assert source.read([keys.index("unlabeled/a/new\\nline.png")]).status == ["ok"]


def test_what_cannot_be_read_or_decoded_says_why_and_the_others_stay(
    source, folder, monkeypatch
):
    monkeypatch.setattr(decode, "MAX_BYTES", 1000)
    (folder / "a" / "0.png").unlink()
    (folder / "a" / "2.png").write_bytes(b"<html>")
    (folder / "a" / "4.png").write_bytes(b"0" * 1001)
    (folder / "b" / "1.png").unlink()
    os.mkfifo(folder / "b" / "1.png")

    examples = source.read(range(6))

    assert examples.status == [
        "No such file or directory",
        "not an image of a known format",
        "1,001 bytes, more than 1,000",
        "not a regular file",
        "ok",
        "ok",
    ]
    assert [image is None for image in examples.images] == [True] * 4 + [False] * 2
    raw = source.read_encoded(range(6))
    assert [data is None for data in raw.data] == [
        True,
        False,
        True,
        True,
        False,
        False,
    ]
    assert raw.status[1] == "ok"


def test_a_source_of_files_is_encoded_and_one_of_images_is_not(source):
    assert is_encoded(source)
    assert not is_encoded(ArraySource([], []))


def test_a_subset_keeps_keys_and_labels_together(source):
    some = source.subset(np.array([5, 1]))

    assert [some.key(0), some.key(1)] == ["labeled/b/5.png", "labeled/a/2.png"]
    assert some.labels.tolist() == [1, 0]
    assert [image[0, 0, 0] for image in some.read([0, 1]).images] == [50, 20]
    assert some.subset(np.array([1])).key(0) == "labeled/a/2.png"


def test_a_subset_may_hide_the_labels(source):
    some = source.subset(np.array([5, 1]), labeled=False)

    assert some.labels is None
    assert some.read([0]).labels is None


def test_the_fingerprint_tells_files_and_labels_apart(source, folder, tmp_path):
    same = FolderSource(list_classes(folder), "labeled")
    assert fingerprint(source) == source.fingerprint == same.fingerprint

    shutil.copytree(folder, tmp_path / "relabeled")
    shutil.move(tmp_path / "relabeled" / "a", tmp_path / "relabeled" / "c")
    others = [
        source.subset(np.arange(5)),
        source.subset(np.arange(6), labeled=False),
        source.subset(np.arange(6)[::-1]),
        FolderSource(list_classes(tmp_path / "relabeled"), "labeled"),
    ]
    changed = folder / "a" / "0.png"
    os.utime(changed, ns=(0, 1))
    others.append(FolderSource(list_classes(folder), "labeled"))
    changed.write_bytes(png(7) + b"0")
    os.utime(changed, ns=(0, 1))
    others.append(FolderSource(list_classes(folder), "labeled"))

    assert len({source.fingerprint, *(other.fingerprint for other in others)}) == 7


def test_a_given_scale_belongs_to_a_source(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.uint16([[0, 1000]])).save(tmp_path / "in" / "1.png")
    listing = list_images(tmp_path / "in")
    plain = FolderSource(listing, "unlabeled")

    given = FolderSource(
        listing, "unlabeled", decoding=Decoding(scales={"*": (0.0, 2000.0)})
    )

    assert given.fingerprint != plain.fingerprint
    assert given.subset(np.array([0])).fingerprint == given.fingerprint
    assert given.read([0]).images[0][0, 1, 0] == 128
    assert plain.read([0]).images[0][0, 1, 0] == 4

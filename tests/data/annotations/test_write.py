"""Boxes in other programs' formats."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from drawn_boxes import FORMS, write_voc

from noisy_student_jax.data.annotations import write
from noisy_student_jax.data.annotations.formats import read as read_folder
from noisy_student_jax.data.labels import IGNORE


def read(root):
    return read_folder(root)[0]


def written(found, images_from, root, form):
    """Writes boxes in a format into a folder with the images; reads them again."""
    shutil.copytree(images_from, root / images_from.name)
    write.FORMATS[form](root, found.images, found.names)
    return read(root)


def check_equal(one, other):
    assert one.names == other.names
    for a, b in zip(one.images, other.images, strict=True):
        assert (a.path, a.size, a.split) == (b.path, b.size, b.split)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-6)
        assert a.classes.tolist() == b.classes.tolist()
        assert a.kinds.tolist() == b.kinds.tolist()


def test_boxes_are_equal_after_a_round_trip_through_all_formats(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    write_voc(first)
    lists = first / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, stem in (("train", "0\n3"), ("val", "1"), ("test", "2")):
        (lists / f"{split}.txt").write_text(stem)
    found = start = read(first)
    assert {image.split for image in start.images} == {"labeled", "validation", "test"}

    for form in ("coco", "yolo", "csv", "voc"):
        found = written(found, first / "JPEGImages", tmp_path / form, form)
        check_equal(start, found)


@pytest.mark.parametrize("form", ["coco", "voc", "csv"])
def test_regions_to_be_ignored_stay_so(form, tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    FORMS["coco"](first)
    found = read(first)
    crowd = dataclasses.replace(found.images[0], kinds=np.array([1, IGNORE]))
    found = dataclasses.replace(found, images=(crowd, *found.images[1:]))
    check_equal(found, written(found, first / "images", tmp_path / "to", form))


def test_names_that_yaml_would_misread_are_kept(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    names = ("no", 'a "b": {c} # ü')
    FORMS["coco"](first, names=names)
    found = written(read(first), first / "images", tmp_path / "to", "yolo")

    assert found.names == names


def test_an_unlabeled_image_is_not_written_as_one_without_objects(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    FORMS["yolo"](first)
    (first / "labels" / "1.txt").unlink()
    found = read(first)

    for form in write.FORMATS:
        again = written(found, first / "images", tmp_path / form, form)
        assert [image.annotated for image in again.images] == [True, False, True, True]


PREDICTED = write.predicted(
    "images/a.jpg",
    (40, 20),
    boxes=np.array([[0.1, 0.05, 0.5, 0.25], [0.9, 0.4, 1.2, 0.8], [0, 0, 0, 0]]),
    classes=np.array([1, 0, 0]),
    scores=np.array([0.75, 0.5, 0.0]),
)


def test_predictions_are_in_pixels_and_end_at_the_image():
    assert PREDICTED.boxes.tolist() == [[4, 2, 20, 10], [36, 16, 40, 20]]
    assert PREDICTED.scores.tolist() == [0.75, 0.5]


def test_coco_results_have_the_ids_of_the_dataset(tmp_path):
    path = tmp_path / "results.json"
    write.coco_results(path, [PREDICTED], image_ids=[17], category_ids=[7, 8])

    assert json.loads(path.read_text()) == [
        {"image_id": 17, "category_id": 8, "bbox": [4, 2, 16, 8], "score": 0.75},
        {"image_id": 17, "category_id": 7, "bbox": [36, 16, 4, 4], "score": 0.5},
    ]


def test_scores_are_kept_where_a_format_has_them(tmp_path):
    write.coco(tmp_path, [PREDICTED], ("cell", "dust"))
    write.voc(tmp_path, [PREDICTED], ("cell", "dust"))
    document = json.loads((tmp_path / "annotations/instances_default.json").read_text())

    assert [one["score"] for one in document["annotations"]] == [0.75, 0.5]
    text = (tmp_path / "Annotations" / "images" / "a.xml").read_text()
    assert "<confidence>0.75</confidence>" in text


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("a.jpg", "labels/a.txt"),
        ("images/train/a.b.jpg", "labels/train/a.b.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("x/a.jpg", "labels/x/a.txt"),
    ],
)
def test_label_files_lie_where_other_programs_look(path, label):
    assert write.label_path(path) == label

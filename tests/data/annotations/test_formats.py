"""Folders of boxes: which format they are in, and what it says."""

import numpy as np
import pytest
from drawn_boxes import (
    BOXES,
    CLASSES,
    FORMS,
    NAMES,
    coco_document,
    save,
    save_all,
    write_json,
    write_voc,
    write_yolo,
)

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.annotations.formats import read as read_folder
from noisy_student_jax.data.labels import IGNORE, OBJECT


def read(root, **options):
    return read_folder(root, **options)[0]


@pytest.mark.parametrize("form", FORMS)
def test_each_format_gives_the_same_boxes(form, tmp_path):
    FORMS[form](tmp_path)
    found = read(tmp_path)

    assert found.names == NAMES
    for image, boxes, classes in zip(found.images, BOXES, CLASSES, strict=True):
        np.testing.assert_allclose(image.boxes, np.reshape(boxes, (-1, 4)), atol=1e-9)
        assert image.classes.tolist() == classes
        assert image.size == (40, 30)
        assert image.annotated and image.split is None
        assert (image.kinds == OBJECT).all()


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("coco", "COCO JSON (1 file)"),
        ("yolo", "YOLO text (4 files)"),
        ("voc", "Pascal VOC XML (4 files)"),
        ("csv", "CSV of boxes (1 file)"),
    ],
)
def test_the_format_is_named(form, told, tmp_path):
    FORMS[form](tmp_path)

    assert read(tmp_path).told == told


def test_a_second_format_is_named_and_not_read(tmp_path):
    write_yolo(tmp_path)
    FORMS["csv"](tmp_path)

    assert "CSV of boxes too, which is not read" in read(tmp_path).told


def test_a_folder_without_boxes_is_told_what_is_read(tmp_path):
    save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="1 images and no boxes: boxes are read from"):
        read(tmp_path)
    (tmp_path / "t.csv").write_text("picture,x\na.jpg,1\n")
    with pytest.raises(UserError, match=r"the columns of 't.csv' are 'picture,x'"):
        read(tmp_path)
    (tmp_path / "a.json").write_text('{\n"images": [\n')
    with pytest.raises(UserError, match=r"line 3 of 'a.json' is not JSON"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train/_annotations.coco.json", "test/_annotations.coco.json"),
        ("annotations/instances_train2017.json", "annotations/instances_test2017.json"),
    ],
)
def test_splits_of_several_coco_files_are_taken(train, test, tmp_path):
    for split in ("train", "test"):
        save_all(tmp_path, split)
    write_json(tmp_path / train, coco_document())
    write_json(tmp_path / test, coco_document())
    found = {image.path: image.split for image in read(tmp_path).images}

    assert found == {
        f"{split}/{number}.jpg": part
        for split, part in (("train", "labeled"), ("test", "test"))
        for number in range(4)
    }


def test_label_studios_coco_file_is_read(tmp_path):
    save_all(tmp_path)
    document = coco_document()
    for image in document["images"]:
        image["file_name"] = f"..\\..\\upload\\1\\images\\{image['file_name']}"
    write_json(tmp_path / "result.json", document)

    assert [len(image.boxes) for image in read(tmp_path).images] == [2, 1, 0, 2]


def test_a_coco_file_alone_may_be_given(tmp_path):
    FORMS["coco"](tmp_path)
    found = read(tmp_path / "annotations" / "instances.json")

    assert sum(len(image.boxes) for image in found.images) == 5


def test_a_crowd_is_neither_hit_nor_miss(tmp_path):
    document = coco_document()
    document["annotations"][1]["iscrowd"] = 1
    save_all(tmp_path)
    write_json(tmp_path / "boxes.json", document)

    assert read(tmp_path).images[0].kinds.tolist() == [OBJECT, IGNORE]


def test_a_category_that_only_groups_others_is_no_class(tmp_path):
    document = coco_document()
    for category in document["categories"]:
        category["supercategory"] = "things"
    document["categories"].append({"id": 0, "name": "things"})
    save_all(tmp_path)
    write_json(tmp_path / "boxes.json", document)

    assert read(tmp_path).names == NAMES


def test_coco_polygons_are_reduced_and_counted(tmp_path):
    document = coco_document()
    del document["annotations"][0]["bbox"]
    document["annotations"][0]["segmentation"] = [[2, 3, 12, 3, 7, 13]]
    save_all(tmp_path)
    write_json(tmp_path / "boxes.json", document)
    found = read(tmp_path)

    assert found.images[0].boxes[0].tolist() == [2, 3, 12, 13]
    assert any("1 polygons were reduced" in line for line in found.notes.lines())


def test_a_difficult_object_is_neither_hit_nor_miss(tmp_path):
    write_voc(tmp_path)
    path = tmp_path / "Annotations" / "1.xml"
    text = path.read_text().replace("<difficult>0<", "<difficult>1<")
    path.write_text(text)

    assert read(tmp_path).images[1].kinds.tolist() == [IGNORE]


def test_vocs_lists_of_splits_are_taken(tmp_path):
    write_voc(tmp_path)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n1\n")
    (lists / "val.txt").write_text("2\n")
    (lists / "test.txt").write_text("3\n")
    (lists / "cell_train.txt").write_text("3 1\n")

    assert [image.split for image in read(tmp_path).images] == [
        *("labeled", "labeled", "validation", "test")
    ]


def test_voc_files_may_lie_beside_their_images(tmp_path):
    write_voc(tmp_path)
    for path in [*tmp_path.glob("*/*.jpg"), *tmp_path.glob("*/*.xml")]:
        path.rename(tmp_path / path.name)

    assert [len(image.boxes) for image in read(tmp_path).images] == [2, 1, 0, 2]


def test_the_yaml_files_order_of_classes_counts(tmp_path):
    write_yolo(tmp_path, names=("zebra", "ant"))
    found = read(tmp_path)

    assert found.names == ("zebra", "ant")
    assert found.images[0].classes.tolist() == [0, 1]


def test_class_names_may_be_numbered_in_the_yaml_file(tmp_path):
    write_yolo(tmp_path, names=None)
    (tmp_path / "data.yaml").write_text("names:\n  1: dust\n  0: cell\n")

    assert read(tmp_path).names == NAMES


def test_yolo_names_may_be_in_classes_txt(tmp_path):
    write_yolo(tmp_path, names=None)
    (tmp_path / "classes.txt").write_text("cell\ndust\n")

    assert read(tmp_path).names == NAMES


def test_the_folder_of_one_split_has_the_names_of_its_dataset(tmp_path):
    (tmp_path / "train").mkdir()
    write_yolo(tmp_path / "train", names=None)
    (tmp_path / "data.yaml").write_text("names: [cell, dust]\ntrain: train/images\n")
    (tmp_path / "other").mkdir()
    write_yolo(tmp_path / "other", names=None)

    assert read(tmp_path / "train").names == NAMES
    assert read(tmp_path / "other").names == ("0", "1")


def test_without_names_yolo_classes_are_their_numbers(tmp_path):
    write_yolo(tmp_path, names=None)
    found = read(tmp_path)

    assert found.names == ("0", "1")
    assert any("classes have no names" in line for line in found.notes.lines())


def test_an_empty_label_file_has_no_objects_and_a_missing_one_no_labels(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "labels" / "1.txt").unlink()
    found = read(tmp_path)

    assert [image.annotated for image in found.images] == [True, False, True, True]
    assert len(found.images[2].boxes) == 0
    assert (
        "1 images have no label file and count as unlabeled: 'images/1.jpg'"
        in found.notes.lines()
    )


def test_yolo_polygons_are_reduced_and_counted(tmp_path):
    write_yolo(tmp_path)
    path = tmp_path / "labels" / "1.txt"
    path.write_text("0 0.125 0.5 0.375 0.5 0.25 0.8\n")
    found = read(tmp_path)

    np.testing.assert_allclose(found.images[1].boxes, [[5, 15, 15, 24]])
    assert any("polygons were reduced" in line for line in found.notes.lines())


@pytest.mark.parametrize("layout", ["{kind}/{split}", "{split}/{kind}"])
@pytest.mark.parametrize("given", ["./images/train", "../train/images", "/gone/x"])
def test_yolo_splits_are_taken_from_folders_and_the_yaml_file(layout, given, tmp_path):
    for number, split in enumerate(("train", "valid", "test")):
        images = layout.format(kind="images", split=split)
        labels = layout.format(kind="labels", split=split)
        save(tmp_path / images / "a.jpg", number)
        (tmp_path / labels).mkdir(parents=True, exist_ok=True)
        (tmp_path / labels / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data.yaml").write_text(f"train: {given}\nnames: [cell, dust]\n")
    found = {image.split for image in read(tmp_path).images}

    assert found == {"labeled", "validation", "test"}


def test_folders_may_be_links(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write_yolo(tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    for name in ("images", "labels", "data.yaml"):
        (tmp_path / "here" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "here" / "loop").symlink_to(tmp_path / "here")

    assert [len(one.boxes) for one in read(tmp_path / "here").images] == [2, 1, 0, 2]


def test_yolo_lists_of_images_are_splits(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [cell, dust]\ntrain: a.txt\nval: b.txt")
    (tmp_path / "a.txt").write_text("./images/0.jpg\n./images/1.jpg\n")
    (tmp_path / "b.txt").write_text("/home/me/images/2.jpg\n")

    assert [image.split for image in read(tmp_path).images] == [
        *("labeled", "labeled", "validation", None)
    ]


def test_open_images_tables_are_read(tmp_path):
    save_all(tmp_path, "train")
    (tmp_path / "boxes.csv").write_text(
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"
        "0,x,/m/01,1,0.05,0.3,0.1,0.5,0\n"
        "1,x,/m/02,1,0.5,1,0.5,1,1\n"
    )
    found = read(tmp_path)

    assert found.names == ("/m/01", "/m/02")
    np.testing.assert_allclose(found.images[0].boxes, [[2, 3, 12, 15]])
    assert found.images[1].kinds.tolist() == [IGNORE]
    assert not found.images[2].annotated
    assert any("fractions from 0 to 1" in line for line in found.notes.lines())


def test_csv_files_of_splits_are_taken(tmp_path):
    save_all(tmp_path)
    header = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    train = header + "0.jpg,40,30,cell,1,2,11,12\n"
    (tmp_path / "train_labels.csv").write_text(train)
    (tmp_path / "test_labels.csv").write_text(header + "1.jpg,40,30,dust,1,2,11,12\n")

    assert [image.split for image in read(tmp_path).images][:2] == ["labeled", "test"]


def test_classes_of_another_source_keep_their_order(tmp_path):
    write_yolo(tmp_path, names=("dust", "cell"))
    found = read(tmp_path, classes=NAMES)

    assert found.names == NAMES
    assert found.images[0].classes.tolist() == [1, 0]
    with pytest.raises(UserError, match=r"of the class 'dust', which is not among"):
        read(tmp_path, classes=("cell", "dusk"))

"""Bad annotations: single ones are left out and named, bad exports are refused."""

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
    write_coco,
    write_csv,
    write_json,
    write_voc,
    write_yolo,
)

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.annotations.formats import read as read_folder

MANY = tuple([(2.0, 3.0, 12.0, 13.0), (20.0, 4.0, 36.0, 28.0)] for _ in range(20))
MANY_CLASSES = tuple([0, 1] for _ in MANY)


def read(root):
    return read_folder(root)[0]


def notes(root):
    return read(root).notes.lines()


def changed(box, *, at=0):
    """Returns many images, the box of one of which is another."""
    boxes = [list(some) for some in MANY]
    boxes[at][0] = box
    return {"boxes": boxes, "classes": MANY_CLASSES}


def all_changed(change):
    boxes = [[change(*box) for box in some] for some in MANY]
    return {"boxes": boxes, "classes": MANY_CLASSES}


@pytest.mark.parametrize(
    ("box", "told"),
    [
        ((2, 3, 2, 13), "1 boxes have no area or a negative one, and are left out"),
        ((12, 3, 2, 13), "1 boxes have no area or a negative one, and are left out"),
        ((50, 3, 60, 13), "1 boxes lie outside their image, and are left out"),
        ((2, 3, 2.5, 13), "1 boxes are smaller than a pixel, and are left out"),
        ((30, 3, 55, 13), "1 boxes reach beyond their image, and are clipped"),
    ],
)
@pytest.mark.parametrize(
    ("form", "where"),
    [
        ("coco", "annotation 0 of 'annotations/instances.json'"),
        ("yolo", "line 1 of 'labels/0.txt'"),
        ("voc", "line 2 of 'Annotations/0.xml'"),
        ("csv", "line 2 of 'boxes.csv'"),
    ],
)
def test_a_doubtful_box_is_counted_and_named(box, told, form, where, tmp_path):
    FORMS[form](tmp_path, **changed(box))
    found = read(tmp_path)

    assert f"{told}: {where}" in found.notes.lines()
    first = next(image for image in found.images if image.path.endswith("/0.jpg"))
    assert len(first.boxes) == (2 if "clipped" in told else 1)
    assert (first.boxes[:, 2] <= 40).all()


@pytest.mark.parametrize(
    ("form", "change", "told"),
    [
        ("csv", lambda x, y, r, b: (y, x + 5, b, r + 5), "x and y look swapped"),
        ("csv", lambda x, y, r, b: (r, b, x, y), "their corners look swapped"),
        ("csv", lambda x, y, r, b: (x, y, r - x, b - y), "width and height"),
        ("coco", lambda x, y, r, b: (x, y, x + r, y + b), "look like two corners"),
        ("voc", lambda x, y, r, b: (x + 99, y, r + 99, b), "do not fit their images"),
    ],
)
def test_a_bad_export_is_refused_with_its_likely_fault(form, change, told, tmp_path):
    FORMS[form](tmp_path, **all_changed(change))

    with pytest.raises(UserError, match=rf"of 40 boxes .*{told}"):
        read(tmp_path)


def test_yolo_files_in_pixels_are_refused(tmp_path):
    scaled = all_changed(lambda x, y, r, b: (x * 40, y * 30, r * 40, b * 30))
    write_yolo(tmp_path, **scaled)
    with pytest.raises(
        UserError, match=r"40 of 40 boxes .*'labels/0.txt'.*like pixels"
    ):
        read(tmp_path)


@pytest.mark.parametrize("form", ["coco", "voc", "csv"])
def test_fractions_in_a_format_of_pixels_are_noticed(form, tmp_path):
    as_pixels, as_fractions = tmp_path / "pixels", tmp_path / "fractions"
    for root in (as_pixels, as_fractions):
        root.mkdir()
    FORMS[form](as_pixels, **all_changed(lambda *box: box))
    scaled = all_changed(lambda x, y, r, b: (x / 40, y / 30, r / 40, b / 30))
    FORMS[form](as_fractions, **scaled)
    found = read(as_fractions)

    assert any("fractions from 0 to 1" in line for line in found.notes.lines())
    for one, other in zip(found.images, read(as_pixels).images, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes)


def test_fractions_among_pixels_are_refused(tmp_path):
    mixed = all_changed(lambda x, y, r, b: (x, y, r, b))
    for some in mixed["boxes"][:5]:
        some[0] = (0.1, 0.1, 0.5, 0.5)
    write_csv(tmp_path, **mixed)

    with pytest.raises(UserError, match=r"5 of 40 boxes .* line 2 of 'boxes.csv', and"):
        read(tmp_path)


def test_one_class_beyond_the_names_is_named_and_many_are_refused(tmp_path):
    write_yolo(tmp_path, **changed((2, 3, 12, 13)))
    path = tmp_path / "labels" / "0.txt"
    path.write_text("7" + path.read_text()[1:])

    assert any("not among the 2 listed names" in line for line in notes(tmp_path))
    (tmp_path / "data.yaml").write_text("names: [cell]\n")
    with pytest.raises(UserError, match=r"'number 7' in line 1 of 'labels/0.txt'"):
        read(tmp_path)


def test_another_order_of_names_is_said(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "labels" / "classes.txt").write_text("dust\ncell\n")

    assert (
        "1 lists of class names have the same names in another order than the yaml"
        " file (cell dust), which counts: 'labels/classes.txt' (dust cell)"
    ) in notes(tmp_path)


def test_a_missing_image_stays_listed_and_none_at_all_is_refused(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "images" / "1.jpg").unlink()
    found = {image.path: image.size for image in read(tmp_path).images}
    assert found["annotations/1.jpg"] is None

    for path in tmp_path.glob("images/*"):
        path.rename(path.with_stem("other" + path.stem))
    with pytest.raises(UserError, match=r"none of the 4 images .* is there, the first"):
        read(tmp_path)


def test_an_image_that_is_listed_twice_alike_counts_once(tmp_path):
    save_all(tmp_path)
    document = coco_document()
    copy = dict(document["images"][1], id=99)
    document["images"].append(copy)
    box = dict(document["annotations"][2], id=999, image_id=99)
    document["annotations"].append(box)
    write_json(tmp_path / "boxes.json", document)

    told = "1 images are listed more than once, and count once: 'images/1.jpg' in"
    assert any(line.startswith(told) for line in notes(tmp_path))
    box["bbox"] = [1, 1, 5, 5]
    write_json(tmp_path / "boxes.json", document)
    found = read(tmp_path)
    assert not found.images[1].annotated
    assert any("with other boxes" in line for line in found.notes.lines())


def test_a_box_that_is_there_twice_counts_once(tmp_path):
    write_yolo(tmp_path)
    path = tmp_path / "labels" / "1.txt"
    path.write_text(path.read_text() * 2)

    assert len(read(tmp_path).images[1].boxes) == 1
    assert "1 boxes are there twice, and count once: line 2 of 'labels/1.txt'" in notes(
        tmp_path
    )


def test_boxes_of_a_resized_image_are_scaled(tmp_path):
    write_voc(tmp_path)
    save(tmp_path / "JPEGImages" / "1.jpg", size=(80, 60))
    found = read(tmp_path)

    np.testing.assert_allclose(found.images[1].boxes, [[10, 10, 30, 50]])
    told = "'JPEGImages/1.jpg' (80×60, annotated 40×30)"
    assert any("their boxes are scaled" in n and told in n for n in found.notes.lines())


def test_an_image_of_other_proportions_is_unlabeled_and_many_are_refused(tmp_path):
    write_coco(tmp_path, **changed((2, 3, 12, 13)))
    save(tmp_path / "images" / "1.jpg", size=(60, 30))
    found = read(tmp_path)
    odd = next(image for image in found.images if image.path == "images/1.jpg")

    assert not odd.annotated and not len(odd.boxes)
    assert any("have other proportions" in line for line in found.notes.lines())
    for number in range(2, 6):
        save(tmp_path / "images" / f"{number}.jpg", size=(60, 30))
    with pytest.raises(UserError, match=r"5 of 20 images .*\(60×30, annotated 40×30"):
        read(tmp_path)


def test_an_empty_class_and_one_of_few_boxes_are_said(tmp_path):
    write_yolo(tmp_path, names=(*NAMES, "dirt"))

    assert "1 classes have no box, and cannot be learned: 'dirt'" in notes(tmp_path)
    told = "2 classes have fewer than 10 boxes: 'cell' (3), 'dust' (2)"
    assert told in notes(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_no_boxes_at_all_are_refused(form, tmp_path):
    FORMS[form](tmp_path, boxes=[[], []], classes=[[], []])

    with pytest.raises(UserError, match="not one box"):
        read(tmp_path)


def test_a_thousand_boxes_are_kept_and_said(tmp_path):
    grid = [(x, y, x + 2.0, y + 2.0) for x in range(38) for y in range(27)][:1000]
    crowds = [grid[:150], grid[:101], grid[:100], grid[:120], grid]
    classes = [*CLASSES, *([0] * len(crowd) for crowd in crowds)]
    write_yolo(tmp_path, boxes=[*BOXES, *crowds], classes=classes)
    found = read(tmp_path)

    assert len(found.images[8].boxes) == 1000
    (told,) = (line for line in found.notes.lines() if "of the fullest" in line)
    assert told.startswith("4 images have more than 100 boxes, of which at most 100 ca")
    named = "'images/8.jpg' (1,000), 'images/4.jpg' (150), 'images/7.jpg' (120)"
    assert told.endswith(f"{named} and more")


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("labels/1.txt", "0 0.5 0.5\n", r"line 1 of 'labels/1.txt' has 3 numbers"),
        ("labels/1.txt", "cell 0.5 0.5 1 1", r"line 1 of 'labels/1.txt' is 'cell"),
        ("labels/1.txt", "0.5 0.5 0.5 1 1", r"but a class number"),
        ("data.yaml", "names: [a, b\nx: 1\n", r"line 2 of 'data.yaml' is not YAML"),
        ("data.yaml", "- names\n- 3\n", r"class number 12345 and no list of class"),
        ("data.yaml", "names: 3\n", r"'names' in 'data.yaml' is no list"),
        ("data.yaml", "names: {1: a, 2: b}\n", r"are not 0 to 1: number"),
        ("data.yaml", "names: [a, a]\n", r"two classes .* are named 'a'"),
        ("more.yaml", "names: [a]\n", r"'data.yaml' and 'more.yaml' both list"),
    ],
)
def test_a_yolo_file_that_cannot_be_understood_is_named(path, text, told, tmp_path):
    write_yolo(tmp_path)
    (tmp_path / path).write_text(text)
    if "no list of class" in told:
        (tmp_path / "labels" / "1.txt").write_text("12345 0.5 0.5 0.5 0.5\n")

    with pytest.raises(UserError, match=told):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<annotation>\n<object>", r"line 2 of 'Annotations/1.xml' is not XML"),
        (
            "<annotation>\n\n<object></object></annotation>",
            r"the object in line 3 of 'Annotations/1.xml' has no name",
        ),
        (
            '<!DOCTYPE a [<!ENTITY x "y">]><annotation/>',
            r"line 1 of 'Annotations/1.xml' declares an entity",
        ),
        (
            "<annotations><image/></annotations>",
            r"'Annotations/1.xml' is CVAT's own XML: export",
        ),
    ],
)
def test_xml_that_cannot_be_understood_is_named(text, told, tmp_path):
    write_voc(tmp_path)
    (tmp_path / "Annotations" / "1.xml").write_text(text)

    with pytest.raises(UserError, match=told):
        read(tmp_path)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (",cell,1,2,3,4", "line 8 of 'boxes.csv' names no image"),
        ("1.jpg,,1,2,3,4", "line 8 of 'boxes.csv' has no class"),
        ("1.jpg,cell,1,2,x,4", "line 8 of 'boxes.csv' has '1 2 x 4' for a box"),
        ("1.jpg,cell,1,2,3", "line 8 of 'boxes.csv' has '1 2 3 ' for a box"),
    ],
)
def test_a_line_of_a_csv_that_cannot_be_understood_is_named(row, told, tmp_path):
    write_csv(tmp_path)
    path = tmp_path / "boxes.csv"
    path.write_text(path.read_text() + row + "\n")

    with pytest.raises(UserError, match=told):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"images": [{"id": 3}]}, "image 1 of 'boxes.json' has no id or no file_name"),
        ({"images": [{"id": [], "file_name": "a"}]}, "image 1 of 'boxes.json' has no"),
        ({"categories": [{"id": 1}]}, "a category of 'boxes.json' has no id or no"),
        (
            {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
            "two categories with the id 1",
        ),
    ],
)
def test_a_coco_file_that_lacks_a_field_is_named(change, told, tmp_path):
    save_all(tmp_path)
    write_json(tmp_path / "boxes.json", coco_document() | change)

    with pytest.raises(UserError, match=told):
        read(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("bbox", [1, 2, "3", 4], "without a box of four numbers"),
        ("bbox", None, "without a box of four numbers"),
        ("bbox", [1, 2, 10**400, 4], "without a box of four numbers"),
        ("image_id", 77, "of images that the file does not list"),
        ("image_id", [1], "of images that the file does not list"),
        ("category_id", {}, "of a class that is not among the 2 listed names"),
    ],
)
def test_an_annotation_that_lacks_a_field_is_named(field, value, told, tmp_path):
    save_all(tmp_path)
    document = coco_document()
    document["annotations"][1][field] = value
    write_json(tmp_path / "boxes.json", document)

    lines = [line for line in notes(tmp_path) if told in line]
    assert lines and lines[0].endswith("annotation 1 of 'boxes.json'")

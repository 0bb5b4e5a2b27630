"""Images that EXIF turns: boxes follow the picture that people see."""

import numpy as np
import pytest
from drawn_boxes import coco_document, save, write_json, write_yolo
from PIL import Image

from noisy_student_jax.data.annotations.formats import read as read_folder
from noisy_student_jax.data.annotations.orientation import Size, as_seen, measured
from noisy_student_jax.images.decode import TURNS, decode

STORED = (40, 30)
BOX = (3, 5, 13, 27)
TURNED = range(1, 9)


def seen_box(orientation):
    """Returns where a box of the stored pixels is in the picture, by turning pixels."""
    left, top, right, bottom = BOX
    pixels = np.zeros((STORED[1], STORED[0]), np.uint8)
    pixels[top:bottom, left:right] = 255
    image = Image.fromarray(pixels)
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    rows, columns = np.nonzero(np.asarray(image))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("orientation", TURNED)
def test_boxes_are_turned_as_pixels_are(orientation):
    turned = orientation >= 5
    size = Size(*(STORED[::-1] if turned else STORED), orientation)

    assert size.stored == STORED
    assert tuple(as_seen(np.array([BOX], float), size)[0]) == seen_box(orientation)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_the_size_is_that_of_the_decoded_image(orientation, suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    save(path, orientation=orientation)
    size = measured(path)
    height, width, _ = decode(path).shape

    assert size == (width, height, orientation)


def test_a_file_that_is_no_image_has_no_size(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")

    assert measured(tmp_path / "a.jpg") is None


def read_one(root, *, size, orientation=6, box=BOX):
    """Returns boxes and notes of one turned image, annotated as of a size."""
    document = coco_document([[box]], [[0]])
    if size is None:
        del document["images"][0]["width"]
    else:
        document["images"][0] |= {"width": size[0], "height": size[1]}
    save(root / "0.jpg", orientation=orientation)
    write_json(root / "boxes.json", document)
    found, _ = read_folder(root)
    return found.images[0].boxes.tolist(), " ".join(found.notes.lines())


def test_boxes_of_the_stored_pixels_are_turned_and_it_is_said(tmp_path):
    boxes, told = read_one(tmp_path, size=STORED)

    assert boxes == [list(seen_box(6))]
    assert "of the picture as it is stored; they are turned: '0.jpg'" in told


def test_boxes_of_the_picture_as_seen_stay_and_it_is_said(tmp_path):
    boxes, told = read_one(tmp_path, size=STORED[::-1])

    assert boxes == [list(BOX)]
    assert "of the picture as people see it: '0.jpg'" in told


def test_without_a_size_boxes_that_fit_one_way_alone_tell(tmp_path):
    wide = (3, 5, 38, 27)
    boxes, told = read_one(tmp_path, size=None, box=wide)

    assert boxes == [[3, 3, 25, 38]]
    assert "they are turned" in told


def test_yolo_boxes_are_of_the_picture_as_seen_and_it_is_said(tmp_path):
    write_yolo(tmp_path, [[(10, 15, 20, 30)]], [[0]])
    save(tmp_path / "images" / "0.jpg", orientation=6)
    found, _ = read_folder(tmp_path)

    np.testing.assert_allclose(found.images[0].boxes, [[7.5, 20, 15, 40]])
    assert any("as people see it" in line for line in found.notes.lines())

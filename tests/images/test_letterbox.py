"""A letterbox shows the whole image, at one scale, at the top left of gray."""

import numpy as np
import pytest
from PIL import Image

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.images.letterbox import shown_size, to_pixels, to_units
from noisy_student_jax.images.preprocessing import Preprocessing

GRAY = 128


def framed(side: int, interpolation: str = "bicubic") -> Preprocessing:
    return Preprocessing(side, 0, interpolation, framing="letterbox")


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, (height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (7, 9), (9, 9)])
def test_the_longer_side_fills_the_square_and_the_rest_is_gray(shape):
    seen = framed(16).apply(pixels(*shape))
    rows, columns = shown_size(*shape, 16)
    assert seen.shape == (16, 16, 3) and seen.dtype == np.uint8
    assert max(rows, columns) == 16
    assert (seen[rows:] == GRAY).all() and (seen[:, columns:] == GRAY).all()
    assert (seen[:rows, :columns] != GRAY).mean() > 0.9


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_an_aspect_that_fits_whole_pixels_gives_pillows_pixels(interpolation):
    image, how = pixels(30, 40), Image.Resampling[interpolation.upper()]
    wanted = np.asarray(Image.fromarray(image).resize((16, 12), how))
    seen = framed(16, interpolation).apply(image)
    np.testing.assert_array_equal(seen[:12], wanted)


def test_an_image_of_the_squares_size_keeps_its_pixels():
    image = pixels(16, 11)
    np.testing.assert_array_equal(framed(16).apply(image)[:, :11], image)


@pytest.mark.parametrize("shape", [(480, 640), (417, 633), (633, 417)])
def test_a_box_is_where_its_units_say(shape):
    image = np.zeros((*shape, 3), np.uint8)
    box = np.array([101, 203, 307, 398.0])
    left, top, right, bottom = box.astype(int)
    image[top:bottom, left:right] = 255
    seen = framed(160, "bilinear").apply(image)[..., 0] / 255.0
    rows, columns = shown_size(*shape, 160)
    seen[rows:], seen[:, columns:] = 0, 0
    rows, columns = seen.sum(1), seen.sum(0)
    units = to_units(box, *shape) * 160
    # The mass of a rectangle gives its sides and its center to a fraction of a pixel.
    assert columns.max() == pytest.approx(units[3] - units[1], abs=0.1)
    assert rows.max() == pytest.approx(units[2] - units[0], abs=0.1)
    place = (np.arange(160) + 0.5) @ np.stack([columns, rows], 1) / seen.sum()
    center = [(units[0] + units[2]) / 2, (units[1] + units[3]) / 2]
    assert place == pytest.approx(center, abs=0.05)


def test_units_and_pixels_are_inverse():
    boxes = np.random.default_rng(0).uniform(0, 400, (5, 4))
    units = to_units(boxes, 480, 640)
    assert units.dtype == np.float32 and units.max() <= 400 / 640
    np.testing.assert_allclose(to_pixels(units, 480, 640), boxes, rtol=1e-6)


def test_images_of_one_pixel_or_row_are_framed():
    for shape in ((1, 1), (1, 500), (500, 1), (2, 3)):
        assert framed(8).apply(pixels(*shape)).shape == (8, 8, 3)


def test_many_images_and_whole_training_images_are_framed_alike():
    images, one = [pixels(9, 12), pixels(20, 5)], framed(8)
    alone = np.stack([one.apply(image) for image in images])
    np.testing.assert_array_equal(one.apply_all(images), alone)
    np.testing.assert_array_equal(one.apply_all_to_train_on(images), alone)
    np.testing.assert_array_equal(one.apply_crop(images[0], (0, 0, 0, 0)), alone[0])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"framing": "leterbox"}, "framing 'leterbox' is not known: choose center_"),
        ({"crop_padding": 4}, "shows whole images, but crop_padding is 4: set"),
        ({"interpolation": "bicubic_tf1"}, "by 'bicubic_tf1': choose"),
    ],
)
def test_a_frame_that_cannot_be_is_refused(fields, says):
    given = {"resolution": 8, "crop_padding": 0, "framing": "letterbox"} | fields
    with pytest.raises(UserError, match=says):
        Preprocessing(**given)


def test_only_a_letterbox_is_written_down_as_framing():
    usual, boxed = Preprocessing(8, 2), framed(8)
    assert "framing" not in usual.to_json()
    assert boxed.to_json()["framing"] == "letterbox"
    for one in (usual, boxed):
        assert Preprocessing.from_json(one.to_json()) == one


def test_programs_that_only_crop_say_so():
    Preprocessing(8).refuse_letterbox("timm", instead="use --format=onnx")
    with pytest.raises(UserError, match="timm only crops the middle of images, but"):
        framed(8).refuse_letterbox("timm", instead="use --format=onnx")

"""Evaluation preprocessing: what is decoded, what is refused, what is cut out."""

import dataclasses
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from noisy_student_jax import preprocessing
from noisy_student_jax.errors import UserError
from noisy_student_jax.preprocessing import (
    Preprocessing,
    UndecodableImageError,
    decode,
)


def pixels(height=6, width=5, channels=3):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that promises a size, and holds hardly a pixel."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 9))):
        file += struct.pack(">I", len(body)) + name + body
        file += struct.pack(">I", zlib.crc32(name + body))
    return file


def numbered(height, width):
    """An image whose pixels say their own row and column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("resolution", [8, 16, 32, 224, 240, 260, 300, 380])
@pytest.mark.parametrize("padding", [0, 32])
def test_an_image_of_resolution_plus_padding_is_cut_without_resizing(
    resolution, padding
):
    side = resolution + padding
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)

    result = Preprocessing(resolution, crop_padding=padding).apply(image)

    first = (side - resolution + 1) // 2
    inside = slice(first, first + resolution)
    assert np.array_equal(result, image[inside, inside])
    assert result.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    ("height", "width", "resolution", "padding"),
    [(40, 60, 32, 32), (61, 40, 32, 32), (33, 33, 8, 8), (50, 71, 9, 3), (3, 9, 3, 0)],
)
def test_the_crop_is_the_authors_fraction_and_offset(
    height, width, resolution, padding
):
    image = numbered(height, width)

    result = Preprocessing(resolution, padding, interpolation="nearest").apply(image)

    crop = int(resolution / (resolution + padding) * min(height, width))
    top, left = (height - crop + 1) // 2, (width - crop + 1) // 2
    square = Image.fromarray(image[top : top + crop, left : left + crop])
    expected = square.resize((resolution, resolution), Image.Resampling.NEAREST)
    assert np.array_equal(result, np.asarray(expected))


def test_an_odd_remainder_goes_to_the_top_and_left():
    result = Preprocessing(4, crop_padding=4, interpolation="nearest").apply(
        numbered(9, 11)
    )

    # The crop is 4 of 9 and 11: 5 // 2 would be 2, and (5 + 1) // 2 is 3.
    assert result[0, 0].tolist() == [3, 4, 0]
    assert result.shape == (4, 4, 3)


def test_interpolations_are_those_of_pillow_by_name():
    image = pixels(16, 16)

    for name, method in preprocessing.INTERPOLATIONS.items():
        result = Preprocessing(8, 0, name).apply(image)
        expected = Image.fromarray(image).resize((8, 8), method)
        assert np.array_equal(result, np.asarray(expected)), name


def test_many_images_of_any_size_become_one_array():
    cut = Preprocessing(8, crop_padding=2)
    images = [pixels(9, 30), pixels(40, 11)]

    together = cut.apply_all(iter(images))

    assert together.dtype == np.uint8
    assert np.array_equal(together[0], cut.apply(images[0]))
    assert np.array_equal(together[1], cut.apply(images[1]))
    assert cut.apply_all([]).shape == (0, 8, 8, 3)


def test_the_smallest_image_survives():
    assert Preprocessing(8).apply(pixels(1, 1)).shape == (8, 8, 3)
    assert Preprocessing(8).apply(pixels(1, 500)).shape == (8, 8, 3)


def test_it_survives_json():
    cut = Preprocessing(24, 5, "bilinear", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))

    assert (
        Preprocessing.from_json(json.loads(json.dumps(dataclasses.asdict(cut)))) == cut
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"interpolation": "lanczos"}, "'lanczos' is not known: choose bicubic, "),
        ({"resolution": 0}, "resolution >= 1 and crop_padding >= 0, got 0 and 32"),
        ({"crop_padding": -1}, "got 8 and -1"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, says):
    with pytest.raises(UserError, match=says):
        Preprocessing(**({"resolution": 8} | fields))


def test_pixels_are_decoded_as_they_were_encoded(tmp_path):
    image = pixels()
    (tmp_path / "ä b.png").write_bytes(encoded(image))

    assert np.array_equal(decode(encoded(image)), image)
    assert np.array_equal(decode(tmp_path / "ä b.png"), image)
    assert np.array_equal(decode(str(tmp_path / "ä b.png")), image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_by_their_exif(orientation):
    image = pixels(6, 5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: image.transpose(1, 0, 2)[:, ::-1],
        7: image.transpose(1, 0, 2)[::-1, ::-1],
        8: image.transpose(1, 0, 2)[::-1],
    }

    assert np.array_equal(decode(encoded(image, exif=exif)), turned[orientation])


def test_grey_becomes_three_equal_channels():
    grey = pixels(channels=0)

    assert np.array_equal(decode(encoded(grey)), np.repeat(grey[..., None], 3, -1))


def test_transparency_is_left_out():
    image = pixels(channels=4)

    assert np.array_equal(decode(encoded(image)), image[..., :3])


@pytest.mark.filterwarnings("error")
def test_palettes_are_looked_up_with_transparency_or_without():
    image = Image.fromarray(pixels()).quantize(8)
    expected = np.asarray(image.convert("RGB"))

    for options in ({}, {"transparency": 3}, {"transparency": bytes(range(8))}):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        assert np.array_equal(decode(buffer.getvalue()), expected), options


def test_cmyk_is_converted():
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(buffer, "JPEG", quality=100)

    red = decode(buffer.getvalue())[4, 4].astype(int)

    assert np.abs(red - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("value", [0, 200, 257, 30_000, 65_535])
def test_sixteen_bits_are_scaled_and_not_clipped(value):
    deep = np.full((4, 4), value, np.uint16)

    assert np.abs(decode(encoded(deep)).astype(float) - value / 257).max() <= 1


def test_an_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((4, 4), grey, np.uint8)) for grey in (9, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])

    assert (decode(buffer.getvalue()) == 9).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image of a known format"),
        (b"<html>not found</html>", "not an image of a known format"),
        (encoded(pixels(64, 64))[:-2000], "truncated"),
        (encoded(pixels(64, 64), "JPEG")[:-200], "truncated"),
        (encoded(pixels(64, 64))[:20], "Truncated File Read"),
        (png_header(8001, 8000), "64,008,000 pixels by its header, more than 64,000,0"),
        (png_header(20_000, 20_000), "exceeds limit of .* pixels"),
    ],
    ids=["empty", "html", "png", "jpeg", "header", "large", "bomb"],
)
def test_what_is_no_usable_image_is_refused_with_a_reason(data, reason):
    with pytest.raises(UndecodableImageError, match=reason) as caught:
        decode(data)

    # A reason is stored, counted and compared: no line breaks, nothing random.
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_with_a_reason(tmp_path):
    with pytest.raises(UndecodableImageError, match="No such file"):
        decode(tmp_path / "missing.jpg")
    with pytest.raises(UndecodableImageError, match="Is a directory"):
        decode(tmp_path)


def test_the_size_is_looked_at_before_any_pixel_is_decoded(monkeypatch):
    monkeypatch.setattr(preprocessing, "MAX_PIXELS", 29)
    loaded = []
    monkeypatch.setattr(Image.Image, "load", lambda self: loaded.append(self))

    with pytest.raises(UndecodableImageError, match="30 pixels by its header"):
        decode(THIRTY_PIXELS)

    assert not loaded


THIRTY_PIXELS = encoded(pixels(6, 5))


def test_an_image_of_exactly_the_largest_size_is_read(monkeypatch):
    monkeypatch.setattr(preprocessing, "MAX_PIXELS", 30)

    assert decode(THIRTY_PIXELS).shape == (6, 5, 3)

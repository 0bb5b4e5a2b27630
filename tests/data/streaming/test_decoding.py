"""Decoding a part of an image: the pixels of the whole, cut out and resized."""

import io

import numpy as np
import pytest
from PIL import Image

from noisy_student_jax.data.streaming import decoding
from noisy_student_jax.images.decode import UndecodableImageError, decode, inspect
from noisy_student_jax.images.preprocessing import Preprocessing, compiled_bicubic

BOXES = [
    (0, 0, 96, 131),
    (7, 13, 55, 41),
    (31, 90, 64, 40),
    (1, 2, 33, 35),
    (0, 0, 9, 9),
]
PREPROCESSING = Preprocessing(32, 4)


def photograph(height=96, width=131):
    """Smooth shapes and some grain, as in photographs."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 12, width // 12, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))


def encoded(image, form="JPEG", **options):
    held = io.BytesIO()
    image.save(held, form, **options)
    return held.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


PLAIN = {
    "420": encoded(photograph(), quality=90, subsampling=2),
    "422": encoded(photograph(), quality=90, subsampling=1),
    "444": encoded(photograph(), quality=90, subsampling=0),
    "progressive": encoded(photograph(), quality=90, progressive=True),
    "gray": encoded(photograph().convert("L"), quality=90),
    "upright by EXIF": encoded(photograph(), quality=90, exif=turned(1)),
}
OTHERS = {
    "turned": encoded(photograph(), quality=90, exif=turned(6)),
    "four colors": encoded(photograph().convert("CMYK"), quality=90),
    "junk behind it": PLAIN["420"] + b"junk",
    "PNG": encoded(photograph(), "PNG"),
    "transparent PNG": encoded(photograph().convert("RGBA"), "PNG"),
    "WebP": encoded(photograph(), "WEBP", lossless=True),
}


def preprocessed(data, *arguments, **options):
    return decoding.preprocessed(data, inspect(data), *arguments, **options)


@pytest.fixture
def own_decoder(monkeypatch):
    """Counts how often our own decoder is called."""
    calls = []

    def counted(data):
        calls.append(data)
        return decode(data)

    monkeypatch.setattr(decoding, "decode", counted)
    return calls


@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("kind", PLAIN)
def test_a_part_of_a_plain_jpeg_is_exactly_that_of_the_whole(kind, box, own_decoder):
    data = PLAIN[kind]
    # Large enough that no box is decoded at a fraction.
    preprocessing = Preprocessing(80, 0)
    found = preprocessed(data, box, preprocessing)

    assert not own_decoder
    wanted = preprocessing.apply_box(decode(data), *box)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", OTHERS)
def test_any_other_image_is_decoded_whole(kind, own_decoder):
    data, box = OTHERS[kind], (7, 13, 55, 41)
    found = preprocessed(data, box, PREPROCESSING)

    assert len(own_decoder) == 1
    wanted = PREPROCESSING.apply_box(decode(data), *box)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", ["420", "gray", "PNG"])
def test_no_box_is_the_center_crop_of_evaluation(kind):
    data = (PLAIN | OTHERS)[kind]
    found = preprocessed(data, (0, 0, 0, 0), PREPROCESSING)

    np.testing.assert_array_equal(found, PREPROCESSING.apply(decode(data)))


@pytest.mark.parametrize(
    ("box", "fraction"),
    [
        ((33, 17, 63, 300), 1),
        ((33, 17, 64, 300), 2),
        ((33, 17, 150, 127), 2),
        ((33, 17, 150, 161), 4),
        ((5, 6, 283, 257), 4),
        ((0, 0, 289, 391), 4),
    ],
)
def test_a_large_part_is_decoded_at_a_fraction_and_looks_the_same(
    box, fraction, monkeypatch
):
    data = encoded(photograph(289, 391), quality=95)
    asked = []
    decode_and_crop = decoding.tf.raw_ops.DecodeAndCropJpeg

    def noted(**options):
        image = decode_and_crop(**options)
        asked.append((options["ratio"], image.shape))
        return image

    monkeypatch.setattr(decoding.tf.raw_ops, "DecodeAndCropJpeg", noted)
    found = preprocessed(data, box, PREPROCESSING).astype(int)

    (ratio, shape), *more = asked
    assert not more
    assert ratio == fraction
    assert min(shape[:2]) >= 32
    wanted = PREPROCESSING.apply_box(decode(data), *box).astype(int)
    difference = np.abs(found - wanted)
    assert difference.mean() < 2.5
    # Exactly the same place: a part of a pixel to the side is another picture.
    for shift in (-1, 1):
        for axis in (0, 1):
            moved = np.abs(np.roll(found, shift, axis) - wanted)[2:-2, 2:-2]
            assert moved.mean() > 1.5 * difference[2:-2, 2:-2].mean()


@pytest.mark.parametrize("box", [(0, 0, 20, 20), (50, 0, 40, 131), (0, 0, 0, 0)])
@pytest.mark.parametrize("kind", ["cut", "html", "empty", "no tables"])
def test_a_damaged_image_is_refused_wherever_its_crop_lies(kind, box):
    whole = PLAIN["420"]
    data = {
        "cut": whole[: len(whole) * 2 // 3],
        "html": b"<html>",
        "empty": b"",
        "no tables": whole[:2] + whole[-2000:],
    }[kind]

    with pytest.raises(UndecodableImageError) as ours:
        decode(data)
    with pytest.raises(UndecodableImageError) as found:
        preprocessed(data, box, PREPROCESSING)
    assert str(found.value) == str(ours.value)


@pytest.mark.parametrize("kind", ["420", "gray", "PNG"])
def test_plainly_an_image_is_decoded_whole_and_never_at_a_fraction(kind, own_decoder):
    data, box = (PLAIN | OTHERS)[kind], (7, 13, 72, 80)
    found = preprocessed(data, box, PREPROCESSING, decoder="plain")

    assert len(own_decoder) == 1
    wanted = PREPROCESSING.apply_box(decode(data), *box)
    np.testing.assert_array_equal(found, wanted)


def test_the_compiled_resize_gives_the_same_at_any_fraction():
    data, bicubic = encoded(photograph(289, 391), quality=95), compiled_bicubic()
    for box in [(33, 17, 63, 300), (33, 17, 150, 127), (5, 6, 283, 257), (0, 0, 0, 0)]:
        found = preprocessed(data, box, PREPROCESSING, bicubic=bicubic)
        wanted = preprocessed(data, box, PREPROCESSING)
        np.testing.assert_array_equal(found, wanted)

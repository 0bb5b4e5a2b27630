"""A stream of images: every image in its place, whichever decoder it needs."""

import numpy as np
import pytest
from bad_images import DISPLAY_P3, encoded, profile
from PIL import Image, ImageCms

from noisy_student_jax.data.cache.listing import list_images
from noisy_student_jax.data.encoded import FolderSource
from noisy_student_jax.data.streaming import images
from noisy_student_jax.data.streaming.decoding import View
from noisy_student_jax.data.streaming.images import ImageStream, Wanted
from noisy_student_jax.images.decode import UndecodableImageError, decode
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.images.resize import BICUBIC_TF1

EXACT = Preprocessing(20, 4, BICUBIC_TF1)
VIEWS = {"image": View(EXACT, trained_on=True)}


def photograph(height=48, width=65, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


PLAIN = {
    "420": encoded(photograph(), "JPEG"),
    "gray": encoded(photograph().convert("L"), "JPEG"),
    "upright by EXIF": encoded(photograph(), "JPEG", exif=turned(1)),
    "sRGB": encoded(photograph(), "JPEG", icc_profile=SRGB),
    "no profile": encoded(photograph(), "JPEG", icc_profile=b"sRGB"),
}
OTHERS = {
    "turned": encoded(photograph(), "JPEG", exif=turned(6)),
    "four colors": encoded(photograph().convert("CMYK"), "JPEG"),
    "another profile": encoded(photograph(), "JPEG", icc_profile=profile(DISPLAY_P3)),
    "junk behind it": PLAIN["420"] + b"junk",
    "PNG": encoded(photograph(), "PNG"),
    "transparent PNG": encoded(photograph().convert("RGBA"), "PNG"),
    "WebP": encoded(photograph(), "WEBP", lossless=True),
}
DAMAGED = {
    "cut": PLAIN["420"][: len(PLAIN["420"]) * 2 // 3],
    "html": b"<html>",
    "empty": b"",
    "no tables": PLAIN["420"][:2] + PLAIN["420"][-300:],
}


def source_of(folder, contents):
    folder.mkdir()
    for number, data in enumerate(contents):
        (folder / f"{number:03}.jpg").write_bytes(data)
    return FolderSource(list_images(folder), "images")


def stream_of(source, **options):
    def wanted(numbers):
        return Wanted(numbers % len(source))

    return ImageStream(source, VIEWS, wanted, **{"batch": 4, **options})


def right(data):
    return EXACT.apply_crop(decode(data), (0, 0, 0, 0))


@pytest.fixture
def ours(monkeypatch):
    """Collects what our own decoder is given."""
    given = []

    def noted(data, **options):
        given.append(data)
        return decode(data, **options)

    monkeypatch.setattr(images, "decode", noted)
    return given


@pytest.mark.parametrize("decoder", ["auto", "plain"])
def test_every_image_has_the_pixels_of_our_decoder(tmp_path, ours, decoder):
    contents = [*PLAIN.values(), *OTHERS.values()]
    stream = stream_of(source_of(tmp_path / "all", contents), decoder=decoder)
    found, status = stream.take(len(contents))
    stream.close()

    assert status == ["ok"] * len(contents)
    for image, data in zip(found["image"], contents, strict=True):
        np.testing.assert_array_equal(image, right(data))
    # Which is asked only for what the graph would decode otherwise.
    asked = set(ours)
    assert asked == set(OTHERS.values() if decoder == "auto" else contents)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_image_is_gray_and_named_as_our_decoder_names_it(tmp_path, kind):
    contents = [PLAIN["420"], DAMAGED[kind], PLAIN["gray"]]
    stream = stream_of(source_of(tmp_path / "all", contents))
    found, status = stream.take(3)
    stream.close()

    with pytest.raises(UndecodableImageError) as raised:
        decode(DAMAGED[kind])
    assert status == ["ok", str(raised.value), "ok"]
    assert (found["image"][1] == 128).all()
    np.testing.assert_array_equal(found["image"][2], right(PLAIN["gray"]))


def test_what_breaks_after_it_was_indexed_keeps_its_place(tmp_path, ours):
    contents = [encoded(photograph(seed=seed), "JPEG") for seed in range(10)]
    source = source_of(tmp_path / "all", contents)
    files = sorted((tmp_path / "all").iterdir())
    stream = stream_of(source)
    # Headers are known from here on.
    files[2].unlink()
    contents[5] = encoded(photograph(seed=70), "PNG")
    files[5].write_bytes(contents[5])
    contents[9] = encoded(photograph(30, 30, seed=71), "JPEG")
    files[9].write_bytes(contents[9])
    found, status = stream.take(10)
    stream.close()

    assert status[2] == "No such file or directory"
    assert [why for n, why in enumerate(status) if n != 2] == ["ok"] * 9
    for number, data in enumerate(contents):
        wanted = np.full((20, 20, 3), 128) if number == 2 else right(data)
        np.testing.assert_array_equal(found["image"][number], wanted)
    assert set(ours) == {contents[5], contents[9]}


def test_a_stream_of_which_nothing_is_left_comes_to_an_end_of_each_step(tmp_path):
    source = source_of(tmp_path / "all", [PLAIN["420"]] * 3)
    stream = stream_of(source)
    for file in (tmp_path / "all").iterdir():
        file.unlink()

    for _ in range(30):
        found, status = stream.take(40)
        assert status == ["No such file or directory"] * 40
        assert (found["image"] == 128).all()
    stream.close()


@pytest.mark.parametrize("counts", [[10], [4, 4, 2], [1, 2, 3, 4], [7, 3]], ids=str)
def test_images_are_taken_in_any_numbers_up_to_the_last(tmp_path, counts):
    contents = [encoded(photograph(seed=seed), "JPEG") for seed in range(10)]
    stream = stream_of(source_of(tmp_path / "all", contents), end=10)
    taken = [stream.take(count)[0]["image"] for count in counts]
    stream.close()

    wanted = np.stack([right(data) for data in contents])
    np.testing.assert_array_equal(np.concatenate(taken), wanted)


def test_a_stream_may_start_anywhere(tmp_path):
    contents = [encoded(photograph(seed=seed), "JPEG") for seed in range(5)]
    source = source_of(tmp_path / "all", contents)
    for first in (3, 2 * images.PLANNED_AT_ONCE + 7):
        stream = stream_of(source, first=first)
        found = stream.take(6)[0]["image"]
        stream.close()
        wanted = [right(contents[(first + n) % 5]) for n in range(6)]
        np.testing.assert_array_equal(found, wanted)

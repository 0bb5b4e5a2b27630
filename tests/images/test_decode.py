"""Decoding: what pixels come out, at what size, and what is refused."""

import concurrent.futures
import io
import logging
import struct
import sys
import warnings

import numpy as np
import pytest
from bad_images import (
    HAS_AVIF,
    HAS_HEIC,
    card,
    encoded,
    exif,
    ftyp,
    jpeg,
    palette,
    png,
    renamed_size,
    tiff,
    turned,
    with_alpha,
)
from PIL import Image

from noisy_student_jax.images import decode as decoding
from noisy_student_jax.images.decode import (
    Decoding,
    TooLargeError,
    UndecodableImageError,
    decode,
    header,
    inspect,
)


def pixels(height=6, width=5):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def photograph(height, width):
    """Smooth, as photographs are, so that JPEG and bicubic keep it."""
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(5 * rows + 2), np.cos(4 * columns), np.sin(3 * (rows + columns))]
    return np.round(127 + 120 * np.stack(waves, -1)).astype(np.uint8)


# ---- pixels


def test_pixels_are_decoded_as_they_were_encoded(tmp_path):
    image = pixels()
    (tmp_path / "ä b.png").write_bytes(encoded(image))

    for source in (encoded(image), tmp_path / "ä b.png", str(tmp_path / "ä b.png")):
        assert np.array_equal(decode(source), image)
        assert header(source) == (6, 5)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_images_stand_upright_by_their_exif(kind, orientation):
    image = pixels(6, 5)
    upright = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: image.transpose(1, 0, 2)[:, ::-1],
        7: image.transpose(1, 0, 2)[::-1, ::-1],
        8: image.transpose(1, 0, 2)[::-1],
    }[orientation]
    options = {"lossless": True} if kind == "WEBP" else {}
    file = encoded(image, kind, exif=exif(orientation), **options)

    assert np.array_equal(decode(file), upright)
    assert header(file) == upright.shape[:2]


def test_an_orientation_that_there_is_not_is_none():
    assert np.array_equal(decode(encoded(pixels(), exif=exif(9))), pixels())


def test_gray_becomes_three_equal_channels():
    gray = pixels()[..., 0]

    assert np.array_equal(decode(encoded(gray)), np.repeat(gray[..., None], 3, -1))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "La", "RGBa", "PA"])
def test_transparent_parts_become_white(mode):
    image = with_alpha("LA" if mode == "La" else "RGBA").convert(mode)

    result = np.asarray(decoding._to_rgb(*decoding._eight_bits(image), None)[0])

    assert (result[8:] == 255).all()
    assert (result[:8] != 255).all()


def test_what_is_half_transparent_is_half_white():
    image = Image.new("RGBA", (3, 2), (100, 0, 255, 51))

    assert decode(encoded(image))[1, 1].tolist() == [224, 204, 255]


@pytest.mark.parametrize(
    ("image", "transparent"),
    [
        (np.full((2, 2, 3), 7, np.uint8), (7, 7, 7)),
        (np.full((2, 2), 7, np.uint8), 7),
        (np.full((2, 2), 700, np.uint16), 700),
    ],
    ids=["RGB", "gray", "16 bits"],
)
def test_a_transparent_color_becomes_white(image, transparent):
    image[0, 0] = 0

    result = decode(encoded(image, transparency=transparent))

    assert result[..., 0].tolist() == [[0, 255], [255, 255]]


def test_the_transparency_of_a_palette_is_a_number_or_one_for_each_color():
    for transparency in (2, bytes([255, 255, 0])):
        result = decode(palette(transparency=transparency))

        expected = card()
        expected[8:, :12] = 255
        assert np.array_equal(result, expected)


def test_cmyk_is_converted():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))

    found = decode(encoded(red, "JPEG", quality=100))[4, 4].astype(int)

    assert np.abs(found - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("value", [0, 200, 257, 30_000, 65_535])
def test_sixteen_bits_are_scaled_and_not_clipped(kind, value):
    deep = np.full((4, 4), value, np.uint16)

    assert np.abs(decode(encoded(deep, kind)).astype(float) - value / 257).max() <= 1


def test_twelve_bits_are_scaled_to_what_is_white_for_them():
    file = tiff(4, 1, 12, bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x10]))

    assert decode(file)[0, :, 0].tolist() == [0, 255, 128, 1]


def test_an_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((4, 4), gray, np.uint8)) for gray in (9, 200)]
    for kind, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        file = encoded(
            frames[0], kind, save_all=True, append_images=frames[1:], **options
        )

        assert (decode(file) == 9).all(), kind


# ---- a shorter side


@pytest.mark.parametrize("kind", ["BMP", "JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("height", "width", "side", "expected"),
    [
        (300, 400, 100, (100, 133)),
        (400, 300, 100, (133, 100)),
        (99, 50, 49, (97, 49)),
        (100, 1, 1, (100, 1)),
        (7, 1000, 1, (1, 143)),
        (171, 171, 64, (64, 64)),
    ],
)
def test_an_image_is_shrunk_to_its_shorter_side(kind, height, width, side, expected):
    image = photograph(height, width)
    result = decode(encoded(image, kind), shorter_side=side)

    assert result.shape == (*expected, 3)
    assert result.dtype == np.uint8
    if min(expected) > 8:
        size = Image.fromarray(image).resize(expected[::-1], Image.Resampling.BICUBIC)
        worst = 0 if kind in ("BMP", "PNG") else 16
        assert np.abs(result.astype(int) - np.asarray(size)).max() <= worst


def test_no_image_is_enlarged():
    for kind in ("JPEG", "PNG"):
        file = encoded(photograph(40, 60), kind)

        for side in (40, 41, 1000):
            assert np.array_equal(decode(file, shorter_side=side), decode(file))


@pytest.mark.parametrize(
    ("side", "fraction"), [(400, 1), (201, 1), (200, 2), (101, 2), (100, 4), (30, 8)]
)
def test_a_jpeg_is_decoded_at_the_smallest_fraction_that_suffices(
    side, fraction, monkeypatch
):
    sizes = []
    to_rgb = decoding._to_rgb
    monkeypatch.setattr(
        decoding, "_to_rgb", lambda *own: (sizes.append(own[0].size), to_rgb(*own))[1]
    )

    decode(jpeg(photograph(400, 800)), shorter_side=side)

    assert sizes == [(800 // fraction, 400 // fraction)]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": exif(6)}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_decoded_at_a_fraction_looks_the_same(mode, options):
    # Not multiples of eight: the last pixels of a fraction are half padding.
    image = Image.fromarray(photograph(333, 250)).convert(mode)
    file = jpeg(image, **options)
    whole = Image.fromarray(decode(file))

    result = decode(file, shorter_side=30)

    assert min(result.shape[:2]) == 30
    assert (result.shape[0] > result.shape[1]) == ("exif" not in options)
    expected = whole.resize(result.shape[1::-1], Image.Resampling.BICUBIC)
    assert np.abs(result.astype(int) - np.asarray(expected)).mean() < 1.5


def test_a_shorter_side_without_pixels_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match=r"at least 1, got 0"):
        decode(encoded(pixels()), shorter_side=0)


# ---- headers


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_header_says_the_upright_size(orientation):
    assert header(turned(orientation)) == (16, 24)


def test_a_header_is_read_without_pixels(monkeypatch):
    cut_off = jpeg(pixels(30, 20))[:-200]
    monkeypatch.setattr(Image.Image, "load", None)

    assert header(cut_off) == (30, 20)
    assert header(png(8000, 8000, 8, 2, b"")) == (8000, 8000)


def test_a_header_says_whether_it_is_a_plain_jpeg():
    image = Image.fromarray(pixels(16, 24))

    def saved(kind="RGB", orientation=None, form="JPEG"):
        held, exif = io.BytesIO(), Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        image.convert(kind).save(held, form, exif=exif)
        return held.getvalue()

    assert inspect(saved()).plain
    assert inspect(saved("L")).plain
    assert not inspect(saved("CMYK")).plain
    assert not inspect(saved(form="PNG")).plain
    for orientation in range(10):
        # One that there is not may mean anything.
        assert inspect(saved(orientation=orientation)).plain == (orientation == 1)


# ---- what is refused


def test_the_size_is_looked_at_before_any_pixel_is_decoded(monkeypatch):
    files = [encoded(pixels(6, 5), kind) for kind in ("GIF", "JPEG", "PNG", "TIFF")]
    loaded = []
    monkeypatch.setattr(Image.Image, "load", lambda self: loaded.append(self))

    for file in files:
        with pytest.raises(TooLargeError) as caught:
            decode(file, decoding=Decoding(max_pixels=29))
        assert str(caught.value) == (
            "30 pixels by its header, more than 29 (config.data.max_pixels)"
        )

    assert not loaded


def test_a_header_is_read_of_a_jpeg_of_any_size(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 29)

    assert header(encoded(pixels(6, 5), "JPEG")) == (6, 5)
    with pytest.raises(TooLargeError):
        header(encoded(pixels(6, 5)))


def test_an_image_of_exactly_the_largest_size_is_read():
    most = Decoding(max_pixels=30)

    assert decode(encoded(pixels(6, 5)), decoding=most).shape == (6, 5, 3)


def test_a_jpeg_may_be_large_if_it_is_shrunk():
    file = jpeg(photograph(400, 800))
    most = Decoding(max_pixels=20_000)  # a quarter of each side

    assert decode(file, shorter_side=100, decoding=most).shape == (100, 200, 3)
    for side in (101, None):
        with pytest.raises(TooLargeError, match=r"^320,000 pixels .* than 20,000"):
            decode(file, shorter_side=side, decoding=most)


def scan_by_scan(height, width):
    """A gray JPEG whose header says that there is more to come."""
    file = jpeg(photograph(height, width)[..., 0])
    start = file.index(b"\xff\xda")
    assert file[start + 4] == 1
    header = file.index(b"\xff\xc0")
    three = b"\xff\xc0\0\x11" + file[header + 4 : header + 9] + b"\3"
    three += file[header + 10 : header + 13] + b"\2\x11\0\3\x11\0"
    return file[:header] + three + file[header + 13 :]


@pytest.mark.parametrize(
    "file",
    [jpeg(photograph(400, 800), progressive=True), scan_by_scan(400, 800)],
    ids=["progressive", "one color a scan"],
)
def test_a_jpeg_of_several_scans_is_kept_whole_and_counts_as_such(file):
    for most, fits in ((80_000, True), (79_999, False)):
        try:
            decode(file, shorter_side=25, decoding=Decoding(max_pixels=most))
            assert fits
        except TooLargeError:
            assert not fits
        except UndecodableImageError:  # it breaks off after one color
            assert fits


def test_pillows_own_limit_does_not_hold(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)

    assert decode(jpeg(photograph(40, 80)), shorter_side=40).shape == (40, 80, 3)


def test_a_file_of_more_bytes_than_can_be_an_image_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "sparse.jpg"
    with path.open("wb") as file:
        file.truncate(decoding.MAX_BYTES + 1)
    monkeypatch.setattr(type(path), "read_bytes", None)

    with pytest.raises(UndecodableImageError) as caught:
        decode(path)

    assert str(caught.value) == "268,435,457 bytes, more than 268,435,456"


def test_a_file_that_is_not_there_is_refused_with_a_reason(tmp_path):
    with pytest.raises(UndecodableImageError, match=r"^No such file or directory$"):
        decode(tmp_path / "missing.jpg")
    with pytest.raises(UndecodableImageError, match=r"^Is a directory$"):
        decode(tmp_path)
    with pytest.raises(UndecodableImageError, match=r"null"):
        decode("a\0b.jpg")


def test_a_file_that_may_not_be_read_is_refused_with_a_reason(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    path = tmp_path / "secret.jpg"
    path.write_bytes(jpeg())
    path.chmod(0)
    # Root may read all the same.
    monkeypatch.setattr(type(path), "read_bytes", refuse)

    with pytest.raises(UndecodableImageError, match=r"^Permission denied$"):
        decode(path)


def test_what_fails_for_want_of_memory_is_refused(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    path = tmp_path / "a.png"
    path.write_bytes(encoded(pixels()))
    for place, name in ((Image.Image, "load"), (type(path), "read_bytes")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail)
            with pytest.raises(UndecodableImageError, match=r"^too large for the mem"):
                decode(path)


def test_what_pillow_warns_of_is_passed_over_in_all_threads():
    # Warnings are errors in tests; this one is of an animation without frames.
    file = png(1, 1, 8, 0, b"\0\7", (b"acTL", bytes(8)))
    with pytest.warns(UserWarning, match="Invalid APNG"):
        Image.open(io.BytesIO(file))

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        images = list(threads.map(decode, [file] * 200))

    assert all((image == 7).all() for image in images)
    filters = list(warnings.filters)
    decode(file)
    assert warnings.filters == filters


def test_what_pillow_logs_is_not_on_the_screen(monkeypatch, capfd):
    samples = struct.pack("<HHI", 277, 3, 1)
    file = renamed_size(tiff(2, 1, 8, b"ab"), samples, "<I", 60_000)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    with pytest.raises(UndecodableImageError, match=r"^not read \(a TIFF of 60000 ba"):
        decode(file)

    assert capfd.readouterr() == ("", "")


def test_an_error_of_any_kind_becomes_one_harmless_line(monkeypatch):
    def fail(*_):
        raise RuntimeError("object at 0x7f3A\n\x1b[2Jgone" + 500 * "!")

    monkeypatch.setattr(decoding, "_to_rgb", fail)

    with pytest.raises(UndecodableImageError) as caught:
        decode(encoded(pixels()))

    told = r"broken PNG file: RuntimeError: object at 0x… \x1b[2Jgone!!!"
    assert str(caught.value).startswith(told)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX", "PDF", "SGI", "TGA", "XBM"])
def test_other_parsers_of_pillow_are_never_run(kind):
    image = Image.new("1" if kind == "XBM" else "RGB", (16, 16))

    with pytest.raises(UndecodableImageError, match=r"^not an image of a known"):
        decode(encoded(image, kind))


def test_the_end_of_a_jpeg_is_not_looked_for_in_its_header():
    thumbnail = jpeg(pixels(8, 8))
    file = jpeg(pixels(48, 40), comment=thumbnail)
    assert file.count(b"\xff\xd9") == 2
    assert decode(file).shape == (48, 40, 3)

    with pytest.raises(UndecodableImageError, match=r"^truncated JPEG file$"):
        decode(file[:-900] + bytes(2000))


def test_padding_before_a_segment_of_a_jpeg_is_passed_over():
    file = jpeg(pixels(48, 40), comment=jpeg(pixels(8, 8)))
    start = file.index(b"\xff\xfe")
    padded = file[:start] + b"\xff" + file[start:]
    assert np.array_equal(decode(padded), decode(file))

    with pytest.raises(UndecodableImageError, match=r"^truncated JPEG file$"):
        decode(padded[:-900] + bytes(2000))


def test_heic_without_its_plugin_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)

    for brand in (b"heic", b"mif1"):
        with pytest.raises(UndecodableImageError) as caught:
            decode(ftyp(brand))
        assert str(caught.value) == (
            "HEIC needs the heic extra (pip install 'noisy-student-jax[heic]')"
        )


def test_avif_without_its_codec_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(decoding.features, "check", lambda name: False)

    with pytest.raises(UndecodableImageError, match=r"newer Pillow .pip install"):
        decode(ftyp(b"avif"))


@pytest.mark.skipif(not (HAS_AVIF and HAS_HEIC), reason="no codecs for both")
def test_containers_without_a_codec_in_their_brand_are_looked_into():
    for kind in ("AVIF", "HEIF"):
        file = bytearray(encoded(photograph(64, 64), kind))
        file[8:12] = b"mif1"

        found = decode(bytes(file)).astype(int)

        assert np.abs(found - photograph(64, 64)).mean() < 4, kind

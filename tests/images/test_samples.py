"""Samples of more than 8 bits, in all forms that a format has, as others read them."""

import io
import itertools
import struct

import numpy as np
import pytest
from bad_images import encoded, png, profile, tiff
from PIL import Image

from noisy_student_jax.images import decode as decoding
from noisy_student_jax.images import samples
from noisy_student_jax.images.decode import (
    ANY,
    Decoding,
    UndecodableImageError,
    UnscaledError,
    decode,
    decoded,
    header,
    inspect,
)

TYPES = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")
COLORS = (("minisblack", 1), ("miniswhite", 1), ("rgb", 3), ("rgb", 4))


def values(kind, shape):
    found = np.random.default_rng(0).random(shape) * 100
    return (found if kind[0] == "f" else found * (1 if kind[1] == "1" else 300)).astype(
        kind
    )


def stored_as(kind, photometric, count, **options):
    """Values, and the TIFF that another library makes of them."""
    tifffile = pytest.importorskip("tifffile")
    image = values(kind, (21, 37, count))
    file = io.BytesIO()
    planes = np.moveaxis(image, -1, 0) if options.get("planarconfig") else image
    if count == 4:
        options["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(
        file,
        planes[..., 0] if count == 1 else planes,
        photometric=photometric,
        **options,
    )
    return image, file.getvalue()


LAYOUTS = [
    {"planarconfig": planar, "tile": tile, "byteorder": order, "bigtiff": big}
    for planar, tile, order, big in itertools.product(
        (None, "separate"), (None, (16, 16)), "<>", (False, True)
    )
]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("photometric", "count"), COLORS)
def test_a_tiff_has_the_values_that_were_stored(kind, photometric, count):
    for layout in LAYOUTS:
        if layout["planarconfig"] and count == 1:
            continue
        for predictor in (None, 2) if kind[0] != "f" else (None,):
            options = {**layout, "compression": "zlib" if predictor else None}
            image, file = stored_as(
                kind, photometric, count, predictor=predictor, **options
            )

            found = samples.read("TIFF", file, None)

            if kind == "u1":
                assert found is None, "Pillow reads it"
                continue
            assert np.array_equal(found.values, image[..., :3]), options
            assert found.inverted == (photometric == "miniswhite")
            assert (found.alpha is not None) == (count == 4)
            assert found.kind == np.dtype(kind).name


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("photometric", "count"), COLORS)
def test_a_tiff_looks_as_its_photometric_interpretation_says(kind, photometric, count):
    image, file = stored_as(kind, photometric, count)
    most = float(image[..., :3].max()) if kind != "u1" else 255.0
    scale = Decoding(scales={ANY: (0.0, most)})

    found = decode(file, decoding=scale).astype(float)

    right = image[..., :3].astype(float) / most * 255
    right = 255 - right if photometric == "miniswhite" else right
    if count == 4:
        whole = {"u": 2 ** (8 * int(kind[1])) - 1, "f": 1}.get(kind[0])
        whole = whole or 2 ** (8 * int(kind[1]) - 1) - 1
        alpha = np.clip(image[..., 3:].astype(float) / whole, 0, 1)
        right = right * alpha + 255 * (1 - alpha)
    assert np.abs(found - right).max() <= 1.5
    assert header(file) == (21, 37)
    assert not inspect(file).plain


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("bands", [1, 3])
def test_the_predictor_of_floating_point_is_undone(size, bands):
    image = values(f"f{size}", (5, 7 * bands)).astype(f">f{size}")
    # As in Adobe's note: all first bytes, all second bytes, … and their differences.
    planes = image.view(np.uint8).reshape(5, -1, size).transpose(0, 2, 1).reshape(5, -1)
    stored = planes.copy()
    stored[:, bands:] -= planes[:, :-bands]

    found = samples._of_predictor_3(stored, bands, size)

    assert np.array_equal(found.view(f">f{size}"), image)


@pytest.mark.parametrize("lzw", [None, "tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_a_tiff_of_any_lossless_compression_is_read(lzw):
    image = values("u2", (40, 30))
    file = encoded(image, "TIFF", **({"compression": lzw} if lzw else {}))

    found = samples.read("TIFF", file, None)

    assert np.array_equal(found.values[..., 0], image)


def test_premultiplied_colors_are_those_behind_white():
    tifffile = pytest.importorskip("tifffile")
    image = np.zeros((4, 4, 4), np.uint16)
    image[..., 0], image[..., 3] = 20_000, 40_000
    file = io.BytesIO()
    tifffile.imwrite(file, image, photometric="rgb", extrasamples=["assocalpha"])

    found = decode(file.getvalue())

    behind = 255 * (1 - 40_000 / 65_535)
    right = [20_000 / 257 + behind, behind, behind]
    assert np.abs(found - np.array(right)).max() <= 1.5


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_deep_png_has_the_values_that_were_stored(count):
    cv2 = pytest.importorskip("cv2")
    image = np.sort(values("u2", (33, 45, count)), axis=0)  # for all filters
    image[5:9] = values("u2", (4, 45, count)) * 2
    shown = image if count == 1 else image[..., [2, 1, 0, 3][:count]]
    file = cv2.imencode(".png", shown)[1].tobytes()

    found = samples.read("PNG", file, Image.open(io.BytesIO(file)))

    assert np.array_equal(found.values, image[..., :3])
    if count == 4:
        assert np.allclose(found.alpha * 65_535, image[..., 3], atol=0.01)


@pytest.mark.parametrize("filtered", range(5))
@pytest.mark.parametrize(("color", "count"), [(2, 3), (4, 2), (6, 4)])
def test_every_filter_of_a_png_is_undone(filtered, color, count):
    image = values("u2", (7, 6, count)).astype(">u2")
    raw = image.view(np.uint8).reshape(7, -1).astype(int)
    rows, above = b"", np.zeros(raw.shape[1], int)
    for row in raw:
        left = np.concatenate([np.zeros(2 * count, int), row[: -2 * count]])
        corner = np.concatenate([np.zeros(2 * count, int), above[: -2 * count]])
        near = np.abs(left + above - corner - np.stack([left, above, corner]))
        paeth = np.stack([left, above, corner])[near.argmin(0), np.arange(len(row))]
        guess = [0, left, above, (left + above) // 2, paeth][filtered]
        rows += bytes([filtered]) + ((row - guess) % 256).astype(np.uint8).tobytes()
        above = row
    file = png(6, 7, 16, color, rows)

    found = samples.read("PNG", file, Image.open(io.BytesIO(file)))

    channels = count - (color != 2)
    assert np.array_equal(found.values, image[..., :channels])


def test_an_interlaced_deep_png_is_put_together():
    image = values("u2", (11, 13, 3)).astype(">u2")
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, right in samples._PASSES
        for row in image[top::down, left::right]
    )

    file = png(13, 11, 16, 2, rows, interlace=1)

    found = samples.read("PNG", file, Image.open(io.BytesIO(file)))

    assert np.array_equal(found.values, image)


@pytest.mark.parametrize("most", [1023, 4095, 1000, 65_535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_a_deep_ppm_is_white_at_the_value_that_it_names(kind, most):
    image = values("u4", (5, 4, 1 if kind in ("P2", "P5") else 3))
    image = (image % (most + 1)).astype(">u2")
    image[0, 0] = most
    file = f"{kind} # a comment\n4 5\n{most}\n".encode()
    text = " ".join(map(str, image.ravel())).encode()
    file += image.tobytes() if kind in ("P5", "P6") else b"# another\n" + text

    found = decode(file)

    assert np.abs(found - image.astype(float) * 255 / most).max() <= 1


# ---- what is not read


def test_what_is_whole_and_not_read_is_not_called_broken():
    def with_bands(count):
        tag = struct.pack("<HHI", 277, 3, 1)
        file = tiff(8, 8, 8, bytes(64 * count))
        return file.replace(tag + b"\1\0", tag + bytes([count, 0]))

    for file, why in (
        (tiff(8, 8, 24, bytes(192)), "1 band of 24 bits, gray"),
        (tiff(8, 8, 128, bytes(1024)), "1 band of 128 bits, gray"),
        (with_bands(5), "5 bands of 8 bits, gray"),
    ):
        with pytest.raises(UndecodableImageError) as caught:
            decode(file)
        assert str(caught.value) == f"not read (a TIFF of {why})"


def test_a_plain_text_pgm_is_read():
    assert decode(b"P2\n4 2\n255\n0 60 120 180\n10 70 130 190\n")[1, :, 0].tolist() == [
        *(10, 70, 130, 190)
    ]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_deep_file_that_is_cut_short_is_refused(share):
    image = values("u2", (60, 50))
    for kind in ("TIFF", "PPM", "PNG"):
        file = encoded(image, kind)
        with pytest.raises(UndecodableImageError, match=f"^(broken|truncated) {kind}"):
            decode(file[: int(len(file) * share)])


# ---- scales


@pytest.mark.parametrize(
    ("kind", "lowest", "highest", "scale"),
    [
        ("uint16", 0, 200, (0, 255)),
        ("uint16", 3, 4000, (0, 4095)),
        ("uint16", 0, 65_000, (0, 65_535)),
        ("int16", -1024, 3071, (-1024, 3071)),
        ("int16", 0, 3071, (0, 4095)),
        ("uint32", 0, 1e9, (0, 1e9)),
        ("float32", 0, 0.3, (0, 1)),
        ("float32", 0, 255, (0, 255)),
        ("float32", -1, 1, (-1, 1)),
        ("float32", -5, -5, (-5, -4)),
    ],
)
def test_a_scale_follows_from_all_values_of_a_source(kind, lowest, highest, scale):
    assert samples.observed(kind, lowest, highest) == scale


def test_two_frames_of_one_unit_keep_their_brightness():
    frames = [encoded(np.full((4, 4), v, np.uint16)) for v in (1000, 2000)]
    scale = Decoding(scales={"uint16": (0, 4095)})

    dark, bright = (decode(file, decoding=scale)[0, 0, 0] for file in frames)

    assert (dark, bright) == (62, 125)


def test_a_type_without_a_scale_is_refused_with_the_field_that_gives_one():
    for values_ in (np.int32([[0, 300]]), np.float32([[0, 2]]), np.float32([[-1, 1]])):
        file = encoded(values_, "TIFF")
        with pytest.raises(
            UnscaledError, match=r"values from .* \(config.data.scale\)"
        ):
            decode(file)
        assert decode(file, decoding=Decoding(scales={ANY: (-1, 2)})).max() > 0


def test_values_beyond_the_scale_are_clipped_and_noted():
    file = encoded(np.uint16([[0, 5000]]))

    found = decoded(file, decoding=Decoding(scales={"uint16": (0, 4095)}))
    given = decoded(file, decoding=Decoding(scales={ANY: (0, 4095)}))

    assert found.pixels[0, :, 0].tolist() == given.pixels[0, :, 0].tolist() == [0, 255]
    assert decoding.CLIPPED in found.notes
    assert decoding.CLIPPED not in given.notes


def test_what_is_no_number_is_black_and_infinity_white():
    file = encoded(np.float32([[np.nan, np.inf, -np.inf, 1]]), "TIFF")

    assert decode(file)[0, :, 0].tolist() == [0, 255, 0, 255]


def test_a_deep_image_has_its_profile_orientation_and_transparent_value():
    gray = np.full((4, 6), 20_000, np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    own = profile(gamma=1.0)

    for kind in ("PNG", "TIFF"):
        found = decode(encoded(gray, kind, icc_profile=own, exif=exif))
        light = 20_000 / 65_535
        right = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
        assert found.shape == (6, 4, 3), kind
        assert np.abs(found - right).max() <= 2, kind
    gray[0, 0] = 7
    assert decode(encoded(gray, transparency=7))[0, 0].tolist() == [255] * 3


# ---- images of one color


@pytest.mark.parametrize(
    ("image", "is_one"),
    [
        (np.full((40, 40, 3), (9, 90, 200), np.uint8), True),
        (np.random.default_rng(0).integers(0, 10, (40, 40, 3), np.uint8), True),
        (np.random.default_rng(0).integers(0, 40, (40, 40, 3), np.uint8), False),
        (np.tile(np.uint8([0, 255])[:, None], (20, 40, 3)).reshape(40, 40, 3), False),
    ],
)
def test_an_image_that_comes_out_nearly_of_one_color_is_noted(image, is_one):
    assert (decoding.ONE_COLOR in decoded(encoded(image)).notes) == is_one

"""Color profiles: what was another color space comes out as sRGB."""

import io

import numpy as np
import pytest
from bad_images import DISPLAY_P3, HAS_AVIF, HAS_HEIC, encoded, profile
from PIL import Image, ImageCms

from noisy_student_jax.images import profiles
from noisy_student_jax.images.decode import decode, decoded, inspect

SRGB = np.array(
    [
        [0.43607, 0.38515, 0.14307],
        [0.22249, 0.71687, 0.06061],
        [0.01392, 0.09708, 0.71410],
    ]
)
"""Red, green and blue of sRGB in XYZ under D50."""
ADOBE = np.array(
    [
        [0.60974, 0.20528, 0.14919],
        [0.31111, 0.62567, 0.06322],
        [0.01947, 0.06087, 0.74457],
    ]
)
"""The same of Adobe RGB."""


def curved(light):
    """The sRGB curve, to levels of 255."""
    light = np.clip(light, 0, 1)
    low = light <= 0.0031308
    return 255 * np.where(low, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def expected(image, colors, gamma):
    """What an image of other primaries looks like in sRGB, by matrices."""
    light = (image / 255.0) ** gamma
    return curved(light @ (np.linalg.inv(SRGB) @ colors).T)


def colors(height=8, width=12):
    """Blocks of muted colors, which sRGB has too."""
    few = np.random.default_rng(0).integers(60, 196, (height // 4, width // 4, 3))
    return np.repeat(np.repeat(few.astype(np.uint8), 4, 0), 4, 1)


def far(found, wanted):
    return np.abs(found.astype(float) - wanted).max()


OPTIONS = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 100, "subsampling": 0},
    **({"HEIF": {"quality": -1, "chroma": 444}} if HAS_HEIC else {}),
    **({"AVIF": {"quality": 100, "subsampling": "4:4:4"}} if HAS_AVIF else {}),
}


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize(
    ("primaries", "gamma"), [(DISPLAY_P3, 2.2), (ADOBE, 2.2), (SRGB, 1.8)]
)
def test_an_embedded_profile_is_applied_in_every_format(kind, primaries, gamma):
    image = colors()
    file = encoded(image, kind, icc_profile=profile(primaries, gamma), **OPTIONS[kind])
    right = expected(image, primaries, gamma)
    assert far(image, right) > 5, "the test needs a profile that changes colors"

    assert far(decode(file), right) <= (6 if kind in ("JPEG", "HEIF", "AVIF") else 1.5)
    assert decoded(file).notes == ()
    assert not inspect(file).plain


def test_a_photograph_of_a_phone_gets_the_color_that_was_seen():
    seen = Image.new("RGB", (8, 8), (20, 160, 40))
    own = profile(DISPLAY_P3)
    stored = ImageCms.applyTransform(
        seen,
        ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"),
            ImageCms.ImageCmsProfile(io.BytesIO(own)),
            "RGB",
            "RGB",
        ),
    )
    assert far(np.asarray(stored), np.asarray(seen)) > 8

    assert far(decode(encoded(stored, icc_profile=own)), np.asarray(seen)) <= 2


def test_an_srgb_profile_changes_no_bit_and_leaves_a_jpeg_plain():
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode in ("RGB", "L"):
        image = Image.fromarray(colors()).convert(mode)
        for kind, options in OPTIONS.items():
            file = encoded(image, kind, icc_profile=own, **options)
            without = encoded(image, kind, **options)

            assert np.array_equal(decode(file), decode(without)), (mode, kind)
        assert inspect(encoded(image, "JPEG", icc_profile=own)).plain


def test_gray_images_have_gray_profiles_or_those_of_color_images():
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    right = curved((gray / 255.0) ** 1.4)
    assert far(gray, right) > 8

    opaque = Image.new("L", (16, 16), 255)
    with_alpha = Image.merge("LA", [Image.fromarray(gray), opaque])
    for own in (profile(gamma=1.4), profile(SRGB, 1.4)):
        for image in (gray, with_alpha):
            found = decode(encoded(image, icc_profile=own))
            assert far(found, right[..., None]) <= 2


def test_white_behind_transparent_parts_stays_white():
    image = Image.fromarray(colors()).convert("RGBA")
    alpha = np.full((8, 12), 255, np.uint8)
    alpha[4:] = 0
    image.putalpha(Image.fromarray(alpha))

    found = decode(encoded(image, icc_profile=profile(DISPLAY_P3)))

    assert (found[4:] == 255).all()
    assert far(found[:4], expected(colors(), DISPLAY_P3, 2.2)[:4]) <= 1.5


def test_a_palette_is_converted():
    image = Image.fromarray(colors()).quantize(64)

    found = decode(encoded(image, icc_profile=profile(DISPLAY_P3)))

    right = expected(np.asarray(image.convert("RGB")), DISPLAY_P3, 2.2)
    assert far(found, right) <= 1.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_shrunk_image_has_the_same_colors(kind):
    image = np.repeat(np.repeat(colors(), 16, 0), 16, 1)
    file = encoded(image, kind, icc_profile=profile(DISPLAY_P3))

    found = decode(file, shorter_side=32)

    whole = Image.fromarray(decode(file)).resize((48, 32), Image.Resampling.BOX)
    assert np.abs(found.astype(int) - np.asarray(whole)).mean() < 3


@pytest.mark.parametrize(
    "own",
    [b"junk", bytes(128), profile(DISPLAY_P3)[:300], profile(), b"x" * 100_000],
    ids=["junk", "zeros", "cut", "a gray one", "large"],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_unusable_profile_is_noted_and_ignored(kind, own):
    file = encoded(colors(), kind, icc_profile=own, **OPTIONS[kind])
    without = encoded(colors(), kind, **OPTIONS[kind])

    found = decoded(file)

    assert np.array_equal(found.pixels, decode(without))
    assert found.notes == (profiles.UNREADABLE,)
    assert inspect(file).plain == inspect(without).plain


def test_a_profile_of_more_bytes_than_one_has_is_not_read(monkeypatch):
    monkeypatch.setattr(profiles, "MAX_BYTES", 10)
    file = encoded(colors(), icc_profile=profile(DISPLAY_P3, 2.3))

    assert decoded(file).notes == (profiles.UNREADABLE,)


def test_a_conversion_is_computed_once_for_many_images():
    own = profile(DISPLAY_P3, 2.1)
    before = profiles.conversion.cache_info().misses

    for seed in range(5):
        decode(encoded(np.full((4, 4, 3), seed, np.uint8), icc_profile=own))

    assert profiles.conversion.cache_info().misses == before + 1

"""Broken, odd and hostile image files, in every input pipeline."""

import collections
import csv
import json

import numpy as np
import pytest
from bad_images import CASES, HAS_AVIF, HAS_HEIC, card, encoded, exif, jpeg, noise
from PIL import Image

from noisy_student_jax.cli.main import main
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.cache.build import PrepareOptions, prepare
from noisy_student_jax.data.cache.listing import list_images
from noisy_student_jax.data.cache.walk import safe_text
from noisy_student_jax.images.decode import UndecodableImageError, decode, header

by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_there_are_enough_of_them():
    assert len(CASES) >= 45
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({case.file for case in CASES}) == len(CASES)


# ---- by themselves


@by_name
def test_each_is_decoded_rightly_or_refused_with_its_reason(case, tmp_path, capfd):
    path = case.put(tmp_path)
    try:
        case.check(decode(path))
    except UndecodableImageError as error:
        case.check_reason(str(error))
        assert str(error).isprintable() and len(str(error)) < 250
        with pytest.raises(UndecodableImageError) as again:
            decode(path)
        assert str(again.value) == str(error)
    assert capfd.readouterr() == ("", "")


@by_name
def test_the_header_of_each_tells_the_size_or_why_not(case, tmp_path):
    path = case.put(tmp_path)
    try:
        assert header(path) == case.size
    except UndecodableImageError as error:
        assert case.size is None
        case.check_reason(str(error))


# ---- prepared


def test_a_folder_of_them_all_is_prepared_and_accounted_for(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for case in CASES:
        case.put(folder)
    listing = list_images(folder)

    source = prepare(
        listing,
        tmp_path / "cache",
        PrepareOptions(side=1000, max_quarantined=1.0, workers=1),
        name="bad",
        interruption=Interruption(),
        progress=Progress(),
    )

    kept = {source.path(index): index for index in range(len(source))}
    quarantined = dict(source.quarantined)
    for case in CASES:
        if case.left_out is not None:
            assert case.file not in listing.paths
        elif case.file in kept:
            case.check(source.read([kept[case.file]]).images[0])
        else:
            case.check_reason(quarantined[safe_text(case.file)])
    assert len(kept) + len(quarantined) == len(source) + len(source.quarantined)
    assert len(kept) + len(quarantined) == len(listing)
    left_out = collections.Counter(case.left_out for case in CASES if case.left_out)
    assert listing.left_out == left_out
    with (tmp_path / "cache/quarantine.csv").open(encoding="utf-8") as file:
        assert list(csv.reader(file))[1:] == [list(row) for row in source.quarantined]


# ---- predicted


@pytest.fixture
def predicted(tiny_run, tmp_path, capfd):
    """Predicts all; returns their paths, and a function of flags for the output."""
    paths = [str(case.put(tmp_path)) for case in CASES]

    def run(*flags):
        capfd.readouterr()
        assert main(["predict", f"--model={tiny_run / 'best'}", *flags, *paths]) == 1
        return capfd.readouterr()

    return paths, run


def test_predict_tells_programs_of_each(predicted):
    paths, run = predicted
    out, err = run("--json")

    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["image"] for row in rows] == paths
    for case, row in zip(CASES, rows, strict=True):
        if "error" in row:
            case.check_reason(row["error"])
        else:
            assert case.reason is None or case.may_be_good
            assert 0 < row["probability"] <= 1
    failed = sum("error" in row for row in rows)
    assert f"{failed} of {len(CASES)} images could not be read" in err
    assert "Traceback" not in err


def test_predict_tells_people_of_each_in_one_line(predicted):
    _, run = predicted
    out, err = run()

    assert "Traceback" not in out + err
    device, *lines = out.split("\n")
    assert device.startswith("device: ") and lines.pop() == ""
    assert len(lines) == len(CASES)
    for case, line in zip(CASES, lines, strict=True):
        assert line.isprintable()
        _, refused, reason = line.partition(": cannot be read: ")
        if refused:
            case.check_reason(reason)
        else:
            assert case.reason is None or case.may_be_good
            assert line.endswith(" %)")


# ---- damaged at random


def small_files():
    image = Image.fromarray(noise(12, 10))
    files = {
        "BMP": encoded(image, "BMP"),
        "GIF": encoded(image, "GIF"),
        "JPEG": jpeg(image, exif=exif(6)),
        "PNG": encoded(image, exif=exif(6)),
        "PPM": encoded(image, "PPM"),
        "TIFF": encoded(image, "TIFF", exif=exif(6)),
        "WebP": encoded(image, "WEBP", exif=exif(6)),
        "float TIFF": encoded(np.ones((9, 9), np.float32), "TIFF"),
        "palette": encoded(image.quantize(8), transparency=bytes(8)),
        "progressive": jpeg(image, progressive=True),
    }
    if HAS_AVIF:
        files["AVIF"] = encoded(image, "AVIF", exif=exif(6))
    if HAS_HEIC:
        files["HEIC"] = encoded(image, "HEIF")
    return files


@pytest.mark.parametrize("kind", small_files())
def test_no_damage_leads_to_anything_but_an_image_or_a_reason(kind):
    file = small_files()[kind]
    random = np.random.default_rng(0)
    decoded = refused = 0
    for number in range(300):
        damaged = bytearray(file)
        place = int(random.integers(len(file)))
        if number % 5:
            damaged[place] ^= int(random.integers(1, 256))
        else:
            del damaged[place:]
        try:
            image = decode(bytes(damaged), shorter_side=(None, 7)[number % 2])
        except UndecodableImageError as error:
            refused += 1
            assert str(error).isprintable() and "0x" not in str(error)
        else:
            decoded += 1
            assert image.dtype == np.uint8 and image.shape[2] == 3
            assert number % 2 == 0 or min(image.shape[:2]) <= 7
    assert refused and (decoded or kind in ("palette", "PNG"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_no_damage_to_exif_loses_an_image(kind):
    block = exif(6)
    block[0x010E] = "a description"
    whole = block.tobytes()
    random = np.random.default_rng(0)
    for number in range(100):
        damaged = bytearray(whole)
        for place in random.integers(6, len(whole), 1 + number % 4):
            damaged[place] = random.integers(256)
        # What a broken block says is taken, or nothing is.
        file = encoded(card(), kind, exif=bytes(damaged))
        assert decode(file).shape[:2] == header(file)

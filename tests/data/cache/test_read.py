"""A prepared source: records of a cache by index, without copies."""

import hashlib
import io
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from noisy_student_jax.core import console
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.cache import read, workers
from noisy_student_jax.data.cache.build import PrepareOptions, prepare
from noisy_student_jax.data.cache.listing import list_classes
from noisy_student_jax.data.sources import fingerprint
from noisy_student_jax.images.perceptual import perceptual_hash

COUNT = 9


def picture(number):
    """Random pixels, number 3 being no image."""
    values = np.random.default_rng(number)
    return values.integers(0, 255, (16 + number, 20, 3), np.uint8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    for number in range(COUNT):
        file = io.BytesIO()
        Image.fromarray(picture(number)).save(file, "PNG")
        path = root / "images" / "cba"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"none" if number == 3 else file.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "FILES_PER_PART", 2)
        source = prepare(
            list_classes(root / "images"),
            root / "parts",
            PrepareOptions(side=64, max_quarantined=0.2, workers=1),
            name="labeled",
            interruption=Interruption(),
            progress=console.Progress(),
        )
    return root, source


PATHS = ["a/2.png", "a/5.png", "a/8.png", "b/1.png", "b/4.png", "b/7.png", "c/0.png"]
PATHS += ["c/6.png"]


def number_of(path):
    return int(path[2])


def test_records_are_the_usable_files_in_the_order_of_the_listing(cache):
    _, source = cache

    assert [source.path(n) for n in range(len(source))] == PATHS
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert source.labels.dtype == np.int64
    assert source.quarantined == [("c/3.png", "not an image of a known format")]
    assert source.original_sizes.tolist() == [[16 + number_of(p), 20] for p in PATHS]
    assert source.original_sizes.dtype == np.int32


def test_records_are_read_in_the_order_asked_for(cache):
    _, source = cache

    examples = source.read([7, 0, 7, 3])

    assert examples.status == ["ok"] * 4
    assert examples.labels.tolist() == [2, 0, 2, 1]
    for image, number in zip(examples.images, (6, 2, 6, 1), strict=True):
        np.testing.assert_array_equal(image, picture(number))
        assert image.dtype == np.uint8
    assert source.read([]).images == []
    assert source.read(np.array([2])).labels.tolist() == [0]


def test_keys_are_made_of_content_too(cache):
    root, source = cache

    for index, path in enumerate(PATHS):
        content = hashlib.sha256((root / "images" / path).read_bytes()).hexdigest()
        assert source.key(index) == f"labeled/{path}:{content[:16]}"
        assert source.sha256[index] == content


def test_images_are_views_that_cannot_be_written_to(cache):
    _, source = cache

    first, again = source.read([4, 4]).images

    assert np.shares_memory(first, again)
    assert not first.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 1


def test_few_parts_are_open_at_a_time(cache, monkeypatch):
    root, source = cache
    monkeypatch.setattr(read, "MAX_OPEN_PARTS", 1)
    listing = list_classes(root / "images")
    decoder = workers.decoder_versions()
    found = read.find(root / "parts", listing, decoder=decoder)
    narrow = read.PreparedSource(root / "parts", listing, found, name="labeled")

    images = narrow.read(range(len(narrow))).images

    assert len(found.parts) == 5
    for image, path in zip(images, PATHS, strict=True):
        np.testing.assert_array_equal(image, picture(number_of(path)))
    assert fingerprint(narrow) == fingerprint(source)


def test_a_subset_is_a_source_of_its_own(cache):
    _, source = cache

    part = source.subset(np.array([6, 1]))

    assert len(part) == 2
    assert part.key(0) == source.key(6)
    assert part.labels.tolist() == [2, 0]
    assert part.sha256 == [source.sha256[6], source.sha256[1]]
    assert part.original_sizes.tolist() == [[16, 20], [21, 20]]
    np.testing.assert_array_equal(part.read([1]).images[0], picture(5))
    assert part.read([1]).labels.tolist() == [0]
    deeper = part.subset(np.array([1]))
    assert deeper.path(0) == "a/5.png"
    assert deeper.labels.tolist() == [0]
    assert len(source) == COUNT - 1


def test_a_subset_may_leave_the_labels_behind_for_good(cache):
    _, source = cache

    part = source.subset(np.array([6, 1]), labeled=False)

    assert part.labels is None
    assert part.read([0]).labels is None
    assert part.subset(np.array([0])).labels is None
    assert part.key(1) == source.key(1)


def test_a_part_tells_the_hash_of_its_pixels_and_its_rows_to_anyone(cache):
    root, _ = cache

    table = pq.read_table(root / "parts" / "part_000000.parquet")

    facts = json.loads(table.schema.metadata[read.METADATA])
    pixels = (root / "parts" / "part_000000.bin").read_bytes()
    assert facts["sha256"] == hashlib.sha256(pixels).hexdigest()
    assert facts["bytes"] == len(pixels)
    row = table.to_pylist()[1]
    assert (row["path"], row["status"]) == ("a/5.png", "ok")
    assert (row["height"], row["width"], row["offset"]) == (21, 20, 18 * 20 * 3)
    assert (row["original_height"], row["original_width"]) == (21, 20)


def test_pixels_are_hashed_as_they_are_cached(cache):
    _, source = cache

    for index, path in enumerate(PATHS):
        image = picture(number_of(path))
        height, width, _ = image.shape
        content = f"{height}x{width}:".encode() + image.tobytes()
        assert source.pixel_hashes[index] == hashlib.sha256(content).hexdigest()
        assert source.looks[index] == perceptual_hash(image)
    part = source.subset(np.array([3]))
    assert part.pixel_hashes == [source.pixel_hashes[3]]
    assert part.looks == source.looks[3]


@pytest.mark.parametrize("keep", [True, False])
def test_parts_of_older_versions_gain_hashes_without_decoding(cache, tmp_path, keep):
    root, source = cache
    shutil.copytree(root / "parts", tmp_path / "parts")
    tables = sorted((tmp_path / "parts").glob("*.parquet"))
    for path in tables:
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(["pixels", "look"]), path)
    listing = list_classes(root / "images")
    decoder = workers.decoder_versions()

    found = read.find(tmp_path / "parts", listing, decoder=decoder, keep=keep)

    older = read.PreparedSource(tmp_path / "parts", listing, found, name="labeled")
    assert older.pixel_hashes == source.pixel_hashes
    assert older.looks.tolist() == source.looks.tolist()
    for path in tables:
        kept = pq.read_table(path)
        assert ("pixels" in kept.column_names) is keep
        assert kept.schema.metadata[read.METADATA]
        if keep:
            assert kept.equals(pq.read_table(root / "parts" / path.name))


def test_a_part_that_has_gone_since_is_named(cache, tmp_path):
    root, _ = cache
    listing = list_classes(root / "images")
    decoder = workers.decoder_versions()
    found = read.find(root / "parts", listing, decoder=decoder)
    source = read.PreparedSource(tmp_path, listing, found, name="labeled")

    with pytest.raises(UserError, match=r"part_000000\.bin' can no longer be read"):
        source.read([0])

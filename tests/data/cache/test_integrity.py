"""A prepared cache with a damaged file: found out, and made again or refused."""

import io
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from noisy_student_jax.core import console
from noisy_student_jax.core.errors import Interrupted, UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.cache import build, integrity, read, workers
from noisy_student_jax.data.cache.listing import list_images

FLIPS = 60
SIDE = 8
OPTIONS = build.PrepareOptions(side=SIDE, max_quarantined=0.5, workers=1)


def prepare(root, *, interruption=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "FILES_PER_PART", 2)
        return build.prepare(
            list_images(root / "images"),
            root / "cache",
            OPTIONS,
            name="pool",
            interruption=interruption or Interruption(),
            progress=console.Progress(),
        )


def look(root):
    return build.open_prepared(
        list_images(root / "images"), root / "cache", OPTIONS, name="pool"
    )


def contents(source):
    examples = source.read(range(len(source)))
    pairs = zip(range(len(source)), examples.images, strict=True)
    return {source.key(n): (image.shape, image.tobytes()) for n, image in pairs}


def facts(source):
    return contents(source), source.pixel_hashes, source.original_sizes.tolist()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    (root / "images").mkdir()
    for number in range(5):
        values = np.random.default_rng(number).integers(0, 255, (9, 11, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(values).save(file, "PNG")
        (root / "images" / f"{number}.png").write_bytes(file.getvalue())
    (root / "images" / "5.png").write_bytes(b"no image")
    return root, facts(prepare(root))


@pytest.fixture
def cache(prepared, tmp_path):
    """A copy of the cache, and what it holds."""
    root, held = prepared
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return tmp_path, held


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place // 8] ^= 1 << place % 8
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("part_000000.bin", 1.0),
        ("part_000001.parquet", 0.9),
        ("prepare.json", 0.5),
        ("quarantine.csv", 0.0),
    ],
)
def test_a_flipped_bit_is_found_or_harmless(cache, name, least):
    root, held = cache
    path, found = root / "cache" / name, 0
    whole = path.read_bytes()

    for place in np.random.default_rng(0).integers(0, len(whole) * 8, FLIPS):
        flip(path, place)
        try:
            source = look(root)
            if source is None:
                found += 1
            else:
                assert facts(source) == held, (name, place)
        except UserError as error:
            assert str(root) in str(error)
            found += 1
        path.write_bytes(whole)

    assert found >= least * FLIPS


def test_a_table_without_a_sum_cannot_end_in_a_traceback(cache):
    root, _ = cache
    path = root / "cache" / "part_000000.parquet"
    table = pq.read_table(path)
    metadata = {k: v for k, v in table.schema.metadata.items() if k == read.METADATA}
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="none")
    whole = path.read_bytes()

    for place in np.random.default_rng(1).integers(0, len(whole) * 8, 3 * FLIPS):
        flip(path, place)
        try:
            if source := look(root):
                contents(source)
        except UserError as error:
            assert str(root) in str(error)
        path.write_bytes(whole)


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 1, "format": 1, "side": 8}'])
def test_a_damaged_manifest_says_what_to_move_away(cache, text):
    root, held = cache
    (root / "cache" / "prepare.json").write_text(text)

    for act in (prepare, look):
        with pytest.raises(UserError, match=r"prepare\.json' is damaged \(") as caught:
            act(root)
    assert f"move '{root / 'cache'}' away" in str(caught.value)

    (root / "cache").rename(root / "away")
    assert facts(prepare(root)) == held


def spoil_pixels(folder):
    flip(folder / "part_000001.bin", 77)


def spoil_table(folder):
    flip(folder / "part_000001.parquet", 900)


def lose_pixels(folder):
    (folder / "part_000001.bin").unlink()


def swap(folder):
    first, second = folder / "part_000000.bin", folder / "part_000001.bin"
    first.rename(folder / "kept")
    second.rename(first)
    (folder / "kept").rename(second)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_pixels, ["part_000001.bin"]),
        (spoil_table, ["part_000001.parquet"]),
        (lose_pixels, ["part_000001.parquet"]),
        (swap, ["part_000000.bin", "part_000001.bin"]),
    ],
)
def test_a_damaged_part_is_named_and_made_again(cache, capsys, spoil, named):
    root, held = cache
    spoil(root / "cache")

    assert facts(prepare(root)) == held

    said = capsys.readouterr().out
    for name in named:
        assert f"{name}' is damaged (" in said
    assert said.count("is damaged") == len(named)
    assert "Errno" not in said
    assert facts(prepare(root)) == held
    assert "is damaged" not in capsys.readouterr().out


def test_an_image_that_is_gone_does_not_come_back_from_damaged_pixels(cache):
    root, held = cache
    spoil_pixels(root / "cache")
    (root / "images" / "2.png").unlink()

    images = contents(prepare(root))

    assert images.items() < held[0].items()
    assert len(images) == 4


def test_a_source_that_was_only_looked_at_refuses_damaged_pixels(cache):
    root, _ = cache
    spoil_pixels(root / "cache")

    with pytest.raises(UserError, match=r"part_000001\.bin.*do not match their SHA-2"):
        contents(look(root))


def test_parts_that_hold_no_file_of_the_listing_are_not_checked(cache, capsys):
    root, held = cache
    spoil_pixels(root / "cache")
    for number in (2, 3):
        (root / "images" / f"{number}.png").unlink()

    images = contents(prepare(root))

    assert images.items() < held[0].items()
    assert "damaged" not in capsys.readouterr().out


def test_an_unchanged_part_is_hashed_once_by_a_process(cache, monkeypatch):
    root, _ = cache
    hashed = []
    sha256 = integrity.files.sha256
    monkeypatch.setattr(
        integrity.files, "sha256", lambda path: hashed.append(path.name) or sha256(path)
    )

    contents(prepare(root))
    contents(prepare(root))

    assert sorted(hashed) == [f"part_{n:06}.bin" for n in range(3)]


def test_a_long_check_tells_its_rate_and_may_be_stopped(cache, capsys, monkeypatch):
    root, _ = cache
    monkeypatch.setattr(integrity, "_LONG_SECONDS", -1.0)
    paths = sorted((root / "cache").glob("*.bin"))
    sums = {path: integrity.files.sha256(path) for path in paths}
    interruption, progress = Interruption(), console.Progress()

    assert not integrity.damaged(sums, interruption=interruption, progress=progress)

    assert "GB/s)" in capsys.readouterr().out
    interruption.signal = 15
    with pytest.raises(Interrupted):
        integrity.damaged(sums, interruption=interruption, progress=progress)

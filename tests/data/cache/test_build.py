"""Preparing: every file is read once and accounted for, whatever happens meanwhile."""

import csv
import hashlib
import io
import os
import pathlib
import resource
import shutil
import signal
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from bad_images import card, encoded
from PIL import Image

from noisy_student_jax.core import console
from noisy_student_jax.core.errors import Interrupted, UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.cache import build, workers
from noisy_student_jax.data.cache.build import PrepareOptions, open_prepared
from noisy_student_jax.data.cache.listing import list_classes, list_images
from noisy_student_jax.data.cache.walk import safe_text
from noisy_student_jax.images.decode import (
    Decoding,
    UndecodableImageError,
    decode,
    decoded,
)

SIDE = 8
READ = "FILES_THAT_WERE_DECODED"


def spy(data, **options):
    """Decodes in a worker, notes that it did, and obeys some special files."""
    with pathlib.Path(os.environ[READ]).open("a") as log:
        log.write(hashlib.sha256(data).hexdigest() + "\n")
    if data == b"crash":
        os._exit(11)
    if data == b"is JAX there?":
        raise UndecodableImageError(f"JAX: {'jax' in sys.modules}")
    if data.endswith(b"signals"):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    if data.endswith(b"full disk"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    if data == b"mistake":
        raise ZeroDivisionError("a mistake of ours")
    return decoded(data, **options)


def png(number, height=12, width=10):
    image = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


class Spied:
    """A folder of images, its cache, and what was decoded since one last asked."""

    def __init__(self, root):
        self.images, self.cache = root / "images", root / "cache"
        self.log = root / "decoded.txt"
        self.images.mkdir(parents=True)

    def __call__(self, *, interruption=None, progress=None, listing=None, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(READ, str(self.log))
            patch.setattr(workers, "DECODE", "data.cache.test_build:spy")
            return build.prepare(
                listing or list_images(self.images),
                self.cache,
                PrepareOptions(**{"side": SIDE, "workers": 1} | options),
                name="pool",
                interruption=interruption or Interruption(),
                progress=progress or console.Progress(),
            )

    def decoded(self):
        if not self.log.exists():
            return []
        names = {
            hashlib.sha256(path.read_bytes()).hexdigest(): path.name
            for path in self.images.rglob("*")
            if path.is_file()
        }
        hashes = self.log.read_text().split()
        self.log.unlink()
        return sorted(names[one] for one in hashes)

    def tables(self):
        return sorted(path.name for path in self.cache.glob("*.parquet"))


@pytest.fixture
def spied(tmp_path):
    return Spied(tmp_path)


def contents(source):
    examples = source.read(range(len(source)))
    return {
        source.key(n): (image.shape, image.tobytes())
        for n, image in enumerate(examples.images)
    }


GOOD = {
    "large.png": png(1, 40, 20),
    "small.png": png(2, 5, 4),
    "signals.png": png(3) + b"signals",
    "sub/ünï\n<script>.png": png(4),
    os.fsdecode(b"caf\xe9.png"): png(5),
}
BAD = {
    "asks.png": (b"is JAX there?", "JAX: False"),
    "crash.png": (b"crash", "crashed the decoder"),
    "empty.png": (b"", "empty file"),
    "page.jpg": (b"<html>404</html>", "not an image of a known format"),
    "truncated.png": (png(6, 30, 30)[:900], None),
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    spied = Spied(tmp_path_factory.mktemp("mixed"))
    write(spied.images, GOOD | {name: data for name, (data, _) in BAD.items()})
    return spied, spied(max_quarantined=0.5)


def test_what_is_kept_is_what_decoding_gives(mixed):
    _, source = mixed

    images = source.read(range(len(source))).images
    assert [source.path(n) for n in range(len(source))] == sorted(GOOD)
    for image, name in zip(images, sorted(GOOD), strict=True):
        np.testing.assert_array_equal(image, decode(GOOD[name], shorter_side=SIDE))
    shapes = dict(zip(sorted(GOOD), [image.shape for image in images], strict=True))
    assert shapes["large.png"] == (16, 8, 3)
    assert shapes["small.png"] == (5, 4, 3)
    sizes = dict(zip(sorted(GOOD), source.original_sizes.tolist(), strict=True))
    assert sizes["large.png"] == [40, 20]


def test_keys_name_source_path_and_content(mixed):
    _, source = mixed

    keys = [source.key(n) for n in range(len(source))]
    assert keys == [
        f"pool/{safe_text(name)}:{hashlib.sha256(GOOD[name]).hexdigest()[:16]}"
        for name in sorted(GOOD)
    ]
    assert source.sha256 == [hashlib.sha256(GOOD[n]).hexdigest() for n in sorted(GOOD)]


def test_what_cannot_be_used_is_named_with_its_reason(mixed):
    spied, source = mixed

    found = dict(source.quarantined)
    assert sorted(found) == sorted(BAD)
    for name, (_, reason) in BAD.items():
        assert reason is None or found[name] == reason
    assert "truncated" in found["truncated.png"]
    assert len(source) + len(found) == len(list_images(spied.images))
    with (spied.cache / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == [
            ("path", "reason"),
            *source.quarantined,
        ]


def test_workers_import_no_jax_and_pay_no_heed_to_signals(mixed):
    _, source = mixed

    assert ("asks.png", "JAX: False") in source.quarantined
    assert "signals.png" in [source.path(n) for n in range(len(source))]


def test_a_file_that_crashes_the_decoder_costs_nothing_but_itself(mixed):
    spied, source = mixed

    assert ("crash.png", "crashed the decoder") in source.quarantined
    assert len(source) == len(GOOD)
    assert not list(spied.cache.glob(".*"))


def test_a_cache_is_opened_without_reading_images(mixed):
    spied, source = mixed
    options = PrepareOptions(side=SIDE)

    opened = open_prepared(list_images(spied.images), spied.cache, options, name="pool")

    assert contents(opened) == contents(source)
    assert opened.quarantined == source.quarantined


def test_a_cache_that_lacks_something_is_not_opened(tmp_path, mixed):
    spied, _ = mixed
    options = PrepareOptions(side=SIDE)
    images = shutil.copytree(spied.images, tmp_path / "images")
    write(images, {"new.png": png(70)})

    listing = list_images(images)
    assert open_prepared(listing, spied.cache, options, name="pool") is None
    assert open_prepared(listing, tmp_path / "none", options, name="pool") is None
    assert not (tmp_path / "none").exists()


def test_only_new_and_changed_files_are_read_again(spied, capsys):
    write(spied.images, {f"{n}.png": png(n) for n in range(4)} | {"bad.png": b"?"})
    first = spied(max_quarantined=0.5)
    assert len(spied.decoded()) == 5
    assert "1 of 5 files" in (told := capsys.readouterr().out)
    assert told.startswith("WARNING") and told.count("\n") == 1
    assert "'bad.png' (not an image of a known format)" in told

    again = spied(max_quarantined=0.5)
    assert spied.decoded() == []
    assert contents(again) == contents(first)
    assert again.quarantined == first.quarantined

    write(spied.images, {"1.png": png(50, 11, 10), "9.png": png(9)})
    os.utime(spied.images / "2.png", ns=(1, 1))
    (spied.images / "0.png").unlink()
    (spied.images / "bad.png").unlink()
    grown = spied()
    assert spied.decoded() == ["1.png", "2.png", "9.png"]
    assert [grown.path(n) for n in range(len(grown))] == [
        "1.png",
        "2.png",
        "3.png",
        "9.png",
    ]
    examples = grown.read([0, 1, 3])
    for image, number in zip(examples.images, (50, 2, 9), strict=True):
        data = png(number, 11 if number == 50 else 12, 10)
        np.testing.assert_array_equal(image, decode(data, shorter_side=SIDE))
    assert not (spied.cache / "quarantine.csv").exists()


class StopsAt:
    """A progress that has the run asked to stop when so many files are begun."""

    def __init__(self, interruption, count):
        self.interruption, self.count = interruption, count

    def start(self, size, unit, *, at=0):
        self.size, self.started_at = size, at

    def update(self, at, note=""):
        assert 0 <= at <= self.size
        if at >= self.count:
            self.interruption.signal = signal.SIGTERM


def test_what_was_read_before_a_stop_is_not_read_again(spied):
    count = 200
    write(spied.images, {f"{n:03}.png": png(n, 40, 40) for n in range(count)})
    interruption = Interruption()

    with pytest.raises(Interrupted):
        spied(interruption=interruption, progress=StopsAt(interruption, 20))

    before = spied.decoded()
    assert 20 <= len(before) < count
    progress = StopsAt(Interruption(), count + 1)
    source = spied(progress=progress)
    after = spied.decoded()
    assert sorted(before + after) == [f"{n:03}.png" for n in range(count)]
    assert progress.started_at == len(before)
    assert len(source) == count


def test_nothing_is_begun_once_a_stop_was_asked_for(spied):
    write(spied.images, {"1.png": png(1)})
    interruption = Interruption()
    interruption.signal = signal.SIGINT

    with pytest.raises(Interrupted):
        spied(interruption=interruption)

    assert not spied.cache.exists()


def test_damaged_and_unfinished_parts_are_made_again(spied, monkeypatch):
    monkeypatch.setattr(workers, "FILES_PER_PART", 2)
    write(spied.images, {f"{n}.png": png(n) for n in range(8)})
    first = contents(spied())
    names = [f"part_{n:06}.parquet" for n in range(4)]
    assert spied.tables() == names
    spied.decoded()
    (spied.cache / names[0]).unlink()
    (spied.cache / ".part_000000.bin.0.tmp").write_bytes(b"cut short")
    (spied.cache / names[1]).write_bytes(b"no Parquet")
    bin_file = spied.cache / "part_000002.bin"
    bin_file.write_bytes(bin_file.read_bytes()[:-1])

    source = spied()

    assert spied.decoded() == [f"{n}.png" for n in range(6)]
    assert contents(source) == first
    assert spied.tables() == names
    assert not list(spied.cache.glob(".*"))


def test_processes_share_the_work(spied):
    write(spied.images, {f"{n}.png": png(n) for n in range(20)})
    labeled = write(
        spied.images.parent / "classes", {"a/1.png": png(1), "b/1.png": png(2)}
    )

    source = spied(workers=2)

    assert len(spied.tables()) == 2
    assert len(source) == 20
    spied.cache = spied.cache.with_name("other")
    assert spied(listing=list_classes(labeled)).labels.tolist() == [0, 1]


def test_missing_and_unreadable_files_are_quarantined_and_tried_again(spied):
    write(spied.images, {"1.png": png(1), "2.png": png(2), "sub/4.png": png(4)})
    table = spied.images / "labels.csv"
    table.write_text("path,label\n0.png,a\n1.png,a\n2.png,b\nsub,a\n")
    listing = list_classes(table)
    (spied.images / "2.png").unlink()

    source = spied(listing=listing, max_quarantined=0.8)

    assert len(source) == 1
    assert source.labels.tolist() == [0]
    assert source.quarantined == [
        ("0.png", "no such file"),
        ("2.png", "No such file or directory"),
        ("sub", "not a regular file"),
    ]
    opened = open_prepared(listing, spied.cache, PrepareOptions(side=SIDE), name="pool")
    assert opened.quarantined == source.quarantined
    write(spied.images, {"2.png": png(2)})
    assert len(spied(listing=listing, max_quarantined=0.8)) == 2


def test_a_file_that_is_too_large_is_not_read(spied, monkeypatch):
    monkeypatch.setattr(build, "MAX_BYTES", 1000)
    write(spied.images, {"1.png": bytes(1001)})

    with pytest.raises(UserError, match=r"'1\.png' \(1,001 bytes, more than 1,000\)"):
        spied()

    assert spied.decoded() == []


def test_another_decoder_tries_what_one_could_not_decode(spied, monkeypatch):
    write(spied.images, {"1.png": png(1), "2.png": b"?"})
    spied(max_quarantined=0.5)
    spied.decoded()
    monkeypatch.setattr(build, "decoder_versions", lambda: "a newer one")

    for again in (["2.png"], []):
        assert len(spied(max_quarantined=0.5)) == 1
        assert spied.decoded() == again


def test_images_whose_profile_cannot_be_applied_are_counted_and_named(spied, capsys):
    rows = png(1)
    write(spied.images, {f"{n}.png": encoded(card()) for n in range(3)})
    broken = {f"b{n}.png": encoded(card(), icc_profile=b"junk") for n in range(4)}
    write(spied.images, broken | {"0.png": rows})

    for _ in range(2):  # also where nothing is read
        assert len(spied()) == 7
        assert (
            "WARNING: 4 of 7 images of pool have a color profile that cannot be"
            " applied, and are taken for sRGB: 'b0.png', 'b1.png', 'b2.png' and more\n"
        ) in capsys.readouterr().out


def deep(folder, name, values, kind="PNG"):
    image = np.uint16(values) if kind == "PNG" else np.int32(values)
    write(folder, {name: encoded(image.reshape(2, -1), kind)})


def test_deep_images_of_a_source_share_one_scale_which_is_told(spied, capsys):
    deep(spied.images, "dark.png", [0, 10, 20, 30])
    deep(spied.images, "bright.png", [0, 1000, 2000, 4000])
    deep(spied.images, "ct.tif", [-1000, 0, 500, 1000], "TIFF")
    write(spied.images, {"8.png": png(1)})

    source = spied(max_quarantined=0)

    told = capsys.readouterr().out
    assert (
        "WARNING: 2 images of pool have uint16 values, from 0 to 4,000: 0 becomes black"
        " and 4,095 white, in all sources"
    ) in told
    assert "1 images of pool have int32 values, from -1,000 to 1,000: -1,000" in told
    assert source.scales == {"uint16": (0, 4095), "int32": (-1000, 1000)}
    shown = {
        source.path(n): image for n, image in enumerate(source.read(range(4)).images)
    }
    assert shown["dark.png"][..., 0].ravel().tolist() == [0, 1, 1, 2]
    assert shown["bright.png"][..., 0].ravel().tolist() == [0, 62, 125, 249]
    assert shown["ct.tif"][..., 0].ravel().tolist() == [0, 128, 191, 255]
    spied.decoded()

    again = spied(max_quarantined=0)
    opened = open_prepared(
        list_images(spied.images), spied.cache, PrepareOptions(side=SIDE), name="pool"
    )

    assert spied.decoded() == []
    assert "uint16" not in capsys.readouterr().out
    assert again.fingerprint == opened.fingerprint == source.fingerprint


def test_a_scale_stays_when_a_brighter_image_comes_and_that_is_said(spied, capsys):
    deep(spied.images, "1.png", [0, 1000, 2000, 4000])
    before = spied()
    deep(spied.images, "2.png", [0, 5000, 2000, 4000])
    capsys.readouterr()

    after = spied()

    assert after.scales == before.scales == {"uint16": (0, 4095)}
    assert (
        "WARNING: 1 of 2 images of pool have values beyond the scale of the others, and"
        " are clipped: '2.png'"
    ) in capsys.readouterr().out


def test_images_of_another_scale_are_decoded_again(spied):
    deep(spied.images, "1.png", [0, 1000, 2000, 4000])
    write(spied.images, {"8.png": png(1)})
    first = spied()
    spied.decoded()

    for scales in ({"*": (0, 2000)}, {"uint16": (0, 65_535)}):
        second = spied(decoding=Decoding(scales=scales))
        assert spied.decoded() == ["1.png"]
        assert second.fingerprint != first.fingerprint
        assert second.scales == {"uint16": next(iter(scales.values()))}


def test_images_nearly_of_one_color_are_counted_and_named(spied, capsys):
    write(spied.images, {"1.png": png(1), "2.png": encoded(np.full((9, 9), 3, "u1"))})

    spied()

    assert (
        "WARNING: 1 of 2 images of pool are nearly of one color when they have been"
        " decoded: '2.png'"
    ) in capsys.readouterr().out


def test_a_cache_of_an_earlier_decoder_stays_and_is_pointed_out(
    spied, monkeypatch, capsys
):
    write(spied.images, {"1.png": png(1), "2.png": png(2)})
    monkeypatch.setattr(build, "decoder_versions", lambda: "pillow 11.0.0")
    before = contents(spied())
    for path in spied.cache.glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(["notes"]), path)
    monkeypatch.undo()
    spied.decoded()
    capsys.readouterr()
    write(spied.images, {"3.png": png(3)})

    source = spied()

    assert spied.decoded() == ["3.png"]
    assert before.items() < contents(source).items()
    assert "  2 images of pool were prepared by an earlier" in capsys.readouterr().out


def test_too_many_unusable_files_are_a_mistake_to_repair(spied):
    write(spied.images, {"1.png": png(1), "a\n.png": b"?"})

    with pytest.raises(UserError) as caught:
        spied(max_quarantined=0.49)

    assert str(caught.value) == (
        f"1 of 2 files in '{spied.images}' cannot be used, more than"
        " config.data.max_quarantined=0.49 of them, the first being 'a\\n.png' (not an"
        f" image of a known format): see '{spied.cache / 'quarantine.csv'}', then"
        " repair, replace or remove them, or allow more"
    )
    assert (spied.cache / "quarantine.csv").is_file()


def test_another_side_is_another_cache(mixed):
    spied, _ = mixed

    with pytest.raises(UserError, match="prepared with side 8, and side 9 is needed"):
        spied(side=9)


def test_a_folder_with_something_else_in_it_is_no_cache(spied):
    write(spied.images, {"1.png": png(1)})
    write(spied.cache, {"letters.txt": b""})

    with pytest.raises(UserError, match="not an empty directory"):
        spied()


def test_a_cache_that_cannot_be_made_is_named(spied):
    write(spied.images, {"1.png": png(1)})
    spied.cache = spied.images / "1.png" / "cache"

    with pytest.raises(UserError, match=r"could not write .*1\.png/cache"):
        spied()


def test_a_disk_without_room_is_noticed_before_anything_is_read(spied, monkeypatch):
    write(spied.images, {"1.png": png(1)})
    full = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)

    with pytest.raises(
        UserError, match=r"1 images takes up to 2.56e-07 GB in .* make room"
    ):
        spied()

    assert spied.decoded() == []


def test_a_disk_that_fills_up_keeps_what_is_finished(spied, monkeypatch):
    monkeypatch.setattr(workers, "FILES_PER_PART", 2)
    write(spied.images, {f"{n}.png": png(n) for n in range(3)})
    write(spied.images, {"3.png": png(3) + b"full disk"})

    with pytest.raises(
        UserError, match=r"could not write .*part_000001\.bin .*make room"
    ):
        spied()

    assert spied.tables() == ["part_000000.parquet"]
    assert not list(spied.cache.glob(".*"))


def test_a_mistake_in_a_worker_is_told_as_it_is(spied):
    write(spied.images, {"1.png": b"mistake"})

    with pytest.raises(ZeroDivisionError, match="a mistake of ours") as caught:
        spied()

    assert "in spy" in "".join(caught.value.__notes__)


def test_a_part_ends_when_it_is_large(spied, monkeypatch):
    size = SIDE * SIDE * 3
    monkeypatch.setattr(workers, "BYTES_PER_PART", 2 * size)
    write(spied.images, {f"{n}.png": png(n, SIDE, SIDE) for n in range(5)})

    source = spied()

    parts = sorted(spied.cache.glob("*.bin"))
    assert [path.stat().st_size for path in parts] == [2 * size, 2 * size, size]
    assert len(spied.decoded()) == len(source) == 5


def test_the_table_of_a_damaged_part_does_not_outlive_its_pixels(spied):
    write(spied.images, {"1.png": png(1)})
    spied()
    (spied.cache / "part_000000.bin").write_bytes(b"")
    write(spied.images, {"0.png": b"crash"})

    assert len(spied(max_quarantined=0.5)) == 1

    assert "part_000000.parquet" not in spied.tables()

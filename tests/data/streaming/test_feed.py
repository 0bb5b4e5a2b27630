"""Streamed batches: those of the other input pipelines, whatever the files hold."""

import dataclasses
import functools
import io
import pathlib
import resource
import threading
import time

import jax
import numpy as np
import pytest
from PIL import Image

from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.randaugment_table import FILL
from noisy_student_jax.core import sharding
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.types import PSEUDO
from noisy_student_jax.data.cache.listing import list_images
from noisy_student_jax.data.encoded import Encoded, FolderSource
from noisy_student_jax.data.order.block_shuffle import Lanes
from noisy_student_jax.data.pipelines.device_resident import ResidentPipeline
from noisy_student_jax.data.pipelines.host_fed import HostedPipeline, SourceFeed
from noisy_student_jax.data.pipelines.stream import Noise, Stream
from noisy_student_jax.data.quarantine import Quarantine
from noisy_student_jax.data.streaming import images
from noisy_student_jax.data.streaming.decoding import View
from noisy_student_jax.data.streaming.feed import StreamingFeed
from noisy_student_jax.images.preprocessing import Preprocessing

LAYOUT = BatchLayout(3, 6)
SIDE = 12
PREPROCESSING = Preprocessing(SIDE, 0)
NUMBERS = {"seed": 3, "generation": 1}
PLAIN = InputNoise(flip=True, crop_padding=2, cutout_size=3)
RANDAUGMENT = InputNoise(
    randaugment_layers=1, randaugment_magnitude=9.0, flip=True, crop_padding=2
)
TASKS = pathlib.Path("/proc/self/task")
STATM = pathlib.Path("/proc/self/statm")
CROPPED = InputNoise(flip=True, crop_area=0.2)


def write(folder, count, *, size=(SIDE, SIDE), suffix="png", first=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(first)
    for number in range(count):
        coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"{number:02d}.{suffix}", quality=92)
    return folder


def stream(folder, *, noise=PLAIN, lanes=None):
    """Images of a folder, and targets that name their row."""
    source = FolderSource(list_images(folder), folder.name)
    rows = np.arange(len(source))
    return Stream(
        source=source,
        picks=np.stack([rows[::-1], rows], axis=1),
        targets={"row": rows.astype(np.int32)},
        to_target=lambda stored: stored["row"],
        noise=Noise(noise),
        lanes=lanes,
    )


def mesh():
    return sharding.make_mesh(jax.devices()[:1])


def feed_of(streams, feed=StreamingFeed):
    return feed(streams, LAYOUT, mesh(), PREPROCESSING, **NUMBERS)


def hosted(streams, folder, feed=StreamingFeed):
    quarantine = Quarantine(folder / "quarantine.csv", records=15, most=0.5)
    return HostedPipeline(
        streams, LAYOUT, mesh(), feed_of(streams, feed), quarantine, **NUMBERS
    )


def batches(pipeline, steps):
    found = [jax.tree.map(np.asarray, pipeline(step)) for step in steps]
    pipeline.close()
    return found


def assert_equal(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    return write(root / "labeled", 5), write(root / "pool", 10, first=1)


@pytest.fixture(scope="module")
def unbroken(folders, tmp_path_factory):
    streams = [stream(folder) for folder in folders]
    return batches(hosted(streams, tmp_path_factory.mktemp("unbroken")), range(5))


def test_the_batches_are_those_of_the_other_roads_noise_and_all(folders, tmp_path):
    streams = [stream(folders[0]), stream(folders[1], noise=RANDAUGMENT)]
    ours = batches(hosted(streams, tmp_path), range(4))
    resident = ResidentPipeline(streams, LAYOUT, mesh(), PREPROCESSING, **NUMBERS)

    assert_equal(ours, batches(resident, range(4)))
    assert_equal(ours, batches(hosted(streams, tmp_path, SourceFeed), range(4)))
    # Something was done to them.
    plain = [stream(folder, noise=InputNoise()) for folder in folders]
    still = batches(hosted(plain, tmp_path), range(4))
    differ = [
        (noised["image"] != kept["image"]).any(axis=(1, 2, 3)).mean()
        for noised, kept in zip(ours, still, strict=True)
    ]
    assert min(differ) > 0.5


@pytest.mark.parametrize(
    "options", [{"noised": False}, {"decoder": "plain"}], ids=["device", "plain"]
)
def test_another_way_to_the_same_batches(folders, tmp_path, options):
    streams = [stream(folders[0]), stream(folders[1], noise=RANDAUGMENT)]
    wanted = batches(hosted(streams, tmp_path), range(3))

    feed = functools.partial(StreamingFeed, **options)
    assert_equal(batches(hosted(streams, tmp_path, feed), range(3)), wanted)


def test_plain_crops_are_exactly_those_of_the_other_road(tmp_path):
    folder = write(tmp_path / "photos", 6, size=(90, 70), suffix="jpg")
    streams = [stream(folder, noise=CROPPED), stream(folder, noise=CROPPED)]

    plain = functools.partial(StreamingFeed, decoder="plain")
    ours = batches(hosted(streams, tmp_path, plain), range(2))
    for decoder in ("auto", "plain"):
        other = functools.partial(SourceFeed, decoder=decoder)
        assert_equal(batches(hosted(streams, tmp_path, other), range(2)), ours)


def test_random_crops_are_those_of_the_other_road(tmp_path):
    folder = write(tmp_path / "photos", 6, size=(90, 70), suffix="jpg")
    streams = [stream(folder, noise=CROPPED), stream(folder, noise=CROPPED)]

    ours = batches(hosted(streams, tmp_path), range(3))
    theirs = batches(hosted(streams, tmp_path, SourceFeed), range(3))

    for found, wanted in zip(ours, theirs, strict=True):
        difference = np.abs(found["image"].astype(int) - wanted["image"])
        assert difference.mean() < 1
        assert difference.mean(axis=(1, 2, 3)).max() < 3
        assert_equal(found | {"image": 0}, wanted | {"image": 0})
    assert len(np.unique(np.concatenate([b["image"] for b in ours]), axis=0)) == 27


def test_every_road_shows_the_teacher_the_same_images(tmp_path):
    folders = [
        write(tmp_path / name, 5, size=(40, 30), suffix=kind, first=first)
        for first, (name, kind) in enumerate([("labeled", "png"), ("pool", "jpg")])
    ]
    streams = [stream(folder) for folder in folders]
    teacher = Preprocessing(20, 4)
    streams[1] = dataclasses.replace(streams[1], teacher=teacher)
    resident = ResidentPipeline(streams, LAYOUT, mesh(), PREPROCESSING, **NUMBERS)
    found = batches(resident, range(2))

    whole = stream(folders[1])
    known = teacher.apply_all(whole.source.read(range(5)).images)
    for batch in found:
        rows = batch["target"][batch["stream"] == PSEUDO]
        wanted = known[whole.picks[rows, 0]]
        np.testing.assert_array_equal(batch["teacher_image"], wanted)
    assert_equal(batches(hosted(streams, tmp_path, SourceFeed), range(2)), found)
    ours = batches(hosted(streams, tmp_path), range(2))
    for batch, wanted in zip(ours, found, strict=True):
        shown, other = (b.pop("teacher_image").astype(int) for b in (batch, wanted))
        assert np.abs(shown - other).max() <= 1
        same = batch["stream"] != PSEUDO  # PNGs, decoded by our decoder
        np.testing.assert_array_equal(batch["image"][same], wanted["image"][same])
        assert np.abs(batch.pop("image").astype(int) - wanted.pop("image")).max() <= 1
    assert_equal(ours, found)

    (folders[1] / "00.jpg").write_bytes(b"no image")
    for feed in (SourceFeed, StreamingFeed):
        for batch in batches(hosted(streams, tmp_path, feed), range(2)):
            missing = batch["weight"][batch["stream"] == PSEUDO] == 0
            assert missing.any()
            assert (batch["teacher_image"][missing] == FILL).all()
            assert not (batch["teacher_image"][~missing] == FILL).all()


def test_noise_is_added_to_what_the_crop_left(tmp_path):
    # Not JPEGs: nothing is decoded at a fraction, so that the pipelines agree exactly.
    folder = write(tmp_path / "photos", 6, size=(90, 70))
    noise = InputNoise(flip=True, crop_padding=2, cutout_size=3, crop_area=0.2)
    streams = [stream(folder, noise=noise), stream(folder, noise=noise)]

    ours = batches(hosted(streams, tmp_path), range(2))
    assert_equal(ours, batches(hosted(streams, tmp_path, SourceFeed), range(2)))


def test_the_authors_resize_gives_both_roads_the_same_crops(tmp_path):
    folder = write(tmp_path / "photos", 6, size=(90, 70), suffix="jpg")
    streams = [stream(folder, noise=InputNoise(crop_area=0.2))] * 2
    authors = Preprocessing(SIDE, 32, "bicubic_tf1")

    feeds = [
        feed(streams, LAYOUT, mesh(), authors, **NUMBERS)
        for feed in (StreamingFeed, SourceFeed)
    ]
    for ours, theirs in zip(*(feed(0) for feed in feeds), strict=True):
        assert ours.images.dtype == np.uint8
        np.testing.assert_array_equal(ours.images, theirs.images)
    for feed in feeds:
        feed.close()


def test_targets_and_images_stay_together(folders, tmp_path):
    streams = [stream(folder, noise=InputNoise()) for folder in folders]
    for batch in batches(hosted(streams, tmp_path), range(4)):
        for number, (own, folder) in enumerate(zip(streams, folders, strict=True)):
            mine = batch["stream"] == number
            rows = batch["target"][mine]
            files = [sorted(folder.iterdir())[own.picks[row, 0]] for row in rows]
            wanted = [np.asarray(Image.open(file)) for file in files]
            np.testing.assert_array_equal(batch["image"][mine], wanted)


@pytest.mark.parametrize("steps", [[3, 4], [4], [2, 0, 1, 2, 2]], ids=str)
def test_any_step_may_be_asked_for_as_if_the_run_had_never_stopped(
    folders, unbroken, tmp_path, steps
):
    streams = [stream(folder) for folder in folders]

    found = batches(hosted(streams, tmp_path), steps)
    assert_equal(found, [unbroken[step] for step in steps])


def test_one_stream_alone_has_the_same_images(folders, unbroken, tmp_path):
    alone = StreamingFeed(
        [stream(folders[0])], BatchLayout(3, 0), mesh(), PREPROCESSING, **NUMBERS
    )
    for step in range(3):
        (fed,) = alone(step)
        mine = unbroken[step]["stream"] != PSEUDO
        np.testing.assert_array_equal(fed.images, unbroken[step]["image"][mine])
    alone.close()


def test_large_batches_are_read_and_finished_in_parts(folders):
    own, layout = [stream(folders[1])], BatchLayout(150, 0)
    ours, theirs = (
        feed(own, layout, mesh(), PREPROCESSING, **NUMBERS)
        for feed in (functools.partial(StreamingFeed, noised=False), SourceFeed)
    )
    for step in range(2):
        (found,), (wanted,) = ours(step), theirs(step)
        np.testing.assert_array_equal(found.images, wanted.images)
        assert found.status == wanted.status
    ours.close()
    theirs.close()


def test_what_cannot_be_used_weighs_nothing_and_moves_nothing(
    unbroken, tmp_path_factory, tmp_path
):
    root = tmp_path_factory.mktemp("holed")
    folders = write(root / "labeled", 5), write(root / "pool", 10, first=1)
    streams = [stream(folder) for folder in folders]
    whole = (folders[1] / "04.png").read_bytes()
    (folders[1] / "04.png").write_bytes(whole[: len(whole) // 2])
    (folders[1] / "06.png").unlink()
    (folders[0] / "01.png").write_bytes(b"<html>")

    pipeline = hosted(streams, tmp_path)
    found = batches(pipeline, range(5))

    bad = {"labeled/01.png", "pool/04.png", "pool/06.png"}
    seen = set()
    for step, (batch, wanted) in enumerate(zip(found, unbroken, strict=True)):
        named = pipeline.records(step)
        keys = np.empty(9, object)
        keys[batch["stream"] != PSEUDO] = named["labeled"]
        keys[batch["stream"] == PSEUDO] = named["pseudo"]
        good = np.array([key not in bad for key in keys])
        seen.update(keys[~good])
        assert batch["weight"].tolist() == good.astype(float).tolist()
        np.testing.assert_array_equal(batch["image"][good], wanted["image"][good])
        assert (batch["image"][~good] == 128).all()
        assert_equal(batch["target"], wanted["target"])
    assert seen == bad
    text = (tmp_path / "quarantine.csv").read_text()
    assert "labeled/01.png,not an image of a known format" in text
    assert "pool/06.png,No such file or directory" in text
    assert "pool/04.png,truncated PNG file" in text


def test_a_jpeg_that_is_damaged_inside_is_told_and_passed_over(tmp_path):
    folder = write(tmp_path / "photos", 6, size=(90, 70), suffix="jpg")
    whole = (folder / "02.jpg").read_bytes()
    # Its tables are lost; it begins and ends as it should.
    place = whole.index(b"\xff\xdb")
    (folder / "02.jpg").write_bytes(whole[: place + 2] + b"\0\x02" + whole[place + 4 :])
    streams = [stream(folder, noise=CROPPED), stream(folder, noise=CROPPED)]
    feed = feed_of(streams)

    status = np.concatenate(
        [[s for fed in feed(n) for s in fed.status] for n in (0, 1)]
    )
    assert set(status) - {"ok"}
    assert (status != "ok").sum() == 3


def test_lanes_are_followed(folders, tmp_path):
    lanes = Lanes(count=3, block=2, window=2)
    streams = [stream(folders[0]), stream(folders[1], lanes=lanes)]
    pipeline = hosted(streams, tmp_path)
    found = batches(pipeline, range(4))

    for batch in found:
        rows = batch["target"][batch["stream"] == PSEUDO]
        # Ten draws in three lanes, two places of a batch each.
        assert [0 if r < 3 else 1 if r < 6 else 2 for r in rows] == [0, 0, 1, 1, 2, 2]
    fixed = batches(hosted(streams, tmp_path, SourceFeed), range(4))
    assert_equal(found, fixed)


class Bytes:
    """Images in memory, and whatever is to happen when they are read."""

    labels = None

    def __init__(self, count=20, happen=lambda: None):
        held = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), "red").save(held, "PNG")
        self.data, self.count, self.happen = held.getvalue(), count, happen
        self.reads = 0

    def __len__(self):
        return self.count

    def key(self, index):
        return str(index)

    def read_encoded(self, indices):
        self.reads += 1
        self.happen()
        return Encoded([self.data] * len(indices), ["ok"] * len(indices))


def bytes_stream(source, lanes=None):
    rows = np.arange(len(source))
    picks = np.stack([rows, rows], axis=1)
    noise = Noise(InputNoise(flip=True))
    return Stream(source, picks, {"row": rows}, lambda stored: stored, noise, lanes)


@pytest.mark.parametrize(
    "error", [UserError("the disk is gone"), RuntimeError("a fault")], ids=repr
)
def test_an_error_while_reading_comes_to_who_asked_and_the_feed_can_go_on(error):
    broken = [error]

    def happen():
        if broken:
            raise broken[0]

    source = Bytes(happen=happen)
    feed = feed_of([bytes_stream(source), bytes_stream(source)])

    with pytest.raises(type(error)) as raised:
        feed(0)
    assert raised.value is error
    broken.clear()
    assert feed(0)[0].status == ["ok"] * 3
    feed.close()


def test_an_error_while_noise_is_added_comes_to_who_asked(folders):
    noise = InputNoise(crop_padding=SIDE)
    feed = feed_of([stream(folder, noise=noise) for folder in folders])

    with pytest.raises(UserError, match="crop_padding=12 is too large"):
        feed(0)


def test_lanes_that_do_not_fit_are_refused():
    source = Bytes()
    streams = [bytes_stream(source), bytes_stream(source, Lanes(4, 2, 2))]

    with pytest.raises(UserError, match="4 lanes do not divide the 6 images"):
        feed_of(streams)(0)


def test_only_some_steps_are_read_ahead():
    source = Bytes()
    feed = feed_of([bytes_stream(source), bytes_stream(source)])
    feed(0)

    reads = settled(source)
    feed.close()
    assert reads < 40


def settled(source):
    """Waits until nothing more is read, and returns how often it was."""
    before = -1
    while source.reads != before:
        before = source.reads
        time.sleep(0.3)
    return before


def test_few_files_are_held_while_they_wait_to_be_decoded(monkeypatch):
    """However many images a step has."""
    held, go_on = [], threading.Event()
    seen = View.seen

    def slow(self, *image):
        go_on.wait(20)
        held.append(image)
        return seen(self, *image)

    monkeypatch.setattr(View, "seen", slow)
    source = Bytes()
    large = BatchLayout(1024, 0)
    feed = StreamingFeed(
        [bytes_stream(source)], large, mesh(), PREPROCESSING, **NUMBERS
    )
    asked = threading.Thread(target=feed, args=(0,))
    asked.start()
    reads = settled(source)
    go_on.set()
    asked.join(60)
    feed.close()

    # Each read holds some; a step has four times as many as all of them.
    assert reads <= 4
    assert len(held) >= 1024


@pytest.mark.skipif(not TASKS.is_dir(), reason="the system does not tell")
def test_closing_ends_its_threads():
    source, counts, feeds = Bytes(), [], 8
    for _ in range(feeds):
        feed = feed_of([bytes_stream(source), bytes_stream(source)])
        feed(0)
        feed.close()
        counts.append(len(list(TASKS.iterdir())))
    # The first one starts those that TensorFlow keeps, and a few come and go; each feed
    # that left one behind would add one.
    assert counts[-1] - counts[1] < feeds - 2


def test_closing_while_it_reads_does_not_hang():
    armed, reading, go_on = (threading.Event() for _ in range(3))

    def happen():
        if armed.is_set():
            reading.set()
            go_on.wait(20)

    source = Bytes(happen=happen)
    layout = BatchLayout(images.READ_AT_ONCE, 0)
    feed = StreamingFeed(
        [bytes_stream(source)], layout, mesh(), PREPROCESSING, **NUMBERS
    )
    feed(0)
    settled(source)
    armed.set()
    # It has the next one read.
    feed(1)
    assert reading.wait(20)
    threading.Timer(0.5, go_on.set).start()
    feed.close()


@pytest.mark.skipif(not STATM.is_file(), reason="the system does not tell")
def test_memory_stays_flat_over_hundreds_of_steps():
    source = Bytes()
    streams = [bytes_stream(source), bytes_stream(source)]
    large = Preprocessing(64, 0)
    feed = StreamingFeed(streams, LAYOUT, mesh(), large, **NUMBERS)
    for step in range(100):
        feed(step)
    before = _memory()
    for step in range(100, 500):
        feed(step)
    grown = _memory() - before
    feed.close()

    # The images of those steps are 44 MB.
    assert grown < 22e6


def _memory():
    return int(STATM.read_text().split()[1]) * resource.getpagesize()

"""The hosted pipeline: the resident one's batches, with images from the host."""

import jax
import numpy as np
import pytest

from noisy_student_jax.augment.crops import crop_boxes
from noisy_student_jax.augment.noise import (
    InputNoise,
    augment_batch,
    example_keys,
    split_positions,
    stream_key,
)
from noisy_student_jax.core import sharding
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Examples
from noisy_student_jax.core.types import LABELED, PSEUDO
from noisy_student_jax.data.pipelines.device_resident import ResidentPipeline
from noisy_student_jax.data.pipelines.draws import Draws
from noisy_student_jax.data.pipelines.host_fed import HostedPipeline, SourceFeed
from noisy_student_jax.data.pipelines.stream import Noise, Stream
from noisy_student_jax.data.quarantine import Quarantine
from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.images.preprocessing import Preprocessing

LAYOUT = BatchLayout(4, 8)
PREPROCESSING = Preprocessing(8, 2)
NOISE = InputNoise(flip=True, crop_padding=2, cutout_size=3)
NUMBERS = {"seed": 3, "generation": 1}


class Holed(ArraySource):
    """A source of which one record cannot be used."""

    hole = 2

    def read(self, indices):
        good = super().read(indices)
        status = ["torn" if i == self.hole else "ok" for i in indices]
        images = [
            None if s != "ok" else i for s, i in zip(status, good.images, strict=True)
        ]
        return Examples(images, status, good.labels)


def stream(count, name, *, noise=NOISE, source=ArraySource):
    """Images of many shapes, and targets that name their row."""
    rng = np.random.default_rng(len(name))
    rows = np.arange(count)
    images = [
        rng.integers(0, 256, (9 + row % 4, 14 - row % 3, 3), np.uint8) for row in rows
    ]
    return Stream(
        source=source([f"{name}-{row}" for row in rows], images),
        picks=np.stack([rows, rows], axis=1),
        targets={"row": rows.astype(np.int32)},
        to_target=lambda stored: stored["row"],
        noise=Noise(noise),
    )


def mesh():
    return sharding.make_mesh(jax.devices()[:1])


def hosted(streams, folder, *, most=0.5):
    feed = SourceFeed(streams, LAYOUT, mesh(), PREPROCESSING, **NUMBERS)
    quarantine = Quarantine(folder / "quarantine.csv", records=15, most=most)
    return HostedPipeline(streams, LAYOUT, mesh(), feed, quarantine, **NUMBERS)


def batches(pipeline, steps):
    found = [jax.tree.map(np.asarray, pipeline(step)) for step in steps]
    pipeline.close()
    return found


def test_its_batches_are_those_of_the_resident_pipeline(tmp_path):
    streams = [stream(5, "labeled"), stream(10, "pool")]
    resident = ResidentPipeline(streams, LAYOUT, mesh(), PREPROCESSING, **NUMBERS)

    ours, theirs = (
        batches(hosted(streams, tmp_path), range(4)),
        batches(resident, range(4)),
    )

    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_any_step_may_be_asked_for(tmp_path):
    streams = [stream(5, "labeled"), stream(10, "pool")]
    straight = batches(hosted(streams, tmp_path), range(5))

    for step, batch in zip(
        (4, 0, 1, 3), batches(hosted(streams, tmp_path), (4, 0, 1, 3)), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, batch, straight[step])


def test_random_crops_differ_by_position_and_not_by_start(tmp_path):
    noise = InputNoise(crop_area=0.3)
    streams = [stream(1, "one", noise=noise), stream(1, "pool", noise=noise)]

    first = batches(hosted(streams, tmp_path), range(3))
    again = batches(hosted(streams, tmp_path), [2])

    np.testing.assert_array_equal(first[2]["image"], again[0]["image"])
    # One image only, so that what differs is the crop.
    rows = np.concatenate(
        [batch["image"][batch["stream"] == LABELED] for batch in first]
    )
    assert len({row.tobytes() for row in rows}) > 6


def test_randaugment_sees_what_the_crop_and_the_resize_left(tmp_path):
    noise = InputNoise(randaugment_layers=1, randaugment_magnitude=9, crop_area=0.3)
    streams = [stream(5, "labeled", noise=noise), stream(10, "pool", noise=noise)]
    pipeline = hosted(streams, tmp_path)
    (batch,) = batches(pipeline, [0])

    augment = jax.jit(lambda keys, images: augment_batch(keys, images, noise))
    drawn = Draws(streams, LAYOUT, **NUMBERS).of_step(0)
    for number, (own, part) in enumerate(zip(streams, drawn, strict=True)):
        images = own.source.read(part.records.tolist()).images
        where = (NUMBERS["seed"], NUMBERS["generation"], number)
        sizes = np.array([image.shape[:2] for image in images])
        boxes = crop_boxes(*where, part.positions, sizes, noise.crop_area)
        cut = [
            PREPROCESSING.apply_crop(image, box)
            for image, box in zip(images, boxes.tolist(), strict=True)
        ]
        keys = example_keys(stream_key(*where), split_positions(part.positions))
        mine = batch["image"][batch["stream"] == number]
        np.testing.assert_array_equal(mine, augment(keys, np.stack(cut)))


def test_what_cannot_be_used_weighs_nothing_and_moves_nothing(tmp_path):
    whole = [stream(5, "labeled"), stream(10, "pool")]
    holed = [stream(5, "labeled"), stream(10, "pool", source=Holed)]
    pipeline = hosted(holed, tmp_path)

    good, bad = batches(hosted(whole, tmp_path), range(4)), batches(pipeline, range(4))

    seen = 0
    for ours, theirs in zip(bad, good, strict=True):
        torn = (ours["target"] == Holed.hole) & (ours["stream"] == PSEUDO)
        seen += torn.sum()
        np.testing.assert_array_equal(ours["weight"], np.where(torn, 0.0, 1.0))
        np.testing.assert_array_equal(ours["target"], theirs["target"])
        np.testing.assert_array_equal(ours["image"][~torn], theirs["image"][~torn])
    assert seen
    text = (tmp_path / "quarantine.csv").read_text()
    assert text.splitlines() == ["key,reason", "pool-2,torn"]


def test_too_much_that_cannot_be_used_is_refused(tmp_path):
    streams = [stream(5, "labeled"), stream(10, "pool", source=Holed)]

    with pytest.raises(UserError, match=r"1 of 15 records .* 'pool-2' \(torn\)"):
        batches(hosted(streams, tmp_path, most=0.01), range(4))


def test_the_quarantine_goes_on_where_it_was(tmp_path):
    path = tmp_path / "quarantine.csv"
    Quarantine(path, records=10, most=1.0).note("a\nb", "torn, twice")

    again = Quarantine(path, records=10, most=1.0)
    again.note("a\nb", "torn, twice")
    again.note("c", "empty")

    assert again.reasons == {"a\\nb": "torn, twice", "c": "empty"}
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"key,", b"kez,"), (b"torn", b"t\xf3rn"), (b"c,", b'"' + b"c" * 200_000 + b",")],
    ids=["header", "letter", "quotation mark"],
)
def test_a_damaged_quarantine_is_no_traceback(tmp_path, old, new):
    path = tmp_path / "quarantine.csv"
    for key, reason in (("b", "torn"), ("c", "empty")):
        Quarantine(path, records=10, most=1.0).note(key, reason)
    path.write_bytes(path.read_bytes().replace(old, new))

    again = Quarantine(path, records=10, most=1.0)
    again.note("b", "torn")

    assert "b" in again.reasons

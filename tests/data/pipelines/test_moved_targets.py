"""Targets that move with their images, and streams of targets of unequal length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.core import sharding
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.types import LABELED, PSEUDO
from noisy_student_jax.data.pipelines.device_resident import ResidentPipeline
from noisy_student_jax.data.pipelines.host_fed import HostedPipeline, SourceFeed
from noisy_student_jax.data.pipelines.stream import Noise, Stream
from noisy_student_jax.data.quarantine import Quarantine
from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.images.preprocessing import Preprocessing

SIDE, LAYOUT = 16, BatchLayout(2, 4)
PREPROCESSING = Preprocessing(SIDE, 0, framing="letterbox")
NUMBERS = {"seed": 0, "generation": 1}
NOISE = InputNoise(flip=True, turns=True, zoom=1.5)


def moved(targets, matrices):
    places = targets["places"]
    there = jnp.einsum("nij,npj->npi", matrices[:, :, :2], places)
    return {"places": there + matrices[:, None, :, 2]}


def stream(name, count, length, noise, *, moved=moved):
    """Images of a bright spot, whose first place (x, y) is the spot's; others are 0."""
    rng = np.random.default_rng(length)
    places = np.zeros((count, length, 2), np.float32)
    places[:, 0] = rng.uniform(0.35, 0.65, (count, 2))
    x, y = places[:, 0].T[:, :, None, None]
    at = (np.arange(SIDE) + 0.5) / SIDE
    far = (at[None, None] - x) ** 2 + (at[None, :, None] - y) ** 2
    bright = (128 + 127 * np.exp(-far / (2 * 0.07**2))).round().astype(np.uint8)
    rows = np.arange(count)
    return Stream(
        source=ArraySource(
            [f"{name}-{row}" for row in rows], np.repeat(bright[..., None], 3, -1)
        ),
        picks=np.stack([rows, rows], axis=1),
        targets={"places": places},
        to_target=lambda stored: stored,
        noise=Noise(noise),
        moved=moved,
    )


def streams(labeled=NOISE, pseudo=NOISE, **options):
    return [
        stream("labeled", 4, 2, labeled, **options),
        stream("pool", 6, 3, pseudo, **options),
    ]


def mesh():
    return sharding.make_mesh(jax.devices()[:1])


def resident(given):
    return ResidentPipeline(given, LAYOUT, mesh(), PREPROCESSING, **NUMBERS)


def batches(pipeline, count=4):
    found = [jax.tree.map(np.asarray, pipeline(step)) for step in range(count)]
    pipeline.close()
    return found


def centers(images):
    mass = images[..., 0].astype(np.float64) - 128
    at = (np.arange(SIDE) + 0.5) / SIDE
    both = np.stack([mass.sum(1) @ at, mass.sum(2) @ at], axis=1)
    return both / mass.sum((1, 2))[:, None]


def of_stream(batch, number):
    rows = batch["stream"] == number
    return batch["image"][rows], batch["target"]["places"][rows]


@pytest.fixture(scope="module")
def noised():
    return batches(resident(streams()))


def test_a_target_is_where_its_image_shows_it(noised):
    for batch in noised:
        places = batch["target"]["places"]
        inside = ((places[:, 0] > 0.2) & (places[:, 0] < 0.8)).all(axis=1)
        assert inside.sum() >= 3
        found = centers(batch["image"])[inside]
        np.testing.assert_allclose(found, places[inside, 0], atol=0.01)
    stored = streams()[LABELED].targets["places"]
    places = np.concatenate([of_stream(batch, LABELED)[1] for batch in noised])
    stayed = [(one[0] == stored[:, 0]).all(axis=1).any() for one in places]
    assert not any(stayed)


def test_the_shorter_targets_are_filled_up_with_zeros(noised):
    for batch in noised:
        assert batch["target"]["places"].shape == (6, 3, 2)
        assert (of_stream(batch, LABELED)[1][:, 2] == 0).all()
        # The last place of the longer ones has moved, from zero.
        assert (of_stream(batch, PSEUDO)[1][:, 2] != 0).any()


def test_a_stream_without_noise_moves_nothing():
    given = streams(labeled=InputNoise())
    for batch in batches(resident(given)):
        images, places = of_stream(batch, LABELED)
        stored = given[0].targets["places"]
        assert all(any((one[:2] == own).all() for own in stored) for one in places)
        np.testing.assert_allclose(centers(images), places[:, 0], atol=0.005)


def test_the_hosted_pipeline_moves_them_alike(noised, tmp_path):
    given = streams()
    feed = SourceFeed(given, LAYOUT, mesh(), PREPROCESSING, **NUMBERS)
    quarantine = Quarantine(tmp_path / "quarantine.csv", records=10, most=0.5)
    hosted = HostedPipeline(given, LAYOUT, mesh(), feed, quarantine, **NUMBERS)
    for ours, theirs in zip(batches(hosted), noised, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_targets_of_other_tasks_stay():
    noise = InputNoise(flip=True)
    for batch in batches(resident(streams(noise, noise, moved=None)), count=2):
        assert (batch["target"]["places"][:, 1:] == 0).all()

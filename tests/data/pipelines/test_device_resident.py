"""The resident pipeline: a batch is a pure function of the step."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from noisy_student_jax.augment.noise import InputNoise
from noisy_student_jax.augment.randaugment_table import RandAugmentConstants
from noisy_student_jax.core import sharding
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.types import LABELED, PSEUDO
from noisy_student_jax.data.order.block_shuffle import Lanes
from noisy_student_jax.data.pipelines import device_resident
from noisy_student_jax.data.pipelines.device_resident import ResidentPipeline
from noisy_student_jax.data.pipelines.draws import Draws
from noisy_student_jax.data.pipelines.stream import Noise, Stream
from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.images.preprocessing import Preprocessing

LAYOUT = BatchLayout(6, 12)
LABELED_ROWS = LAYOUT.stream() == LABELED
PSEUDO_ROWS = LAYOUT.stream() == PSEUDO
SIDE = 8
NONE = Noise(InputNoise())
SOURCES = {
    "flip": {"flip": True},
    "randaugment": {
        "randaugment_layers": 1,
        "randaugment_magnitude": 9.0,
        "constants": RandAugmentConstants(translate=3.0, cutout=3.0),
    },
    "crop": {"crop_padding": 2},
    "cutout": {"cutout_size": 3},
}
# Everything but RandAugment, whose sixteen operations take long to compile.
NOISY = Noise(InputNoise(flip=True, crop_padding=2, cutout_size=3))


def stream(count, first, *, picks=None, noise=NONE):
    """Images whose pixels differ, and targets that name their row."""
    rng = np.random.default_rng(first)
    rows = np.arange(count)
    return Stream(
        source=ArraySource(
            [f"key-{first + row}" for row in rows],
            rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8),
        ),
        picks=np.stack([rows, rows], axis=1) if picks is None else np.array(picks),
        targets={"row": (first + rows).astype(np.int32)},
        to_target=lambda stored: stored["row"],
        noise=noise,
    )


def labeled(**options):
    return stream(10, 0, **options)


# Of five images, drawn from by a plan: one of them three times, one never.
PICKS = [(0, 0), (1, 1), (1, 1), (1, 1), (2, 2), (4, 3)]


def pseudo(**options):
    return stream(5, 100, **({"picks": PICKS} | options))


def pipeline(first=None, second=None, layout=LAYOUT, *, seed=0, generation=1):
    streams = [first or labeled()] + ([second] if second else [])
    return ResidentPipeline(
        streams,
        layout,
        sharding.make_mesh(jax.devices()[:1]),
        Preprocessing(SIDE, 0),
        seed=seed,
        generation=generation,
    )


def host(batch):
    return jax.tree.map(np.asarray, batch)


@pytest.fixture(scope="module")
def still():
    """Without any noise."""
    return pipeline(second=pseudo())


@pytest.fixture(scope="module")
def noisy():
    """With noise."""
    return pipeline(labeled(noise=NOISY), pseudo(noise=NOISY))


def test_a_batch_is_a_pure_function_of_the_step(noisy):
    forwards = [host(noisy(step)) for step in range(4)]
    again = pipeline(labeled(noise=NOISY), pseudo(noise=NOISY))

    for step in (3, 0, 2, 1):
        jax.tree.map(np.testing.assert_array_equal, host(again(step)), forwards[step])


def test_a_batch_has_what_every_batch_has(noisy):
    batch = host(noisy(0))

    assert batch["image"].shape == (18, SIDE, SIDE, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["weight"].tolist() == [1.0] * 18
    assert batch["stream"].tolist() == LAYOUT.stream().tolist()
    assert batch["stream"].dtype == np.int32
    for flags in batch["noise"].values():
        assert flags.tolist() == [1.0] * 18
    assert batch["noise"].keys() == {"dropout", "stochastic_depth"}


def test_images_and_targets_stay_together_and_in_their_stream(still):
    for step in range(3):
        batch = host(still(step))
        for first, source, rows in (
            (0, labeled(), LABELED_ROWS),
            (100, pseudo(), PSEUDO_ROWS),
        ):
            # Targets of the plan are its rows, three of which are image rows.
            image_row = {row: image for image, row in map(tuple, source.picks)}
            for image, target in zip(
                batch["image"][rows], batch["target"][rows], strict=True
            ):
                expected = source.source.images[image_row[target - first]]
                np.testing.assert_array_equal(image, expected)


def test_every_epoch_draws_every_label_once_and_the_plan_as_often_as_it_says(still):
    batches = [host(still(step)) for step in range(5)]

    drawn = np.concatenate([batch["target"][LABELED_ROWS] for batch in batches])
    for epoch in drawn.reshape(3, 10):
        assert sorted(epoch) == list(range(10))
    drawn = np.concatenate([batch["target"][PSEUDO_ROWS] for batch in batches])
    for epoch in drawn.reshape(10, 6):
        assert sorted(epoch) == [100, 101, 101, 101, 102, 103]


def test_records_names_exactly_what_was_drawn(still):
    for step in range(5):
        batch, named = host(still(step)), still.records(step)

        assert named.keys() == {"labeled", "pseudo"}
        own = [f"key-{row}" for row in batch["target"][LABELED_ROWS]]
        assert named["labeled"] == own
        # The last row of the plan is of the last image.
        image = {100: 100, 101: 101, 102: 102, 103: 104}
        others = [f"key-{image[row]}" for row in batch["target"][PSEUDO_ROWS]]
        assert named["pseudo"] == others


def test_a_repeated_record_gets_new_noise_each_time():
    one = stream(1, 0, noise=NOISY)
    twice = stream(1, 100, picks=[(0, 0), (0, 0)], noise=NOISY)
    batch = host(pipeline(one, twice)(0))

    assert len(np.unique(batch["image"][PSEUDO_ROWS], axis=0)) >= 11
    assert len(np.unique(batch["image"][LABELED_ROWS], axis=0)) >= 5


def test_streams_noise_the_same_image_differently():
    same = stream(1, 0, noise=NOISY)
    batch = host(pipeline(same, same, BatchLayout(8, 8))(0))

    first = batch["image"][batch["stream"] == LABELED]
    second = batch["image"][batch["stream"] == PSEUDO]
    assert (first != second).any(axis=(1, 2, 3)).sum() >= 7


@pytest.mark.parametrize("other", [{"seed": 1}, {"generation": 2}], ids=str)
def test_another_seed_or_generation_draws_and_noises_otherwise(noisy, other):
    ours = host(noisy(0))
    theirs = host(pipeline(labeled(noise=NOISY), pseudo(noise=NOISY), **other)(0))

    assert not np.array_equal(ours["target"], theirs["target"])
    one = stream(1, 0, noise=NOISY)
    first, second = (
        host(pipeline(one, layout=BatchLayout(8, 0), **numbers)(0))["image"]
        for numbers in ({}, other)
    )
    assert (first != second).any(axis=(1, 2, 3)).sum() >= 6


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("on", [LABELED, PSEUDO], ids=["labeled", "pseudo"])
def test_each_source_of_noise_is_on_for_one_stream_alone(still, source, on):
    noise = Noise(InputNoise(**SOURCES[source]))
    first = labeled(noise=noise) if on == LABELED else labeled()
    second = pseudo(noise=noise) if on == PSEUDO else pseudo()
    noised, plain = host(pipeline(first, second)(1)), host(still(1))

    changed = (noised["image"] != plain["image"]).any(axis=(1, 2, 3))
    mine = LAYOUT.stream() == on
    assert not changed[~mine].any()
    assert changed[mine].any()
    np.testing.assert_array_equal(noised["target"], plain["target"])


@pytest.mark.parametrize("source", ["dropout", "stochastic_depth"])
@pytest.mark.parametrize("off", [LABELED, PSEUDO], ids=["labeled", "pseudo"])
def test_the_models_noise_is_switched_by_stream(source, off):
    silent = dataclasses.replace(NONE, **{source: False})
    first = labeled(noise=silent) if off == LABELED else labeled()
    second = pseudo(noise=silent) if off == PSEUDO else pseudo()

    flags = host(pipeline(first, second)(0))["noise"]

    assert (flags[source] == (LAYOUT.stream() != off)).all()
    (other,) = flags.keys() - {source}
    assert flags[other].all()


def test_the_labeled_draws_do_not_depend_on_the_second_stream(noisy):
    alone = pipeline(labeled(noise=NOISY), None, BatchLayout(6, 0))

    for step in range(2):
        with_second = host(noisy(step))
        np.testing.assert_array_equal(
            host(alone(step))["image"], with_second["image"][LABELED_ROWS]
        )
    assert alone.records(0).keys() == {"labeled"}


@pytest.mark.parametrize("lanes", [None, Lanes(2, block=2, window=2)], ids=str)
def test_many_steps_draws_are_those_of_each_step(lanes):
    streams = [dataclasses.replace(own, lanes=lanes) for own in (labeled(), pseudo())]
    draws = Draws(streams, LAYOUT, seed=3, generation=1)

    for stream in (0, 1):
        many = draws.of_steps(range(2, 9))[stream]
        for place, step in enumerate(range(2, 9)):
            one = draws.of_step(step)[stream]
            for name in ("positions", "records", "rows"):
                np.testing.assert_array_equal(
                    getattr(many, name)[:, place], getattr(one, name)
                )


def test_batches_do_not_depend_on_how_many_steps_are_sent_at_once(monkeypatch, noisy):
    monkeypatch.setattr(device_resident, "STEPS_AT_ONCE", 3)
    threes = pipeline(labeled(noise=NOISY), pseudo(noise=NOISY))
    # A large batch is sent by itself.
    monkeypatch.setattr(device_resident, "DRAWS_AT_ONCE", 1)
    ones = pipeline(labeled(noise=NOISY), pseudo(noise=NOISY))

    for step in (0, 1, 2, 3, 7, 5, 70):
        expected = host(noisy(step))
        for other in (threes, ones):
            jax.tree.map(np.testing.assert_array_equal, host(other(step)), expected)


def test_a_step_sends_nothing_to_the_device(noisy):
    noisy(0)
    with jax.transfer_guard("disallow_explicit"):
        noisy(1)


def test_closing_ends_the_thread():
    alone = pipeline(labeled(), None, BatchLayout(6, 0))
    before = threading.active_count()
    alone(0)
    assert threading.active_count() == before + 1
    alone.close()
    assert threading.active_count() == before

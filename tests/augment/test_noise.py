"""All input noise together: its order, its switches, its random numbers."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from noisy_student_jax.augment import randaugment as backend
from noisy_student_jax.augment.input_noise import (
    CROP,
    CUTOUT,
    FLIP,
    FORMS,
    RANDAUGMENT,
    RESIZED_CROP,
)
from noisy_student_jax.augment.noise import (
    InputNoise,
    augment_batch,
    augment_image,
    example_key,
    example_keys,
    split_positions,
    stream_key,
)
from noisy_student_jax.augment.randaugment_table import OPS, SVHN_CONSTANTS
from noisy_student_jax.core.errors import UserError

BATCH, HEIGHT, WIDTH = 64, 8, 10

FULL = InputNoise(
    randaugment_layers=2,
    randaugment_magnitude=9,
    constants=SVHN_CONSTANTS,
    flip=True,
    crop_padding=3,
    cutout_size=3,
)
OFF = {
    "flip": {"flip": False},
    "randaugment": {"randaugment_layers": 0},
    "cutout": {"cutout_size": 0},
    "crop": {"crop_padding": 0},
}
ORDER = ("flip", "randaugment", "cutout", "crop")


def without(*sources):
    left = FULL
    for source in sources:
        left = replace(left, **OFF[source])
    return left


def only(source):
    return without(*(other for other in ORDER if other != source))


def images():
    shape = (BATCH, HEIGHT, WIDTH, 3)
    return np.random.default_rng(0).integers(30, 220, shape).astype(np.uint8)


def keys(first=0, count=BATCH):
    positions = split_positions(np.arange(first, first + count))
    return example_keys(stream_key(0, 1, 1), positions)


@functools.cache
def compiled(what):
    return jax.jit(functools.partial(augment_batch, noise=what))


def augmented(what, pictures=None, its_keys=None):
    pictures = images() if pictures is None else pictures
    return np.asarray(
        compiled(what)(keys() if its_keys is None else its_keys, pictures)
    )


@functools.cache
def full():
    return augmented(FULL)


def test_shape_dtype_and_that_something_happens_to_every_image():
    assert full().shape == (BATCH, HEIGHT, WIDTH, 3)
    assert full().dtype == np.uint8
    assert (full() != images()).any(axis=(1, 2, 3)).all()


def test_nothing_on_changes_nothing():
    np.testing.assert_array_equal(augmented(InputNoise()), images())


def test_the_random_resized_crop_is_not_the_devices():
    np.testing.assert_array_equal(augmented(InputNoise(crop_area=0.08)), images())


def test_the_sources_apply_in_their_order_each_with_its_own_draws():
    # One after the other, each alone and with the same keys: the same pixels.
    step_by_step = images()
    for source in ORDER:
        step_by_step = augmented(only(source), step_by_step)
    np.testing.assert_array_equal(step_by_step, full())


@pytest.mark.parametrize("off", ORDER)
def test_switching_one_source_off_leaves_the_draws_of_the_others(off):
    step_by_step = images()
    for source in ORDER:
        if source != off:
            step_by_step = augmented(only(source), step_by_step)
    result = augmented(without(off))
    np.testing.assert_array_equal(step_by_step, result)
    assert (result != full()).any()


def test_every_source_keeps_a_number_of_its_own():
    # Two alike would draw alike; a changed one changes every run of that seed.
    assert (FLIP, RANDAUGMENT, CUTOUT, CROP, RESIZED_CROP) == (0, 1, 2, 3, 4)


def test_one_layer_more_leaves_the_first_layers_draws():
    draw = functools.partial(backend.draw, jax.random.key(3), height=8, width=8)
    one, two = draw(layers=1), draw(layers=2)
    assert all((a == b[:1]).all() for a, b in zip(one, two, strict=True))
    assert any((b[0] != b[1]).all() for b in two)


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_randaugment_give_the_same_pixels(form):
    np.testing.assert_array_equal(augmented(replace(FULL, form=form)), full())


def test_an_unknown_form_is_refused():
    with pytest.raises(UserError, match=r"form is 'togther', .*mean 'together'"):
        InputNoise(form="togther")


def test_only_the_cpu_takes_images_one_by_one():
    traced = compiled(FULL).trace(keys(), images())
    texts = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu")
    }
    assert "stablehlo.while" in texts["cpu"]
    assert "stablehlo.while" not in texts["tpu"]


def test_same_key_same_pixels_another_key_others():
    again = augmented(FULL, its_keys=keys())
    np.testing.assert_array_equal(again, full())
    others = augmented(FULL, its_keys=keys(first=BATCH))
    assert (others != full()).any(axis=(1, 2, 3)).mean() > 0.95


def test_an_example_is_augmented_alike_wherever_it_lies_in_the_batch():
    backwards = augmented(FULL, images()[::-1], keys()[::-1])
    np.testing.assert_array_equal(backwards[::-1], full())


@pytest.mark.parametrize(
    "augment", [augment_batch, jax.vmap(augment_image, (0, 0, None))]
)
def test_it_runs_inside_shard_map(augment):
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")

    @jax.jit
    def sharded(keys, images):
        return jax.shard_map(
            lambda keys, images: augment(keys, images, FULL),
            mesh=mesh,
            in_specs=(spec, spec),
            out_specs=spec,
        )(keys, images)

    np.testing.assert_array_equal(sharded(keys(), images()), full())


def test_flips_are_mirrors_half_of_the_time():
    # 2,000 images: five standard deviations are 112.
    picture = jnp.asarray(images()[0])
    flip = jax.vmap(lambda key: augment_image(key, picture, InputNoise(flip=True)))
    flipped = np.asarray(flip(keys(count=2000)))
    picture = np.asarray(picture)
    straight = (flipped == picture).all(axis=(1, 2, 3))
    mirrored = (flipped == picture[:, ::-1]).all(axis=(1, 2, 3))
    assert (straight ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 1000) < 112


def test_operations_signs_and_places_are_drawn_evenly():
    count = 16_000
    draw = functools.partial(backend.draw, layers=2, height=5, width=7)
    draws = jax.device_get(jax.jit(jax.vmap(draw))(keys(count=count)))

    def assert_even(values, outcomes):
        observed = np.bincount(values.astype(int).ravel(), minlength=outcomes)
        expected = 2 * count / outcomes
        assert observed.size == outcomes
        # Five standard deviations, for each outcome.
        assert np.abs(observed - expected).max() < 5 * np.sqrt(expected)

    assert_even(draws.op, len(OPS))
    assert_even(draws.negative, 2)
    assert_even(draws.row, 5)
    assert_even(draws.column, 7)
    pairs = draws.op[:, 0] * 16 + draws.op[:, 1]
    assert_even(np.stack([pairs, pairs]), 256)  # with replacement, independently


def test_cutout_paints_one_square_of_its_side_clipped_at_the_border():
    light = np.full((BATCH, HEIGHT, WIDTH, 3), 255, np.uint8)
    gray = augmented(only("cutout"), light) == 128
    rows, columns = gray.any(axis=(2, 3)).sum(1), gray.any(axis=(1, 3)).sum(1)
    assert set(rows.tolist()) == {2, 3}
    assert set(columns.tolist()) == {2, 3}
    np.testing.assert_array_equal(gray.all(axis=3).sum(axis=(1, 2)), rows * columns)


def test_crops_are_crops_of_the_reflection():
    cropped = augmented(only("crop"))
    padded = np.pad(images(), ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect")
    found = set()
    for picture, around in zip(cropped, padded, strict=True):
        places = [
            (top, left)
            for top in range(7)
            for left in range(7)
            if (around[top : top + HEIGHT, left : left + WIDTH] == picture).all()
        ]
        assert len(places) == 1
        found.update(places)
    assert {top for top, _ in found} == {left for _, left in found} == set(range(7))


def test_padding_may_reach_but_not_pass_the_far_side():
    widest = InputNoise(crop_padding=HEIGHT - 1)
    picture = jnp.asarray(images()[0])
    assert augment_image(jax.random.key(0), picture, widest).shape == picture.shape
    with pytest.raises(UserError, match=r"crop_padding=8 is too large .* 8×10"):
        augment_image(jax.random.key(0), picture, InputNoise(crop_padding=HEIGHT))


def test_mistakes_are_told():
    with pytest.raises(UserError, match="cutout_size=-1; it must be 0"):
        InputNoise(cutout_size=-1)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match=f"crop_area={share}; it must be a share"):
            InputNoise(crop_area=share)
    for what in (FULL, InputNoise(cutout_size=3)):
        with pytest.raises(UserError, match="Input noise works on uint8 images"):
            augment_batch(keys(), images().astype(np.float32), what)


def test_example_keys_depend_on_each_component_and_all_64_bits():
    base = (5, 1, 0, 17)
    examples = [base, (6, 1, 0, 17), (5, 2, 0, 17), (5, 1, 1, 17), (5, 1, 0, 18)]
    examples += [(5, 1, 0, 17 + 2**32), (5, 1, 0, 17 * 2**32), (5, 1, 0, 2**63)]
    examples += [(1, 5, 0, 17), (5, 0, 1, 17)]
    data = {
        tuple(jax.random.key_data(example_key(*head, split_positions(at))).tolist())
        for *head, at in examples
    }
    assert len(data) == len(examples)


def test_example_keys_of_a_batch_are_those_of_its_examples():
    positions = np.array([0, 3, 2**32 + 3, 2**40 + 1], np.uint64)
    batch = jax.jit(example_keys)(stream_key(5, 1, 0), split_positions(positions))
    single = [example_key(5, 1, 0, split_positions(at)) for at in positions]
    np.testing.assert_array_equal(
        jax.random.key_data(batch), np.stack([jax.random.key_data(k) for k in single])
    )
    assert split_positions(2**32 + 3).tolist() == [1, 3]

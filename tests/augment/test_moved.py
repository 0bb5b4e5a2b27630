"""Noise that tells where everything went: one affine, one resample."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.moved import augment_moved
from noisy_student_jax.augment.noise import (
    augment_batch,
    draw,
    example_keys,
    split_positions,
    stream_key,
)
from noisy_student_jax.augment.randaugment_table import OPS, RandAugmentConstants
from noisy_student_jax.core.errors import UserError

SIDE, BATCH, GRAY = 48, 64, 128
NAMES = [op.name for op in OPS]
GEOMETRY = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
ONE_LAYER = InputNoise(1, 8.0, RandAugmentConstants(10.0, 6.0))
FULL = replace(
    ONE_LAYER,
    randaugment_layers=2,
    flip=True,
    crop_padding=3,
    cutout_size=7,
    zoom=1.5,
    turns=True,
)
EACH = {
    "flip": {"flip": False},
    "zoom": {"zoom": 0.0},
    "turns": {"turns": False},
    "crop": {"crop_padding": 0},
    "randaugment": {"randaugment_layers": 0},
}


def keys():
    return example_keys(stream_key(0, 1, 1), split_positions(np.arange(BATCH)))


def pictures():
    shape = (BATCH, SIDE, SIDE, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def blobs(places):
    """A smooth bright spot on gray at each place (x, y), in units of the side."""
    at = (np.arange(SIDE) + 0.5) / SIDE
    x, y = np.asarray(places)[:, :, None, None].transpose(1, 0, 2, 3)
    far = (at[None, None, :] - x) ** 2 + (at[None, :, None] - y) ** 2
    bright = GRAY + 127 * np.exp(-far / (2 * 0.05**2))
    return np.repeat(bright.round().astype(np.uint8)[..., None], 3, axis=-1)


def centers(images):
    """The center of what is brighter than gray, in units of the side."""
    mass = images[..., 0].astype(np.float64) - GRAY
    at = (np.arange(SIDE) + 0.5) / SIDE
    both = np.stack([mass.sum(1) @ at, mass.sum(2) @ at], axis=1)
    return both / mass.sum((1, 2))[:, None]


@functools.cache
def compiled(noise):
    return jax.jit(functools.partial(augment_moved, noise=noise))


def noised(noise, images):
    made, matrices = compiled(noise)(keys(), images)
    return np.asarray(made), np.asarray(matrices)


@functools.cache
def matrices_of(noise):
    """The matrices alone, of which no image has to be compiled."""
    program = jax.jit(lambda given, images: augment_moved(given, images, noise)[1])
    return np.asarray(program(keys(), pictures()))


@functools.cache
def usual(noise):
    return jax.jit(functools.partial(augment_batch, noise=noise))


def only(source):
    left = replace(FULL, cutout_size=0)
    for other, off in EACH.items():
        left = left if other == source else replace(left, **off)
    return left


def moved(matrices, places):
    return np.einsum("nij,nj->ni", matrices[:, :, :2], places) + matrices[:, :, 2]


@functools.cache
def drawn(noise):
    return jax.vmap(lambda key: draw(key, (SIDE, SIDE, 3), noise))(keys())


def ops(noise):
    return np.array(NAMES)[np.asarray(drawn(noise)["randaugment"].op)]


@pytest.mark.parametrize("source", EACH)
def test_a_spot_is_where_the_matrix_says(source):
    noise = only(source)
    rng = np.random.default_rng(1)
    places = rng.uniform(0.35, 0.65, (BATCH, 2))
    made, matrices = noised(noise, blobs(places))
    taken = np.ones(BATCH, bool)
    if source == "randaugment":
        noise = replace(noise, randaugment_layers=2)
        taken = np.isin(ops(noise), GEOMETRY).all(axis=1)
        assert taken.sum() >= 5
    went = moved(matrices, places)
    inside = ((went > 0.2) & (went < 0.8)).all(axis=1) & taken
    assert inside.sum() >= 5 and not np.allclose(
        went[inside], places[inside], atol=0.03
    )
    np.testing.assert_allclose(centers(made)[inside], went[inside], atol=0.004)


def test_the_parts_apply_in_their_order():
    noise, total = replace(FULL, cutout_size=0), np.eye(3)
    order = ("zoom", "turns", "flip", "randaugment", "crop")
    for source in order:
        matrices = matrices_of(only(source))
        corner = np.broadcast_to([0.0, 0, 1], (BATCH, 1, 3))
        total = np.concatenate([matrices, corner], axis=1) @ total
    np.testing.assert_allclose(matrices_of(noise), total[:, :2], atol=2e-5)


@pytest.mark.parametrize("source", EACH)
def test_each_source_can_be_off_and_the_others_keep_their_draws(source):
    noise = replace(FULL, **EACH[source])
    own, full = drawn(noise), drawn(FULL)
    assert source in full and source not in own
    for name in own:
        assert jax.tree.all(jax.tree.map(np.array_equal, own[name], full[name])), (
            f"{name} is drawn otherwise"
        )


def test_without_noise_nothing_moves():
    for noise in (InputNoise(), InputNoise(crop_area=0.5)):
        made, matrices = noised(noise, pictures())
        np.testing.assert_array_equal(made, pictures())
        identity = np.broadcast_to(np.eye(2, 3), (BATCH, 2, 3))
        np.testing.assert_array_equal(matrices, identity)


@pytest.mark.parametrize(
    "noise", [InputNoise(flip=True), InputNoise(cutout_size=9), ONE_LAYER]
)
def test_the_draws_are_those_of_all_other_noise(noise):
    made, _ = noised(noise, pictures())
    others = np.asarray(usual(noise)(keys(), pictures()))
    taken = np.ones(BATCH, bool)
    if noise.randaugment_layers:
        taken = ~np.isin(ops(noise)[:, 0], GEOMETRY)
        assert 20 < taken.sum() < BATCH
    np.testing.assert_array_equal(made[taken], others[taken])
    assert (made[taken] != pictures()[taken]).any()


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_is_near_that_of_other_noise(name):
    taken = ops(ONE_LAYER)[:, 0] == name
    places = np.tile([0.55, 0.42], (BATCH, 1))
    made, _ = noised(ONE_LAYER, blobs(places))
    others = np.asarray(usual(ONE_LAYER)(keys(), blobs(places)))
    # Nearest neighbors are within half a pixel.
    apart = centers(made)[taken] - centers(others)[taken]
    assert taken.any() and np.abs(apart).max() < 0.5 / SIDE


def test_quarter_turns_and_flips_are_exact():
    noise = InputNoise(flip=True, turns=True)
    made, matrices = noised(noise, pictures())
    seen = set()
    for number, image in enumerate(pictures()):
        turns = int(drawn(noise)["turns"][number])
        flip = bool(drawn(noise)["flip"][number])
        seen.add((turns, flip))
        wanted = np.rot90(image, turns)
        wanted = wanted[:, ::-1] if flip else wanted
        np.testing.assert_array_equal(made[number], wanted)
    assert len(seen) == 8
    assert set(np.abs(matrices[:, :, :2]).ravel().tolist()) == {0.0, 1.0}
    assert set(matrices[:, :, 2].ravel().tolist()) == {0.0, 1.0}


def test_whole_pixels_of_a_shift_are_exact_beside_gray():
    made, _ = noised(InputNoise(crop_padding=4), pictures())
    wide = np.pad(pictures(), ((0, 0), (4, 4), (4, 4), (0, 0)), constant_values=GRAY)
    top, left = (np.asarray(one) for one in drawn(InputNoise(crop_padding=4))["crop"])
    for number in range(BATCH):
        y, x = int(top[number]), int(left[number])
        wanted = wide[number, y : y + SIDE, x : x + SIDE]
        np.testing.assert_array_equal(made[number], wanted)


def test_a_zoom_is_even_in_its_logarithm_and_leaves_no_room_unused():
    _, matrices = noised(InputNoise(zoom=2.0), pictures())
    factor, start = matrices[:, 0, 0], matrices[:, :, 2]
    np.testing.assert_array_equal(factor, matrices[:, 1, 1])
    assert 0.5 <= factor.min() < 0.6 and 1.7 < factor.max() <= 2.0
    assert 0.35 < (factor > 1).mean() < 0.65
    low, high = np.minimum(1 - factor, 0), np.maximum(1 - factor, 0)
    assert ((start >= low[:, None] - 1e-6) & (start <= high[:, None] + 1e-6)).all()
    share = (start - low[:, None]) / (high - low)[:, None]
    assert share.min() < 0.1 and share.max() > 0.9


def test_the_cutout_lies_in_the_image_that_is_seen():
    noise = InputNoise(flip=True, zoom=1.5, cutout_size=9)
    made, matrices = noised(noise, pictures())
    before, same = noised(replace(noise, cutout_size=0), pictures())
    np.testing.assert_array_equal(matrices, same)
    row, column = (np.asarray(one) for one in drawn(noise)["cutout"])
    for number in range(BATCH):
        part = (
            slice(max(row[number] - 4, 0), row[number] + 5),
            slice(max(column[number] - 4, 0), column[number] + 5),
        )
        assert (made[number][part] == GRAY).all()
        filled = before[number].copy()
        filled[part] = GRAY
        np.testing.assert_array_equal(made[number], filled)


def test_one_by_one_and_together_are_the_same_pixels():
    made, matrices = noised(replace(FULL, form="one_by_one"), pictures())
    other, its_matrices = noised(replace(FULL, form="together"), pictures())
    np.testing.assert_array_equal(made, other)
    np.testing.assert_array_equal(matrices, its_matrices)


def test_turns_of_oblong_images_and_a_zoom_below_one_are_refused():
    with pytest.raises(UserError, match="quarter turns need square images"):
        augment_moved(keys(), pictures()[:, :-1], InputNoise(turns=True))
    with pytest.raises(UserError, match=r"zoom=0\.5; it must be the largest factor"):
        InputNoise(zoom=0.5)

"""From a detector's outputs to boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax.models.fcos import locations
from noisy_student_jax.tasks.detection import decode as decoding
from noisy_student_jax.tasks.detection.boxes import iou_matrix

SIDE, CLASSES = 64, 2
WHERE = locations(SIDE, SIDE, (8, 16, 32))
NOTHING = -200.0
"""A logit whose probability is zero."""
OUTPUTS = decoding.OUTPUTS
decode = jax.jit(decoding.decode)


def at(x, y):
    """The index of the finest location at pixels x, y."""
    return int(np.abs(WHERE[:64, :2] * SIDE - [x, y]).sum(axis=1).argmin())


def view(*found):
    """Outputs of one view with boxes (center x, y, half width, half height), class,
    logit."""
    logits = np.full((len(WHERE), CLASSES), NOTHING, np.float32)
    distances = np.full((len(WHERE), 4), 0.01, np.float32)
    for x, y, half_width, half_height, of_class, logit in found:
        number = at(x, y)
        left, top = WHERE[number, :2] * SIDE - [x - half_width, y - half_height]
        right, bottom = [x + half_width, y + half_height] - WHERE[number, :2] * SIDE
        logits[number, of_class] = logit
        distances[number] = np.array([left, top, right, bottom]) / SIDE
    return logits, distances


def outputs(*images):
    """Outputs of images, each a list of views."""
    return {
        "logits": jnp.asarray(np.stack([[v[0] for v in one] for one in images])),
        "distances": jnp.asarray(np.stack([[v[1] for v in one] for one in images])),
        "locations": jnp.asarray(WHERE),
    }


def sigmoid(logit):
    return 1 / (1 + np.exp(-logit))


def test_boxes_are_around_their_locations_the_best_first():
    one = view((20, 20, 10, 8, 0, 0.5), (44, 40, 16, 20, 1, 2.0))

    found = jax.device_get(decode(outputs([one])))

    assert found["boxes"].shape == (1, OUTPUTS, 4)
    np.testing.assert_allclose(found["scores"][0, :2], [sigmoid(2), sigmoid(0.5)], 1e-5)
    np.testing.assert_array_equal(found["classes"][0, :2], [1, 0])
    np.testing.assert_allclose(
        found["boxes"][0, :2] * SIDE, [[28, 20, 60, 60], [10, 12, 30, 28]], atol=1e-4
    )
    assert (found["scores"][0, 2:] == 0).all()
    assert (np.diff(found["scores"][0]) <= 0).all()
    assert {k: str(v.dtype) for k, v in found.items()} == {
        "boxes": "float32",
        "scores": "float32",
        "classes": "int32",
        "reliabilities": "float32",
    }


def test_boxes_end_where_the_input_ends():
    found = decode(outputs([view((4, 60, 20, 20, 0, 3.0))]))

    np.testing.assert_allclose(found["boxes"][0, 0] * SIDE, [0, 40, 24, 64], atol=1e-4)


def test_of_boxes_of_one_class_that_overlap_the_best_remains():
    # Three locations with one box: two of class 0, one of class 1.
    alike = (20, 20, 9, 9, 0, 1.0), (28, 20, 9, 9, 0, 2.0), (20, 28, 9, 9, 1, 1.0)
    logits, distances = view(*alike)
    for x, y, *_ in alike:
        number = at(x, y)
        center = WHERE[number, :2] * SIDE
        distances[number] = np.concatenate([center - 10, 38 - center]) / SIDE

    found = jax.device_get(decode(outputs([(logits, distances)])))

    np.testing.assert_array_equal(found["classes"][0, :2], [0, 1])
    np.testing.assert_allclose(found["scores"][0, :2], [sigmoid(2), sigmoid(1)], 1e-5)
    assert found["scores"][0, 2] == 0


def test_boxes_that_overlap_with_the_best_have_a_part_in_its_place():
    # The best is 20 wide and high. Two overlap with it by 0.9 and 0.7, and a fourth is
    # of another class.
    centers = (20, 20), (28, 20), (20, 28), (28, 28)
    rights, classes, chosen = (30, 28, 24, 28), (0, 0, 0, 1), (2.0, 1.0, 1.0, 1.5)
    found = zip(centers, classes, chosen, strict=True)
    logits, distances = view(*((*center, 1, 1, c, z) for center, c, z in found))
    for (x, y), right in zip(centers, rights, strict=True):
        center = WHERE[at(x, y), :2] * SIDE
        sides = [*(center - [10, 10]), right - center[0], 30 - center[1]]
        distances[at(x, y)] = np.array(sides) / SIDE

    found = jax.device_get(decode(outputs([(logits, distances)])))

    # By their scores, and by how far overlaps exceed 0.6.
    weights = sigmoid(np.array([2.0, 1.0, 1.0])) * [0.4, 0.3, 0.1]
    expected = (weights * rights[:3]).sum() / weights.sum()
    np.testing.assert_array_equal(found["classes"][0, :2], [0, 1])
    assert found["scores"][0, 2] == 0
    np.testing.assert_allclose(
        found["boxes"][0, :2] * SIDE,
        [[10, 10, expected, 30], [10, 10, 28, 30]],
        atol=1e-4,
    )


def test_a_box_without_area_stays_in_its_place():
    found = jax.device_get(decode(outputs([view((20, 20, 0, 0, 0, 0.5))])))

    np.testing.assert_allclose(found["boxes"][0, 0] * SIDE, [20, 20, 20, 20], atol=1e-4)


def test_one_view_is_reliable_and_none_is_not():
    found = jax.device_get(decode(outputs([view((20, 20, 10, 8, 0, 0.5))])))

    assert found["reliabilities"][0, 0] == 1
    found = jax.device_get(decode(outputs([view()])))
    assert not any(part.any() for part in found.values())


def test_two_views_that_agree_give_the_mean_score_and_how_well_they_agree():
    image = view((20, 20, 10, 8, 0, 2.0))
    # 64 − 20 = 44: the mirrored image shows the box there, a little narrower.
    mirror = view((44, 20, 9, 8, 0, 1.0))

    found = jax.device_get(decode(outputs([image, mirror])))

    assert found["scores"][0, 0] == pytest.approx((sigmoid(2) + sigmoid(1)) / 2)
    assert found["scores"][0, 1] == 0
    more = sigmoid(1) / (sigmoid(2) + sigmoid(1))  # [11, 29] of [10, 30]
    expected = [10 + more, 12, 30 - more, 28]
    np.testing.assert_allclose(found["boxes"][0, 0] * SIDE, expected, atol=1e-4)
    assert found["reliabilities"][0, 0] == pytest.approx(0.9, abs=1e-5)


def test_a_box_that_one_view_alone_shows_is_worth_half_and_not_reliable():
    image = view((20, 20, 10, 8, 0, 2.0))
    mirror = view((20, 20, 10, 8, 0, 1.0))  # the same pixels, so another place

    found = jax.device_get(decode(outputs([image, mirror])))

    np.testing.assert_allclose(
        found["scores"][0, :2], [sigmoid(2) / 2, sigmoid(1) / 2], 1e-5
    )
    np.testing.assert_allclose(found["boxes"][0, 1] * SIDE, [34, 12, 54, 28], atol=1e-4)
    assert not found["reliabilities"][0, :2].any()


def test_a_box_of_another_class_is_no_agreement():
    found = jax.device_get(
        decode(outputs([view((20, 20, 9, 9, 0, 2.0)), view((44, 20, 9, 9, 1, 2.0))]))
    )

    assert not found["reliabilities"][0, :2].any()


def test_images_of_a_batch_do_not_depend_on_each_other():
    random = np.random.default_rng(0)
    given = {
        "logits": jnp.asarray(random.normal(-1, 2, (3, 2, 84, CLASSES)), jnp.float32),
        "distances": jnp.asarray(random.random((3, 2, 84, 4)) * 0.3, jnp.float32),
        "locations": jnp.asarray(WHERE),
    }

    together = decode(given)

    for number in range(3):
        one = {k: v[number][None] for k, v in given.items() if k != "locations"}
        alone = decode({**one, "locations": given["locations"]})
        for name, part in alone.items():
            np.testing.assert_allclose(part[0], together[name][number], atol=1e-6)
    overlaps = iou_matrix(together["boxes"], together["boxes"])
    alike = together["classes"][:, :, None] == together["classes"][:, None]
    there = (together["scores"] > 0)[:, :, None] & ~np.eye(OUTPUTS, dtype=bool)[None]
    assert not (there & alike & (np.asarray(overlaps) > 0.6)).any()


def test_many_sure_objects_do_not_crowd_out_an_unsure_one():
    side, where = 512, locations(512, 512, (8, 16, 32))
    logits = np.full((1, 1, len(where), 1), NOTHING, np.float32)
    distances = np.full((1, 1, len(where), 4), 0.01, np.float32)
    finest = where[: (side // 8) ** 2, :2] * side
    centers = np.mgrid[0:9, 0:9].reshape(2, -1).T * 48 + 28  # nine locations find each
    for x, y in centers.tolist():
        near = np.flatnonzero((np.abs(finest - [x, y]) < 1.5 * 8).all(axis=1))
        assert len(near) == 9
        box = [x - 20, y - 20, x + 20, y + 20]
        logits[0, 0, near] = 3.0
        sides = [finest[near] - box[:2], box[2:] - finest[near]]
        distances[0, 0, near] = np.concatenate(sides, axis=1) / side
    logits[0, 0, len(finest) - 1] = -1.0

    outputs = {"logits": logits, "distances": distances, "locations": where}
    scores = np.asarray(decode(jax.tree.map(jnp.asarray, outputs))["scores"])[0]

    assert (scores > 0.9).sum() == len(centers) == 81
    assert scores[81] == pytest.approx(sigmoid(-1), 1e-5)

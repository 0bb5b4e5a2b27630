"""The loss of a detector, by stream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax.core.protocols import LossOptions
from noisy_student_jax.core.types import LABELED, PSEUDO
from noisy_student_jax.data.labels import IGNORE, OBJECT
from noisy_student_jax.models.fcos import locations
from noisy_student_jax.tasks.detection.assign import assign
from noisy_student_jax.tasks.detection.boxes import generalized_iou, iou
from noisy_student_jax.tasks.detection.loss import loss, quality_focal, taught_scores

SIDE, CLASSES, PLACES = 64, 3, 4
WHERE = locations(SIDE, SIDE, (8, 16, 32))
BOXES = {
    "left": (4, 4, 24, 24, 0, OBJECT),
    "right": (34, 30, 60, 62, 2, OBJECT),
    "hidden": (30, 2, 62, 28, 1, IGNORE),
}


def image(*names, score=1.0, box_weight=1.0, places=PLACES):
    """One image's target, with boxes by name."""
    rows = np.zeros((places, 6), np.float32)
    for row, name in zip(rows, names, strict=False):
        row[:] = BOXES[name]
    there = rows[:, 5] == OBJECT
    return {
        "boxes": rows[:, :4] / SIDE,
        "classes": rows[:, 4].astype(np.int32),
        "kinds": rows[:, 5].astype(np.int32),
        "scores": np.where(there, score, 0).astype(np.float32),
        "box_weights": np.where(there, box_weight, 0).astype(np.float32),
    }


def batch(*images, stream=None, weight=None):
    stream = [LABELED] * len(images) if stream is None else stream
    return {
        "target": {k: jnp.asarray(np.stack([i[k] for i in images])) for k in images[0]},
        "stream": jnp.asarray(stream, jnp.int32),
        "weight": jnp.asarray([1.0] * len(images) if weight is None else weight),
    }


def outputs(count, seed=0, classes=CLASSES):
    random = np.random.default_rng(seed)
    logits = random.standard_normal((count, 1, len(WHERE), classes)) - 2
    distances = random.random((count, 1, len(WHERE), 4)) * 0.4
    return {
        "logits": jnp.asarray(logits, jnp.float32),
        "distances": jnp.asarray(distances, jnp.float32),
        "locations": jnp.asarray(WHERE),
    }


@jax.jit
def measured(given, batch):
    return loss(given, batch, LossOptions())


@jax.jit
def slopes(given, batch):
    def total(given):
        labeled, pseudo = measured(given, batch)["loss"].means()
        return labeled + pseudo

    return jax.value_and_grad(total)(given)


def test_the_loss_of_an_image_is_the_sum_over_its_locations_one_by_one():
    given, target = outputs(1), image("left", "right")
    found = measured(given, batch(target))

    chosen = np.asarray(
        assign(
            WHERE,
            *(jnp.asarray(target[k]) for k in ("boxes", "classes", "kinds")),
            outputs=CLASSES,
        ).box
    )
    classification = boxes = quality = 0.0
    for at, (x, y, _) in enumerate(WHERE):
        wanted = np.zeros(CLASSES)
        if chosen[at] >= 0:
            left, top, right, bottom = np.asarray(given["distances"])[0, 0, at]
            proposed = jnp.array([x - left, y - top, x + right, y + bottom])
            true = jnp.asarray(target["boxes"][chosen[at]])
            overlap = float(iou(proposed, true))
            wanted[target["classes"][chosen[at]]] = overlap
            quality += overlap
            boxes += 2 * (1 - float(generalized_iou(proposed, true)))
        p = 1 / (1 + np.exp(-np.asarray(given["logits"], np.float64)[0, 0, at]))
        entropy = -wanted * np.log(p) - (1 - wanted) * np.log(1 - p)
        classification += (np.abs(p - wanted) ** 2 * entropy).sum()

    assert quality > 1
    assert found["classification"].total[LABELED] == pytest.approx(classification, 1e-5)
    assert found["boxes"].total[LABELED] == pytest.approx(boxes, 1e-5)
    assert found["loss"].normalizer[LABELED] == pytest.approx(quality, 1e-5)
    means = {name: float(one.means()[LABELED]) for name, one in found.items()}
    assert means["loss"] == pytest.approx(means["classification"] + means["boxes"])
    assert means["positives"] == (chosen >= 0).sum()


def test_each_stream_is_divided_by_its_own_quality_and_padding_counts_nothing():
    given = outputs(3)
    images = image("left"), image("right", score=0.7), image("left", "right")
    whole = batch(*images, stream=[LABELED, PSEUDO, PSEUDO], weight=[1.0, 1.0, 0.0])

    found = measured(given, whole)["loss"]

    for stream, number in ((LABELED, 0), (PSEUDO, 1)):
        alone = {
            k: v[number : number + 1] for k, v in given.items() if k != "locations"
        }
        one = batch(images[number], stream=[stream])
        single = measured({**alone, "locations": given["locations"]}, one)
        assert found.means()[stream] == pytest.approx(
            float(single["loss"].means()[stream]), 1e-5
        )


def test_a_pseudo_label_teaches_its_score_and_a_hard_one_certainty():
    scores, pseudo = jnp.array([[0.2, 0.8], [0.2, 0.8]]), jnp.array([[False], [True]])

    def taught(**options):
        return np.asarray(taught_scores(scores, pseudo, LossOptions(**options)))

    np.testing.assert_array_equal(taught(), scores)
    np.testing.assert_array_equal(taught(targets="hard")[0], scores[0])
    np.testing.assert_array_equal(taught(targets="hard")[1], [1, 1])
    np.testing.assert_allclose(
        taught(temperature=0.5)[1], [0.04 / 0.68, 0.64 / 0.68], rtol=1e-6
    )


def test_the_quality_of_a_pseudo_box_is_the_teachers_not_its_overlap():
    given, target = outputs(1), image("left", score=0.5)

    found = measured(given, batch(target, stream=[PSEUDO]))

    positives = float(found["positives"].means()[PSEUDO])
    assert found["loss"].normalizer[PSEUDO] == pytest.approx(0.5 * positives)


@pytest.mark.parametrize("options", [LossOptions(), LossOptions(targets="hard")])
def test_true_boxes_teach_the_same_in_both_streams_as_hard_pseudo_boxes_do(options):
    given, target = outputs(2), image("left", "right")
    both = {
        name: one if name == "locations" else jnp.concatenate([one[:1], one[:1]])
        for name, one in given.items()
    }
    score = 0.4 if options.targets == "hard" else 1.0
    streams = batch(target, image("left", "right", score=score), stream=[0, 1])

    for found in loss(both, streams, options).values():
        labeled, pseudo = found.means()
        assert float(pseudo) == pytest.approx(float(labeled), 1e-6)


def test_a_location_that_scores_the_quality_costs_nothing_to_move():
    quality = jnp.array([0.3, 0.9])
    logits = jnp.log(quality / (1 - quality))

    slope = jax.grad(lambda one: quality_focal(one, quality).sum())(logits)

    np.testing.assert_allclose(slope, 0, atol=1e-6)
    assert quality_focal(jnp.array(-2.0), jnp.array(0.0)) < quality_focal(
        jnp.array(2.0), jnp.array(0.0)
    )


def test_an_ignored_region_has_no_gradient_for_its_class_alone():
    _, gradient = slopes(outputs(1), batch(image("left", "hidden")))

    x, y = WHERE[:, 0] * SIDE, WHERE[:, 1] * SIDE
    left, top, right, bottom = BOXES["hidden"][:4]
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    assert inside.sum() > 4
    logits = np.asarray(gradient["logits"])[0, 0]
    assert not logits[inside, 1].any()
    assert logits[~inside, 1].all() and logits[:, [0, 2]].all()
    assert not np.asarray(gradient["distances"])[0, 0, inside].any()


def test_the_place_of_a_box_without_weight_is_not_learned():
    _, with_weight = slopes(outputs(1), batch(image("left")))
    _, without = slopes(outputs(1), batch(image("left", box_weight=0.0)))

    assert with_weight["distances"].any() and not without["distances"].any()
    np.testing.assert_array_equal(with_weight["logits"], without["logits"])


@pytest.mark.parametrize(
    ("images", "stream"),
    [
        ((image(), image()), [LABELED, PSEUDO]),
        ((image("left"), image()), [LABELED, PSEUDO]),
        ((image(), image("left", score=0.0)), [LABELED, PSEUDO]),
        ((image("hidden"), image("hidden")), [LABELED, PSEUDO]),
        ((image("left"), image("right")), [LABELED, LABELED]),
    ],
    ids=["no boxes", "no pseudo box", "score zero", "all ignored", "one stream"],
)
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_loss_and_gradient_are_numbers_whatever_the_boxes(images, stream, spread):
    given = outputs(2)
    given["logits"] = given["logits"] * spread
    given["distances"] = given["distances"] * (0.0 if spread > 1 else 1.0)

    value, gradient = slopes(given, batch(*images, stream=stream))

    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_one_class_alone_is_learned():
    value, gradient = slopes(outputs(1, classes=1), batch(image("left")))

    assert value > 0
    assert np.asarray(gradient["logits"]).any()


def test_places_without_a_box_change_no_loss_and_images_of_any_count_one_program():
    given = outputs(1)
    short = slopes(given, batch(image("left")))
    long = slopes(given, batch(image("left", places=9)))
    np.testing.assert_allclose(short[0], long[0], rtol=1e-6)

    before = slopes._cache_size()
    for names in ((), ("left",), ("left", "right", "hidden")):
        slopes(given, batch(image(*names)))
    assert slopes._cache_size() == before

"""Which boxes a student learns from: from sidecars to targets."""

import jax.numpy as jnp
import numpy as np
import pytest
from tasks.detection.boxes_to_choose import (
    predicted,
    random_labels,
    random_predictions,
    rows_of,
    write_shards,
)

from noisy_student_jax.core.errors import NothingSelectedError, UserError
from noisy_student_jax.pseudo_labels import plan, selection
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.pseudo_labels.warnings import Expected
from noisy_student_jax.tasks.detection import sidecar, targets
from noisy_student_jax.tasks.detection.selection import BoxChooser

NAMES = ("red", "white", "flat")
EVERY = SelectionOptions(method="all", min_score=0.0)


def labels_with(rates, *, images=100):
    """Labels with so many boxes of each class, in the first images."""
    labels = np.zeros((images, sum(rates), 6), np.float32)
    place = 0
    for of, rate in enumerate(rates):
        for _ in range(rate):
            labels[:, place] = (0.1, 0.1, 0.4, 0.4, of, 1)
            place += 1
    return labels


def choose(found, labels, options=EVERY, *, names=NAMES):
    rows = rows_of(found)
    return BoxChooser(lambda: iter([rows]), labels, options, classes=names), rows


def select(folder, found, labels, options=EVERY, *, shards=1, bad=(), **how):
    written = write_shards(folder / "labels", found, len(NAMES), count=shards, bad=bad)
    summary = selection.select(
        written,
        folder / "out",
        options,
        choose=lambda batches: BoxChooser(batches, labels, options, classes=NAMES),
        classes=NAMES,
        **how,
    )
    return summary, *selection.load_picks(folder / "out")


def test_an_oracle_teacher_reproduces_its_targets(tmp_path):
    labels = random_labels(30, 3)
    true = targets.targets(labels)
    sure = np.argsort(-true["scores"], axis=1, kind="stable")
    pad = [(0, 0), (0, 100 - labels.shape[1])]
    found = {
        name: np.pad(np.take_along_axis(true[name], sure, axis=1), pad)
        for name in ("scores", "classes")
    }
    boxes = np.take_along_axis(true["boxes"], sure[..., None], axis=1)
    found |= {"boxes": np.pad(boxes, [*pad, (0, 0)]), "reliabilities": found["scores"]}

    _, picks, stored = select(tmp_path, found, labels)

    first = np.unique(picks[:, 0], return_index=True)[1]
    rows = {k: jnp.asarray(v[picks[first, 1]]) for k, v in stored.items()}
    pseudo = targets.pseudo_targets(rows)
    assert len(first) == 30
    for image in range(30):
        assert boxes_of(pseudo, image) == boxes_of(true, image)


def boxes_of(some, image):
    """What an image's targets hold, in any order and without the padding."""
    names = ("boxes", "classes", "kinds", "scores", "box_weights")
    values = [np.asarray(some[name][image]).tolist() for name in names]
    return sorted(box for box in zip(*values, strict=True) if box[2])


def test_boxes_are_objects_ignored_or_nothing_by_their_score():
    scores = [0.95, 0.6, 0.599, 0.1, 0.099, 0.05]
    found = predicted([[(0, score, 1.0) for score in scores]])
    options = SelectionOptions(method="all", min_score=0.6)
    chooser, rows = choose(found, labels_with([1]), options)

    own = chooser.targets(rows)
    assert own["kinds"][0, :7].tolist() == [1, 1, 2, 2, 0, 0, 0]
    assert own["scores"][0, :7] == pytest.approx([*scores[:4], 0, 0, 0])
    assert own["box_weights"][0, :7].tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert not own["boxes"][0, 4:].any()


def test_a_threshold_is_that_of_the_class():
    found = predicted([[(0, 0.5, 1.0), (1, 0.5, 1.0)] for _ in range(10)])
    labels = labels_with([1, 0])
    chooser, rows = choose(found, labels)

    assert chooser.thresholds.tolist() == pytest.approx([0.3, 0.501, 0.3])
    assert chooser.targets(rows)["kinds"][0, :2].tolist() == [1, 2]


def test_a_minimal_score_is_the_threshold_of_all_classes():
    options = SelectionOptions(method="all", min_score=0.95)
    found = predicted([[(0, 0.96, 1.0), (1, 0.94, 1.0)]])
    chooser, _ = choose(found, labels_with([1, 1]), options)
    assert chooser.thresholds.tolist() == pytest.approx([0.95] * 3)


def test_pseudo_boxes_are_no_more_of_an_image_than_labels():
    labels = random_labels(60, 3, most=4)
    chooser, rows = choose(random_predictions(200, 3), labels)
    kinds, of = (chooser.targets(rows)[name] for name in ("kinds", "classes"))
    for label in range(3):
        found = ((kinds == 1) & (of == label)).sum() / 200
        known = (labels[..., 5] * (labels[..., 4] == label)).sum() / 60
        between = 0.3 < chooser.thresholds[label] < 0.9
        assert found <= known and between
        assert found > known - 0.05


def test_only_reliable_boxes_teach_their_place():
    found = predicted([[(0, 0.9, 0.7), (0, 0.8, 0.69), (0, 0.7, 0.0), (0, 0.2, 0.9)]])
    chooser, rows = choose(found, labels_with([3]))
    assert chooser.targets(rows)["box_weights"][0, :4].tolist() == [1, 0, 0, 0]
    share = chooser.facts["share of boxes whose place is learned"]
    assert share == {"red": 0.3333, "white": None, "flat": None}


def test_with_one_view_all_places_are_learned():
    found = random_predictions(50, 3, views=1)
    chooser, rows = choose(found, labels_with([1, 1, 1]))
    own = chooser.targets(rows)
    np.testing.assert_array_equal(own["box_weights"], own["kinds"] == 1)
    assert "share of boxes whose place is learned" not in chooser.facts


def test_images_without_boxes_are_selected(tmp_path):
    found = predicted([[(0, 0.9, 1.0)], [], [(1, 0.04, 1.0)], [(0, 0.2, 1.0)]])
    summary, picks, stored = select(tmp_path, found, labels_with([1]), bad=(3,))

    assert picks.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert stored["kinds"].sum(axis=1).tolist() == [1, 0, 0]
    assert summary["facts"]["images without boxes"] == "2 of 3"
    assert summary["counts"]["quarantined"] == 1


def test_one_class_is_enough():
    found = predicted([[(0, 0.9, 1.0)], []])
    chooser, rows = choose(found, labels_with([1]), names=("cell",))
    assert chooser.copies(rows).tolist() == [1, 1]
    assert chooser.facts["threshold"] == {"cell": 0.3}
    assert chooser.targets(rows)["kinds"].sum(axis=1).tolist() == [1, 0]


@pytest.mark.parametrize(
    "boxes, best",
    [([[], []], "there is none at all"), ([[(0, 0.25, 1.0)], []], "the best has 0.25")],
)
def test_a_pool_without_any_pseudo_box_gives_nothing(tmp_path, boxes, best):
    with pytest.raises(NothingSelectedError, match=f"0.3 or more .{best}.; give a low"):
        select(tmp_path, predicted(boxes), labels_with([1]))
    assert not (tmp_path / "out").exists()


def test_two_shards_are_as_one(tmp_path):
    found, labels = random_predictions(90, 3), random_labels(40, 3, ignored=0.2)
    one, four = (
        select(tmp_path / f"{count}", found, labels, shards=count, bad=(4, 50))
        for count in (1, 4)
    )
    assert one[0]["facts"] == four[0]["facts"]
    assert one[0]["warnings"] == four[0]["warnings"]
    np.testing.assert_array_equal(one[1], four[1])
    for name, array in one[2].items():
        np.testing.assert_array_equal(array, four[2][name])


def test_images_of_rare_classes_are_drawn_more_often(tmp_path):
    boxes = [[(0, 0.95, 1.0)] + [(1, 0.95, 1.0)] * (n % 20 == 0) for n in range(200)]
    found, labels = predicted(boxes), labels_with([1, 1])
    summary, picks, _ = select(tmp_path, found, labels)

    drawn = np.bincount(picks[:, 0])
    assert (drawn[np.arange(200) % 20 > 0] == 1).all()
    assert set(drawn[::20]) == {3, 4}  # √(0.5 / 0.05) is 3.16
    assert summary["facts"]["draws that a class asks for"]["white"] == 3.1623
    capped = SelectionOptions(method="all", min_score=0.0, max_copies=2)
    _, picks, _ = select(tmp_path / "capped", found, labels, capped)
    assert set(np.bincount(picks[:, 0])[::20]) == {2}


def test_regions_to_ignore_are_no_labeled_boxes():
    labels = labels_with([2])
    labels[:, 1, 5] = 2
    chooser, _ = choose(predicted([[(0, 0.95, 1.0)] * 2]), labels)
    assert chooser.facts["boxes of a labeled image"]["red"] == 1


def test_facts_say_what_was_chosen_by_class():
    boxes = [[(0, 0.95, 1.0), (0, 0.5, 1.0), (1, 0.2, 1.0)], [(1, 0.92, 1.0)]]
    chooser, _ = choose(predicted(boxes), labels_with([0, 1]))
    assert chooser.facts == {
        "threshold": {"red": 0.9, "white": 0.3, "flat": 0.3},
        "boxes of a labeled image": {"red": 0.0, "white": 1.0, "flat": 0.0},
        "boxes of a pseudo-labeled image": {"red": 0.5, "white": 0.5, "flat": 0.0},
        "share of boxes that are ignored": {"red": 0.5, "white": 0.5, "flat": None},
        "images without boxes": "0 of 2",
        "draws that a class asks for": {"red": 1.0, "white": 1.0, "flat": 1.0},
    }


def test_classes_far_from_the_labeled_rate_are_warned_of():
    found = predicted([[(0, 0.95, 1.0)] * 6 + [(1, 0.95, 1.0)] for _ in range(50)])
    chooser, _ = choose(found, labels_with([1, 1, 2]))
    (warning,) = chooser.warnings
    assert "'red' 6 against 1, 'flat' 0 against 2; look at" in warning
    few = {name: array[:3] for name, array in found.items()}
    assert choose(few, labels_with([1, 1, 0]))[0].warnings != []
    few = {name: array[:1] for name, array in found.items()}
    assert choose(few, labels_with([1, 1, 0]))[0].warnings == []


def test_there_are_no_warnings_of_classes_that_whole_images_have(tmp_path):
    # White is never the surest class of an image.
    found = predicted([[(0, 0.95, 1.0), (1, 0.94, 1.0)] for _ in range(50)])
    labels = labels_with([1, 1])
    expected = Expected.from_run(labels, classes=3, scores=None)
    assert expected.class_counts is None
    summary, *_ = select(tmp_path, found, labels, expected=expected)
    assert summary["warnings"] == []


def expected_of(found):
    """What an evaluation says of validation images with such predictions."""
    scores = sidecar.score(found)
    mean = plan.mean(plan.fixed_point(scores, 1), len(scores))
    said = {"histogram": plan.histogram(scores).tolist(), "mean": mean}
    return Expected.from_run(None, classes=3, scores=said)


def test_a_pool_of_many_empty_images_is_not_taken_for_another_domain(tmp_path):
    validation = predicted([[(0, 0.9, 1.0)] for _ in range(60)])
    found = predicted([[(0, 0.9, 1.0)] * (n % 4 == 0) for n in range(300)])
    how = {"expected": expected_of(validation), "labels": labels_with([1])}
    assert select(tmp_path, found, **how)[0]["warnings"] == []


def test_a_pool_of_unsure_boxes_may_be_of_another_domain(tmp_path):
    validation = predicted([[(0, 0.9, 1.0)] for _ in range(60)])
    found = predicted([[(0, 0.4, 1.0)] * (n % 5 > 0) for n in range(300)])
    how = {"expected": expected_of(validation), "labels": labels_with([1])}
    (warning,) = select(tmp_path, found, **how)[0]["warnings"]
    assert "mean score where it finds anything is 0.40 on it and 0.90 on" in warning


def test_methods_that_balance_whole_images_are_refused():
    options = SelectionOptions(method="paper", per_class=10)
    with pytest.raises(UserError, match="'paper', which draws whole images by one"):
        choose(predicted([[(0, 0.9, 1.0)]]), labels_with([1]), options)


def test_a_minimal_score_below_the_ignored_ones_keeps_all_boxes():
    found = predicted([[(0, 0.9, 1.0), (0, 0.07, 1.0), (0, 0.05, 1.0)]])
    options = SelectionOptions(method="all", min_score=0.06)
    chooser, rows = choose(found, labels_with([1]), options)
    assert chooser.targets(rows)["kinds"][0, :3].tolist() == [1, 1, 0]


def test_nothing_changes_from_run_to_run(tmp_path):
    found, labels = random_predictions(60, 3), random_labels(30, 3)
    one, again = (select(tmp_path / name, found, labels) for name in ("a", "b"))
    assert one[0]["files"] == again[0]["files"]

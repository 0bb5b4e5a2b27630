"""Folders of benchmarks, matched to a model's classes."""

import numpy as np
import pytest
from robust_sets import WNIDS, gray, write_image

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.interop import imagenet
from noisy_student_jax.robustness import datasets


def test_wordnet_ids_are_matched_to_the_classes_of_published_weights():
    names = imagenet.classes()
    some = [names[index].split()[0] for index in (999, 6, 0)]

    found = datasets.match([*some, "n00000000"], names, "here")

    assert found.index == dict(zip(some, (999, 6, 0), strict=True))
    assert found.classes.tolist() == [0, 6, 999]
    assert found.unknown == ("n00000000",)


def test_an_id_is_matched_whole_and_a_name_never_in_part():
    classes = ("n00000001 a", "n000000012", "tench", "n00000003, b")

    found = datasets.match(["n00000001", "n00000003", "tench"], classes, "here")

    assert found.index == {"n00000001": 0, "n00000003": 3, "tench": 2}
    with pytest.raises(UserError, match="none of the 1 folders"):
        datasets.match(["ten"], classes, "here")


def test_a_folder_of_two_classes_is_refused():
    with pytest.raises(UserError, match="is of 2 classes of the model"):
        datasets.match(["n00000001"], ("n00000001 crane", "n00000001 bird"), "here")


def test_labels_are_the_models_and_what_is_no_class_is_counted(tmp_path):
    for folder in (WNIDS[4], WNIDS[1], "zebra"):
        for number in range(2):
            write_image(tmp_path / folder / f"{number}.png", gray(0))

    source, matched, left_out = datasets.open_classes(
        tmp_path, ("other", WNIDS[4], f"{WNIDS[1]} one"), "name"
    )

    keys = [source.key(index) for index in range(len(source))]
    assert keys == [f"name/{w}/{n}.png" for w in (WNIDS[1], WNIDS[4]) for n in (0, 1)]
    np.testing.assert_array_equal(source.labels, [2, 2, 1, 1])
    assert matched.classes.tolist() == [1, 2]
    assert left_out == {"images of 'zebra', no class of the model": 2}


def test_kinds_are_found_flat_and_in_groups_and_the_others_named(tmp_path):
    for folder in ("noise/shot_noise", "noise/speckle_noise", "snow", "extra", "fog_2"):
        (tmp_path / folder).mkdir(parents=True)

    found, others = datasets.find_kinds(tmp_path, ("snow", "fog", "shot_noise"))

    assert found == {
        "snow": tmp_path / "snow",
        "shot_noise": tmp_path / "noise" / "shot_noise",
    }
    assert list(found) == ["snow", "shot_noise"]
    assert sorted(others) == ["extra", "fog_2", "noise/speckle_noise"]
    with pytest.raises(UserError, match="holds none of the 2 folders"):
        datasets.find_kinds(tmp_path, ("brightness", "contrast"))

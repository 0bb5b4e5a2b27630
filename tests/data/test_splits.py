"""Splits: an image's part depends on its content and nothing else."""

import hashlib
import itertools

import numpy as np
import pytest

from noisy_student_jax.config import base_config
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data import load
from noisy_student_jax.data.splits import (
    by_content,
    content_hashes,
    lacking,
    some_of_each_class,
    stratified,
)

PARTS = ("test", "validation", "labeled", "pool")
CLASSES = 4


def records(count=400):
    """Hashes of images of four classes, and the classes."""
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return content_hashes(images), np.arange(count) % CLASSES


def split(hashes, labels, **options):
    wanted = {"test": 80, "validation": 40, "labels_per_class": 5, "seed": 0}
    return stratified(hashes, labels, **(wanted | options))


def contents(hashes, found):
    return {part: {hashes[index] for index in found[part]} for part in found}


@pytest.fixture(scope="module")
def digits():
    def splits(seed=0):
        data = base_config().data
        data.update(test=100, validation=50, labels_per_class=3)
        return load(data, seed=seed)

    return splits


def test_parts_do_not_overlap_and_leave_nothing_out():
    hashes, labels = records()
    found = split(hashes, labels)

    together = np.concatenate([found[part] for part in PARTS])
    assert np.array_equal(np.sort(together), np.arange(len(hashes)))
    assert len(found["copies"]) == 0
    assert all((np.diff(found[part]) > 0).all() for part in PARTS)


def test_sizes_are_what_was_asked_for_of_every_class():
    hashes, labels = records()
    found = split(hashes, labels)

    for part, of_each in (("test", 20), ("validation", 10), ("labeled", 5)):
        assert np.bincount(labels[found[part]]).tolist() == [of_each] * CLASSES


@pytest.mark.parametrize(("test", "validation"), [(600, 200), (333, 77)])
def test_sizes_are_what_was_asked_for_in_all(test, validation):
    data = base_config().data
    data.update(test=test, validation=validation, labels_per_class=1)
    digits = load(data, seed=0)

    assert (len(digits.test), len(digits.validation)) == (test, validation)


def test_test_and_validation_are_the_same_for_every_seed():
    hashes, labels = records()
    first, second = (split(hashes, labels, seed=seed) for seed in (0, 1))

    for part in ("test", "validation"):
        assert np.array_equal(first[part], second[part])
    assert not np.array_equal(first["labeled"], second["labeled"])
    assert np.array_equal(
        np.union1d(first["labeled"], first["pool"]),
        np.union1d(second["labeled"], second["pool"]),
    )


def test_the_labeled_draw_is_the_same_for_the_same_seed():
    hashes, labels = records()

    for one, other in zip(
        split(hashes, labels, seed=3).values(),
        split(hashes, labels, seed=3).values(),
        strict=True,
    ):
        assert np.array_equal(one, other)


def test_the_order_of_the_files_changes_nothing():
    hashes, labels = records()
    shuffle = np.random.default_rng(1).permutation(len(hashes))
    mixed = [hashes[index] for index in shuffle]

    assert contents(hashes, split(hashes, labels)) == contents(
        mixed, split(mixed, labels[shuffle])
    )


def test_identical_copies_are_dealt_once_and_never_to_two_parts():
    hashes, labels = records(200)
    # Each of the first hundred three times, at both ends of the list.
    hashes = [*hashes[:100], *hashes, *hashes[:100]]
    labels = np.concatenate([labels[:100], labels, labels[:100]])
    found = split(hashes, labels, test=40, validation=20)

    parts = contents(hashes, found)
    for one, other in itertools.combinations(PARTS, 2):
        assert not parts[one] & parts[other]
    for part in PARTS:
        assert len(parts[part]) == len(found[part])
    assert len(found["copies"]) == 200
    assert sum(len(found[part]) for part in PARTS) == 200


def test_equal_pixels_are_equal_and_others_are_not():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    other = image.copy()
    other[-1, -1, -1] ^= 1

    first, same, turned, changed = content_hashes(
        [image, image.copy(order="F"), image[::-1], other]
    )

    assert first == same
    assert len({first, turned, changed}) == 3


def test_a_class_with_too_few_images_is_refused_in_a_sentence():
    hashes, labels = records()
    labels[np.flatnonzero(labels == 3)[6:]] = 0

    with pytest.raises(UserError) as caught:
        split(hashes, labels)

    assert str(caught.value) == (
        "class 3 has 6 images, too few for 1 test + 1 validation + 5 labeled and at"
        " least one in the pool: lower config.data.test, .validation or"
        " .labels_per_class"
    )


def test_digits_are_split_without_overlap_by_keys_that_stay(digits):
    first, second = digits(0), digits(1)

    keys = {
        name: [source.key(n) for n in range(len(source))]
        for name, source in first.parts().items()
    }
    together = list(itertools.chain(*keys.values()))
    assert len(set(together)) == len(together) == 1797
    for name in ("test", "validation"):
        source = second.parts()[name]
        assert [source.key(n) for n in range(len(source))] == keys[name]
    labeled = [second.labeled.key(n) for n in range(len(second.labeled))]
    assert set(labeled) != set(keys["labeled"])


def test_digits_of_the_pool_keep_their_labels_to_themselves(digits):
    found = digits()

    assert found.pool.read([0, 1]).labels is None
    assert np.bincount(found.labeled.read(range(30)).labels).tolist() == [3] * 10


def content(count, start=0):
    return [
        hashlib.sha256(str(n).encode()).hexdigest() for n in range(start, start + count)
    ]


def dealt(count, classes=4, *, known=None, **fractions):
    labels = np.arange(count) % classes
    fractions = {"validation": 0.1, "test": 0.2} | fractions
    return by_content(
        content(count),
        labels,
        known=known or {},
        classes=[f"class {n}" for n in range(classes)],
        **fractions,
    )


def test_parts_by_content_have_the_fractions_roughly():
    parts = dealt(4000)

    assert abs(np.mean(parts == "test") - 0.2) < 0.03
    assert abs(np.mean(parts == "validation") - 0.1) < 0.02


def test_a_part_follows_from_the_content_alone():
    whole, some = dealt(4000), dealt(2000)

    np.testing.assert_array_equal(whole[:2000], some)


def test_what_is_known_never_moves():
    known = dict(zip(content(400), ["test", "labeled"] * 200, strict=True))

    parts = dealt(800, known=known)

    assert parts[:400].tolist() == list(known.values())


def test_each_class_gets_one_image_into_each_part():
    for count in (12, 16, 20, 40):
        parts = dealt(count)
        for label in range(4):
            own = parts[np.arange(count) % 4 == label]
            assert {"labeled", "validation", "test"} == set(own.tolist())


def test_a_class_whose_images_are_all_known_may_lack_a_part():
    known = dict.fromkeys(content(400)[::4], "labeled")

    parts = dealt(400, known=known)

    names = [f"class {n}" for n in range(4)]
    wanted = ["labeled", "validation", "test"]
    found = lacking(parts, np.arange(400) % 4, names, wanted)
    assert found == {"class 0": ["validation", "test"]}


@pytest.mark.parametrize("count", [12, 16, 20, 40, 400])
def test_test_images_are_the_same_whatever_is_for_validation(count):
    chosen = {
        fraction: np.flatnonzero(dealt(count, validation=fraction) == "test").tolist()
        for fraction in (0.0, 0.1, 0.3)
    }

    assert chosen[0.0]
    assert chosen[0.0] == chosen[0.1] == chosen[0.3]


def test_a_part_that_is_given_elsewhere_is_not_dealt():
    assert set(dealt(400, test=0.0).tolist()) == {"labeled", "validation"}
    assert set(dealt(400, test=0.0, validation=0.0).tolist()) == {"labeled"}


def test_some_of_each_class_are_drawn_by_content_and_seed():
    labels = np.arange(400) % 4
    hashes = content(400)

    chosen = some_of_each_class(hashes, labels, 5, seed=1)

    assert np.bincount(labels[chosen]).tolist() == [5, 5, 5, 5]
    back = some_of_each_class(hashes[::-1], labels[::-1], 5, seed=1)
    assert sorted(399 - back) == chosen.tolist()
    other = some_of_each_class(hashes, labels, 5, seed=2)
    assert other.tolist() != chosen.tolist()

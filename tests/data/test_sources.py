"""Sources: records by index, under keys that stay."""

import hashlib

import numpy as np
import pytest

from noisy_student_jax import data
from noisy_student_jax.config import base_config
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Examples
from noisy_student_jax.data.sources import (
    ArraySource,
    Counted,
    fingerprint,
    first_label,
    has_keys,
    key_hashes,
    known_labels,
    labels_of,
    read_all_good,
    shard_bounds,
)
from noisy_student_jax.images.preprocessing import Preprocessing


def source(count=5, labels=True):
    images = [np.full((8, 8, 3), 10 * n, np.uint8) for n in range(count)]
    keys = [f"ä/{n}" for n in range(count)]
    return ArraySource(keys, images, np.arange(count) % 3 if labels else None)


def test_records_are_read_in_the_order_asked_for():
    examples = source().read([3, 0, 3])

    assert [image[0, 0, 0] for image in examples.images] == [30, 0, 30]
    assert examples.labels.tolist() == [0, 0, 0]
    assert examples.status == ["ok"] * 3
    assert source().read([]).images == []


def test_a_subset_is_a_source_of_its_own():
    part = source().subset(np.array([4, 1]))

    assert len(part) == 2
    assert part.key(0) == "ä/4"
    assert part.read([1]).labels.tolist() == [1]


def test_a_subset_may_leave_the_labels_behind():
    part = source().subset(np.array([4, 1]), labeled=False)

    assert part.read([0]).labels is None
    assert part.key(1) == "ä/1"


@pytest.mark.parametrize(
    "other",
    [
        source(4),
        source(labels=False),
        ArraySource(["ä/1", "ä/0", *source().keys[2:]], source().images, np.arange(5)),
        ArraySource(["ä/0ä/1", *source().keys[2:]], source().images[1:], np.arange(4)),
        ArraySource(source().keys, source().images, np.array([0, 1, 2, 0, 2])),
    ],
    ids=["fewer", "without labels", "other order", "joined keys", "another label"],
)
def test_another_source_has_another_fingerprint(other):
    assert fingerprint(other) != fingerprint(source())


def test_a_fingerprint_reads_no_pixels():
    blind = ArraySource(source().keys, None, source().labels)

    assert fingerprint(blind) == fingerprint(source())


class Reading:
    """A source that holds no labels: it reads them, and notes what it has read."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 4

    def key(self, index):
        return f"{index}"

    def read(self, indices):
        self.asked += indices
        images = [np.zeros((2, 2, 3), np.uint8)] * len(indices)
        return Examples(images, ["ok"] * len(indices), np.array(indices) + 7)


def test_the_first_label_is_read_only_where_it_is_not_held():
    held, reading = source(), Reading()
    held.read = None

    assert first_label(held).tolist() == [0]
    assert known_labels(reading) is None
    assert first_label(reading).tolist() == [7]
    assert reading.asked == [0]


def test_a_source_that_only_counts_has_no_keys():
    assert has_keys(source())
    assert not has_keys(Counted(3, None))
    with pytest.raises(UserError, match="only counted"):
        Counted(3, None).key(0)
    with pytest.raises(UserError, match="only counted"):
        Counted(3, None).read([0])


def test_a_source_that_gives_no_labels_is_told_to():
    unlabeled = source(labels=False)

    for ask in (first_label, labels_of):
        with pytest.raises(UserError, match="gave no labels"):
            ask(unlabeled)


def test_hashes_of_keys_are_sorted_and_64_bits_wide():
    found = key_hashes(source())

    expected = sorted(
        int(hashlib.sha256(f"ä/{n}".encode()).hexdigest()[:16], 16) for n in range(5)
    )
    assert found.tolist() == expected
    assert found.dtype == np.uint64
    assert set(key_hashes(source(), np.array([2])).tolist()) <= set(expected)
    assert len(key_hashes(source(), [])) == 0


class Spoilt:
    """A source with two records that cannot be read."""

    def __len__(self):
        return 6

    def key(self, index):
        return f"k{index}"

    def read(self, indices):
        good = [index not in (2, 4) for index in indices]
        image = np.zeros((8, 8, 3), np.uint8)
        return Examples(
            [image if ok else None for ok in good],
            ["ok" if ok else "truncated" for ok in good],
            np.asarray(list(indices)),
        )


def test_records_that_all_have_to_be_good_are_read_and_preprocessed():
    images, labels = read_all_good(source(), Preprocessing(4, 0), [1, 2], part="pool")

    assert images.shape == (2, 4, 4, 3)
    assert images[:, 0, 0, 0].tolist() == [10, 20]
    assert labels.tolist() == [1, 2]
    everything, _ = read_all_good(source(), Preprocessing(4, 0), part="pool")
    assert len(everything) == 5


def test_training_images_are_uint8_however_they_are_resized():
    cut = Preprocessing(3, 0, "bicubic_tf1")
    images, _ = read_all_good(source(), cut, part="pool")

    assert images.dtype == np.uint8
    assert cut.apply_all(source().read([0]).images).dtype == np.float32


def test_a_bad_record_among_them_is_named():
    with pytest.raises(UserError) as caught:
        read_all_good(Spoilt(), Preprocessing(4), [5, 4, 2], part="validation")

    assert str(caught.value) == (
        "2 of 3 validation images cannot be used, the first being 'k4' (truncated),"
        " 'k2' (truncated): repair, replace or remove them"
    )


@pytest.mark.parametrize(("count", "shards"), [(10, 3), (7, 7), (1000, 1), (5, 4)])
def test_shards_cover_every_record_once_and_are_of_a_size(count, shards):
    bounds = shard_bounds(count, shards)

    covered = [index for start, stop in bounds for index in range(start, stop)]
    assert covered == list(range(count))
    sizes = {stop - start for start, stop in bounds}
    assert len(bounds) == shards
    assert max(sizes) - min(sizes) <= 1


def test_a_data_set_that_is_not_known_is_refused():
    section = base_config().data
    section.name = "digist"

    with pytest.raises(UserError, match=r"no dataset is called 'digist'.*'digits'"):
        data.load(section, seed=0)

"""Features are read as images of one pixel, of one view or of all together."""

import numpy as np

from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.features.source import FeatureSource, Joined, MeanOfViews


def features(values, status=None):
    count = len(values)
    images = np.zeros((count, 2, 2, 3), np.uint8)
    source = ArraySource([f"k{n}" for n in range(count)], images, np.arange(count))
    # Two chunks, in another order than the records.
    chunks = [np.asarray(values[1::2], np.float32), np.asarray(values[::2], np.float32)]
    places = np.array([[1 - n % 2, n // 2] for n in range(count)])
    return FeatureSource(source, chunks, places, status or ["ok"] * count)


def test_each_record_has_its_own_features():
    values = np.arange(15.0).reshape(5, 3)
    source = features(values)

    assert np.array_equal(source.rows(np.array([4, 0, 3])), values[[4, 0, 3]])
    read = source.read([2, 1])
    assert read.labels.tolist() == [2, 1]
    assert np.array_equal(np.stack(read.images)[:, 0, 0], values[[2, 1]])


def test_views_together_are_their_mean():
    values = np.arange(15.0).reshape(5, 3)
    torn = ["ok", "torn", "ok", "ok", "ok"]
    mean = MeanOfViews([features(values), features(values + 2, torn)])

    assert np.array_equal(mean.rows(np.arange(5)), (values + 1).astype(np.float32))
    assert mean.status == torn
    assert [image is None for image in mean.read(range(5)).images] == [
        False,
        True,
        False,
        False,
        False,
    ]
    assert mean.key(3) == "k3"


def test_joined_features_lie_side_by_side_in_known_widths():
    one, other = np.arange(15.0).reshape(5, 3), np.arange(10.0).reshape(5, 2)
    joined = Joined([features(one), features(other)])
    both = MeanOfViews([joined, Joined([features(one), features(other + 2)])])

    found = both.rows(np.arange(5))
    assert both.widths == [3, 2]
    assert both.bytes_per_record == found[0].nbytes
    assert np.array_equal(found, np.hstack([one, other + 1]))

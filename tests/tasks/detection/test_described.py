"""What is said of an image's predicted boxes."""

import numpy as np
from tasks.detection.boxes_to_choose import predicted

from noisy_student_jax.tasks.detection import described


def test_boxes_are_clipped_to_the_image_and_those_beside_it_are_none():
    found = predicted([[(0, 0.9, 1.0), (1, 0.8, 1.0), (0, 0.7, 1.0)]])
    found["boxes"][0, :3] = (
        (0.1, 0.2, 0.3, 0.9),  # reaches into the gray below
        (0.1, 0.6, 0.3, 0.9),  # lies in it
        (0.5, 0.1, 1.0, 0.2),
    )

    (row,) = described.rows(found, [(200, 100)], ("cell", "spot"))

    assert [one["box"] for one in row["boxes"]] == [
        [20.0, 40.0, 60.0, 100.0],
        [100.0, 20.0, 200.0, 40.0],
    ]
    assert [one["score"] for one in row["boxes"]] == [0.9, 0.7]
    assert row["boxes"][0]["class"] == "cell"


def test_boxes_below_a_score_are_not_said():
    found = predicted([[(0, 0.9, 1.0), (1, 0.2, 1.0)], []])
    found["boxes"][0, :2] = (0.1, 0.1, 0.3, 0.3)

    def counts(lowest):
        rows = described.rows(found, [(9, 9)] * 2, ("a", "b"), min_score=lowest)
        return [len(row["boxes"]) for row in rows]

    assert counts(None) == [1, 0]
    assert counts(0.0) == [2, 0]
    assert counts(np.nextafter(np.float32(0.9), 2)) == [0, 0]

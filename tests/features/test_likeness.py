"""Images of foreign classes are less like the labeled ones."""

import numpy as np

from noisy_student_jax.features.likeness import likeness


def test_what_lies_between_or_beside_the_classes_is_less_like_them():
    random = np.random.default_rng(0)
    centers = 4 * np.eye(5, 12, dtype=np.float32)

    def drawn(classes):
        noise = random.standard_normal((len(classes), 12))
        return (centers[classes] + noise).astype(np.float32)

    known, foreign = np.repeat([0, 1, 2], 50), np.repeat([3, 4], 20)
    labeled = np.repeat([0, 1, 2], 8)
    pool = drawn(np.concatenate([known, foreign]))

    found = likeness(pool, drawn(labeled), np.eye(4)[labeled])

    assert np.isfinite(found).all()
    assert abs(found).max() <= 1
    least = np.argsort(found)[: len(foreign)]
    assert (least >= len(known)).mean() > 0.9

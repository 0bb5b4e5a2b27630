"""Non-maximum suppression is that of the greedy algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax.tasks.detection import nms


def overlap(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return shared / (
        np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared
    )


def greedy(boxes, classes, scores):
    kept = np.zeros(len(boxes), bool)
    for i, (box, own, score) in enumerate(zip(boxes, classes, scores, strict=True)):
        kept[i] = score > 0 and not any(
            kept[j] and classes[j] == own and overlap(boxes[j], box) > nms.THRESHOLD
            for j in range(i)
        )
    return kept


@pytest.mark.parametrize("seed", range(4))
def test_what_remains_is_what_the_greedy_algorithm_keeps(seed):
    random = np.random.default_rng(seed)
    low = random.random((120, 2)) * 0.2
    boxes = np.concatenate([low, low + 0.3 + 0.2 * random.random((120, 2))], 1)
    boxes = boxes.astype(np.float32)
    classes = random.integers(0, 2, 120)
    scores = np.sort(random.random(120).astype(np.float32))[::-1].copy()
    scores[100:] = 0

    found = nms.keep(*map(jnp.asarray, (boxes, classes, scores)))

    wanted = greedy(boxes, classes, scores)
    assert 2 <= wanted.sum() < 100
    np.testing.assert_array_equal(found, wanted)


def test_a_long_chain_of_overlaps_is_followed_to_its_end():
    # Each box suppresses the next one, so every other box remains.
    left = np.arange(64, dtype=np.float32) * 0.2
    boxes = np.stack([left, left * 0, left + 1, left * 0 + 1], 1)
    scores = np.linspace(1, 0.1, 64, dtype=np.float32)

    found = nms.keep(jnp.asarray(boxes), jnp.zeros(64, jnp.int32), jnp.asarray(scores))

    np.testing.assert_array_equal(found, np.arange(64) % 2 == 0)


def test_images_of_a_batch_do_not_depend_on_each_other():
    random = np.random.default_rng(7)
    low = random.random((3, 40, 2)) * 0.3
    boxes = jnp.asarray(np.concatenate([low, low + 0.4], -1), jnp.float32)
    classes = jnp.zeros((3, 40), jnp.int32)
    scores = -jnp.sort(-jnp.asarray(random.random((3, 40)), jnp.float32), axis=1)

    together = jax.vmap(nms.keep)(boxes, classes, scores)

    for number in range(3):
        alone = nms.keep(boxes[number], classes[number], scores[number])
        np.testing.assert_array_equal(together[number], alone)

"""Drawn images of 64 px with discs and squares, for tests of detectors."""

import numpy as np

SIDE, PLACES, CLASSES = 64, 4, 2


def image(random, count):
    """Returns pixels, uint8 ``[64, 64, 3]``, and labels ``[4, 6]`` of a drawn image.

    Class 0 is a bright disc, class 1 a dark square; none overlap.
    """
    pixels = random.normal(128, 12, (SIDE, SIDE, 3))
    labels = np.zeros((PLACES, 6), np.float32)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    taken = np.zeros((SIDE, SIDE), bool)
    done = 0
    while done < count:
        half = random.uniform(5, 12)
        cx, cy = random.uniform(half, SIDE - half, 2)
        near = np.maximum(np.abs(x - cx), np.abs(y - cy)) <= half + 1
        if (near & taken).any():
            continue
        taken |= near
        of_class = int(random.integers(CLASSES))
        disc = (x - cx) ** 2 + (y - cy) ** 2 <= half**2
        square = np.maximum(np.abs(x - cx), np.abs(y - cy)) <= half
        pixels[square if of_class else disc] = 40 if of_class else 220
        box = np.array([cx - half, cy - half, cx + half, cy + half]) / SIDE
        labels[done] = [*box, of_class, 1]
        done += 1
    return pixels.clip(0, 255).astype(np.uint8), labels


def images(counts, *, seed=0):
    """Returns images ``[n, 64, 64, 3]`` and labels ``[n, 4, 6]``, with these counts."""
    random = np.random.default_rng(seed)
    pixels, labels = zip(*(image(random, count) for count in counts), strict=True)
    return np.stack(pixels), np.stack(labels)

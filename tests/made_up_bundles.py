"""Bundles of tiny models that nobody has trained, and images to transfer them to."""

import numpy as np
from people import draw

from noisy_student_jax import models
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.models.initialize import initialize


def write_bundle(folder, *, seed=1, name="efficientnet_test", side=8, **changes):
    """Writes a bundle of freshly drawn weights; returns its folder."""
    arguments = {"outputs": 2, "stochastic_depth": 0.2}
    fields = {
        "architecture": name,
        "arguments": arguments,
        "preprocessing": Preprocessing(side, 0, "bicubic", (0.3,) * 3, (0.35,) * 3),
        "task": "classification",
        "classes": ("a", "b"),
        "variables": initialize(
            models.create(name, **arguments), resolution=side, seed=seed
        ),
        "origin": {},
        "trained_on": np.zeros(0, np.uint64),
    }
    bundles.write(Bundle(**(fields | changes)), folder)
    return folder


def make_target(root, *, images=12, classes=("red", "green", "blue")):
    """Makes folders ``train`` and ``test`` of class folders; returns their folder."""
    for label, name in enumerate(classes):
        for number in range(images):
            draw(root / "train" / name / f"{number}.png", label, number)
        for number in range(100, 104):
            draw(root / "test" / name / f"{number}.png", label, number)
    return root

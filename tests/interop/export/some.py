"""Bundles to export, photographs to look at, and processes without the package."""

import os
import subprocess
import sys

import jax
import numpy as np
from sklearn.datasets import load_sample_image

from noisy_student_jax import models, tasks
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop.export import agreement
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.initialize import initialize

CLASSES = ("cat", "class<script>", "a\nb: [c](d)", '| "x" |')
ORIGIN = {"generation": 1, "dataset": "pets", "steps": 7, "seed": 3, "weights": "ema"}
MEMBERS = ("efficientnet_test", "efficientnet_lite0_small")
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("noisy_student_jax", "jax", "jaxlib", "flax"):
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
"""
"""Put before a program, it has neither this package nor what this package needs."""


def bundle(name="test", side=8, padding=4, interpolation="bicubic", **changes):
    """A bundle of a classifier, with statistics, scales and biases drawn."""
    if name not in (models.CONCATENATED, *models.RESIDUAL):
        name = f"efficientnet_{name}"
    arguments = {"outputs": len(CLASSES), "stochastic_depth": 0.9}
    if members := changes.pop("members", None):
        arguments["members"] = members
    module = models.create(name, **arguments)
    variables = initialize(module, resolution=side, seed=0)
    rng = np.random.default_rng(1)
    mean, std = models.normalization(name, members)
    fields = {
        "architecture": name,
        "arguments": arguments,
        "preprocessing": Preprocessing(side, padding, interpolation, mean, std),
        "task": "classification",
        "classes": CLASSES,
        "variables": jax.tree.map(
            lambda x: (
                x if x.ndim > 1 else (x + rng.uniform(0, 0.5, x.shape)).astype("f")
            ),
            variables,
        ),
        "origin": ORIGIN,
        "trained_on": np.arange(5, dtype=np.uint64),
    }
    return bundles.Bundle(**(fields | changes))


def concatenated(side=16, members=MEMBERS, **changes):
    """A bundle of two networks with one head; they see images normalized otherwise."""
    return bundle(models.CONCATENATED, side, members=members, **changes)


def detector(name="fcos_test", classes=("cell", "platelet"), side=64):
    """A bundle that finds boxes, with random weights."""
    arguments = {"outputs": len(classes)}
    variables = initialize(models.create(name, **arguments), resolution=side, seed=0)
    return bundles.Bundle(
        architecture=name,
        arguments=arguments,
        preprocessing=Preprocessing(side, 0, framing="letterbox"),
        task="detection",
        classes=classes,
        variables=jax.device_get(variables),
        origin={},
        trained_on=np.zeros(0, np.uint64),
    )


def written(folder, *arguments, **changes):
    """The folder of a bundle."""
    bundles.write(bundle(*arguments, **changes), folder)
    return folder


def task(one):
    """The task of a bundle."""
    return tasks.create(one.task, one.classes)


def predictions(one, images):
    """What `noisy-student predict` computes, image by image of any size."""
    predictor = Predictor.from_bundle(one, task(one), batch=4)
    return predictor(one.variables, one.preprocessing.apply_all(images))


def assert_agree(got, wanted, tolerance=1e-4):
    for name, values in wanted.items():
        away = np.abs(got[name] - values).max()
        assert away <= tolerance * np.abs(values).max(), name


def assert_few_differ(pixels, wanted, rare):
    """Whole pixels, of which a share of at most `rare` is off by a level or two."""
    away = np.abs(pixels - wanted)
    np.testing.assert_array_equal(pixels, np.round(pixels))
    assert away.max() <= agreement.LEVELS
    assert (away > 0).mean() <= rare


def photographs():
    """Photographs that lie, stand, are odd, small, square and a line."""
    china, flower = load_sample_image("china.jpg"), load_sample_image("flower.jpg")
    return [
        china,
        np.ascontiguousarray(flower.transpose(1, 0, 2)),
        flower[101:298, 200:391],
        china[200:207, 300:311],
        flower[150:182, 300:332],
        china[100:101, :77],
    ]


def run(program, *arguments, folder):
    """Runs a program without this package; returns what it prints."""
    path = folder / "program.py"
    path.write_text(WITHOUT + program, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, path, *map(str, arguments)],
        cwd=folder,
        env=environment | {"PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def documented(title):
    """Returns the Python program below a heading of ``docs/export.md``."""
    from support import ROOT

    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    return text.split(f"## {title}\n")[1].split("```python\n")[1].split("```")[0]

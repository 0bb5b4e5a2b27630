"""The paper's ImageNet recipes, which the files in ``configs/`` put together.

Xie, Luong, Hovy, Le: Self-training with Noisy Student improves ImageNet
classification, CVPR 2020 ("the paper"), and the scripts that its authors released with
their code. What is not said here is `base_config`'s.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from noisy_student_jax.config.schema import base_config

IMAGENET = 1_281_167
"""Training images of ILSVRC 2012."""
HELD_OUT = 10_000
"""Of them that choose among generations, so that the test set does not."""
JFT = 300_000_000
"""Unlabeled images of the paper; nobody outside has them."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a size of student is trained.

    Attributes:
      ratio: pseudo-labeled images to a labeled one (authors' script).
      magnitude: of RandAugment, two layers (authors' script); 0 for none.
      epochs: over the labeled images (paper §3.1: longer up to B4).
    """

    ratio: float
    magnitude: float
    epochs: float


RECIPES = {
    "b0": Recipe(1.0, 0.0, 700.0),
    "b1": Recipe(3.0, 0.0, 700.0),
    "b2": Recipe(3.0, 6.0, 700.0),
    "b3": Recipe(3.0, 12.0, 700.0),
    "b4": Recipe(3.0, 15.0, 700.0),
    "b5": Recipe(3.0, 18.0, 350.0),
    "b6": Recipe(3.0, 24.0, 350.0),
    "b7": Recipe(3.0, 27.0, 350.0),
    "l2": Recipe(14.0, 27.0, 350.0),
}
REMAT = ("b5", "b6", "b7", "l2")
"""Sizes that compute their blocks again for the backward pass, to fit their cores."""


def imagenet() -> ConfigDict:
    """Returns the base of the ImageNet configs; generations are to be added."""
    config = base_config()
    config.data.update(name="own", pool_shards=1024)
    config.data.sources.update(
        # A minival off the training images; the paper's runs held none out.
        labeled=f"tfds:imagenet2012:train[{HELD_OUT}:]",
        validation=f"tfds:imagenet2012:train[:{HELD_OUT}]",
        test="tfds:imagenet2012:validation",
    )
    config.data.expected.update(
        labeled=IMAGENET - HELD_OUT,
        validation=HELD_OUT,
        test=50_000,
        pool=JFT,
        classes=1000,
    )
    # For folders, from which a validation set has to be split off.
    config.data.validation_fraction = HELD_OUT / IMAGENET
    config.model.update(dtype="bfloat16", interpolation="bicubic_tf1")
    for stream in ("labeled", "pseudo"):
        config.noise[stream].crop_area = 0.08
    # The paper compares with its teachers; a control costs as much as a student.
    config.control.enabled = False
    config.checkpoint.every_steps = 2500
    config.log.validate_every_steps = 5000
    # By the paper's own figures L2 used some 5 to 10 % of its cores' peak.
    config.plan.update(chip="tpu_v3_core", devices=512, utilization=0.1)
    return config


def student(size: str, **train: Any) -> dict[str, Any]:
    """Returns a generation of an ImageNet config.

    Args:
      size: of the EfficientNet, as in ``"b7"``.
      **train: fields of its ``train`` section that differ.
    """
    recipe = RECIPES[size]
    noise = {"randaugment_magnitude": recipe.magnitude}
    if not recipe.magnitude:
        noise = {"randaugment_layers": 0}
    schedule = {
        "ratio": recipe.ratio,
        "epochs": recipe.epochs,
        # Twice as long, half as steep; the warm-up stays.
        "decay_epochs": 2.4 * recipe.epochs / 350,
    }
    return {
        "model": {"name": f"efficientnet_{size}", "remat": size in REMAT},
        "train": {**schedule, **train},
        "noise": {"labeled": noise, "pseudo": noise},
    }


def imagenet_student(size: str) -> ConfigDict:
    """Returns the config of a teacher and a student of the same size.

    Args:
      size: of the EfficientNet, as in ``"b0"``.
    """
    config = imagenet()
    # The teacher, on labels alone, is trained as its student is.
    config.generations = (student(size), student(size))
    return config

"""Recipes from which files in ``configs/`` are built.

Those on ImageNet are from Xie, Luong, Hovy, Le: Self-training with Noisy Student
improves ImageNet classification, CVPR 2020 ("the paper"), and the scripts that its
authors released with their code; those with few labels take the protocol on which
semi-supervised methods are compared. All other fields keep the values of `base_config`.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from noisy_student_jax.config.schema import base_config

IMAGENET = 1_281_167
"""Training images of ILSVRC 2012."""
HELD_OUT = 10_000
"""Training images held out to select among generations instead of the test set."""
JFT = 300_000_000
"""Unlabeled images of the paper; the dataset is not public."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Training options of one model size.

    Attributes:
      ratio: pseudo-labeled images per labeled image (authors' script).
      magnitude: RandAugment magnitude, two layers (authors' script); 0 for none.
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
"""Sizes that recompute blocks in the backward pass to fit into device memory."""


def imagenet() -> ConfigDict:
    """Returns the base of the ImageNet configs, without generations."""
    config = base_config()
    config.data.update(name="own", pool_shards=1024)
    config.data.sources.update(
        # A minival split off the training images; the paper's runs held none out.
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
    # Used for folders, whose validation set is split off the training images.
    config.data.validation_fraction = HELD_OUT / IMAGENET
    config.model.update(dtype="bfloat16", interpolation="bicubic_tf1")
    for stream in ("labeled", "pseudo"):
        config.noise[stream].crop_area = 0.08
    # The paper compares with its teachers; a control run costs as much as a student.
    config.control.enabled = False
    config.checkpoint.every_steps = 2500
    config.log.validate_every_steps = 5000
    # By the paper's figures, L2 used some 5 to 10 % of its cores' peak.
    config.plan.update(chip="tpu_v3_core", devices=512, utilization=0.1)
    return config


def student(size: str, **train: Any) -> dict[str, Any]:
    """Returns a generation of an ImageNet config.

    Args:
      size: the EfficientNet, such as ``"b7"``.
      **train: overrides of its ``train`` section.
    """
    recipe = RECIPES[size]
    noise = {"randaugment_magnitude": recipe.magnitude}
    if not recipe.magnitude:
        noise = {"randaugment_layers": 0}
    schedule = {
        "ratio": recipe.ratio,
        "epochs": recipe.epochs,
        # A longer schedule decays proportionally slower; the warm-up is fixed.
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
      size: the EfficientNet, such as ``"b0"``.
    """
    config = imagenet()
    # The teacher uses the same recipe as its student, on labeled images alone.
    config.generations = (student(size), student(size))
    return config


def few_labels(
    *, labels_per_class: int, pool: int, validation: int, test: int
) -> ConfigDict:
    """Returns the base of a config with few labels, 32-pixel images and ten classes.

    Labels, split, network, optimizer, batch and moving average are those of Oliver et
    al., "Realistic Evaluation of Deep Semi-Supervised Learning Algorithms" (2018), and
    of FixMatch's code (Sohn et al., 2020); the method and its noise are Noisy
    Student's. A teacher, two students of its size, and the control.

    Args:
      labels_per_class: labels that are kept.
      pool: expected number of unlabeled images.
      validation: expected number of validation images, a tenth of the training images.
      test: number of test images.
    """
    config = base_config()
    config.data.update(
        name="own",
        labels_per_class=labels_per_class,
        validation_fraction=0.1,
        pool_shards=8,
    )
    config.data.expected.update(
        labeled=10 * labels_per_class,
        pool=pool,
        validation=validation,
        test=test,
        classes=10,
    )
    config.model.update(
        name="wrn_28_2",
        crop_padding=0,
        dropout_rate=0.2,
        batch_norm_momentum=0.999,
        dtype="bfloat16",
    )
    config.train.update(
        batch=64,
        ratio=7.0,
        epochs=None,
        steps=2**18,
        optimizer="sgd",
        # 0.03 for 64 labeled images.
        learning_rate=0.12,
        schedule="cosine",
        warmup_epochs=0.0,
        weight_decay=5e-4,
        label_smoothing=0.0,
        # The weight of unlabeled images is one, whatever their number.
        loss_normalization="sum",
        ema_decay=0.999,
    )
    for stream in ("labeled", "pseudo"):
        config.noise[stream].update(
            randaugment_magnitude=5.0,
            # In pixels of a 32-pixel image.
            randaugment_translate=4.0,
            randaugment_cutout=4.0,
            cutout_size=16,
            crop_padding=4,
        )
    config.selection.update(per_class=pool // 10, max_copies=5)
    config.generations = ({"train": {"steps": 2**16}}, {}, {})
    config.checkpoint.every_steps = 5000
    config.log.validate_every_steps = 5000
    config.plan.update(chip="h100", devices=1, utilization=0.1)
    return config

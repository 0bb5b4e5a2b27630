"""CIFAR-10 with 4,000 labels: the other training images are the pool.

Command: ``noisy-student run --config=configs/cifar10.py --workdir=W``, after ``tfds
build cifar10``; or with ``--config.labeled=DIR --config.test=DIR2``, folders of class
folders. Hardware: planned for one H100. Time: docs/recipes.md has the hours at a tenth
of its peak, which such small images will not reach (``noisy-student plan --measure`` on
your machine).
Accuracy to expect: we have not run it, and CIFAR-10 is not in the paper;
docs/cifar10.md has the results of ``configs/folder.py`` on the same labels, with
smaller models on two CPU cores.
"""

from noisy_student_jax.config import ConfigDict, base_config


def get_config() -> ConfigDict:
    """A teacher, two students of a larger architecture, and the control."""
    config = base_config()
    config.data.update(
        name="own", labels_per_class=400, validation_fraction=0.1, pool_shards=8
    )
    config.data.sources.update(labeled="tfds:cifar10:train", test="tfds:cifar10:test")
    config.data.expected.update(
        labeled=4_000, pool=41_000, validation=5_000, test=10_000, classes=10
    )
    config.model.update(
        name="efficientnet_b1_small",
        resolution=32,
        crop_padding=0,
        # Statistics of the 50,000 training images.
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        dtype="bfloat16",
    )
    config.train.update(
        batch=64,
        ratio=7.0,
        epochs=None,
        steps=40_000,
        decay_epochs=6.0,
        weight_decay=1e-4,
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
    config.selection.update(per_class=4_100, max_copies=5)
    teacher = {
        "model": {"name": "efficientnet_b0_small"},
        # A step has as many images as a student's, so an epoch has few steps.
        "train": {"batch": 512, "steps": 10_000, "warmup_epochs": 40.0},
    }
    config.generations = (teacher, {}, {})
    config.checkpoint.every_steps = 5000
    config.log.validate_every_steps = 2000
    config.plan.update(chip="h100", devices=1, utilization=0.1)
    return config

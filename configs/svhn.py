"""SVHN, B0 taught by B0 on small images: the example in the authors' own code.

Command: ``noisy-student run --config=configs/svhn.py --workdir=W``, after ``tfds build
svhn_cropped``. Hardware: planned for 8 TPU v3 cores; one GPU is enough. Time
and accuracy to expect: docs/recipes.md has the core-hours by ``noisy-student plan``, of
which the control takes half, and the accuracy of the authors' README. We have not run
it.
"""

from noisy_student_jax.config import ConfigDict, base_config

# Images of each split; DEV images of TRAIN serve to choose among generations.
TRAIN, DEV, TEST, EXTRA = 73_257, 4_000, 26_032, 531_131


def get_config() -> ConfigDict:
    """A teacher and a student, both the small-image B0, and the control."""
    config = base_config()
    config.data.update(name="own", pool_shards=16)
    config.data.sources.update(
        labeled=f"tfds:svhn_cropped:train[{DEV}:]",
        unlabeled="tfds:svhn_cropped:extra",
        validation=f"tfds:svhn_cropped:train[:{DEV}]",
        test="tfds:svhn_cropped:test",
    )
    config.data.expected.update(
        labeled=TRAIN - DEV, pool=EXTRA, validation=DEV, test=TEST, classes=10
    )
    config.model.update(
        name="efficientnet_b0_small",
        resolution=32,
        crop_padding=0,
        mean=(0.4376821, 0.4437697, 0.47280442),
        std=(0.19803012, 0.20101562, 0.19703614),
        dtype="bfloat16",
    )
    config.train.update(
        batch=128,
        ratio=5.0,
        epochs=None,
        steps=109_474,
        decay_epochs=1.372,
        weight_decay=1e-4,
    )
    for stream in ("labeled", "pseudo"):
        config.noise[stream].update(
            randaugment_magnitude=5.0,
            # In pixels of a 32-pixel image.
            randaugment_translate=4.0,
            randaugment_cutout=4.0,
            cutout_size=16,
            crop_padding=4,
            # A mirrored 2 is not a 2.
            flip=False,
        )
    config.selection.per_class = EXTRA // 10
    config.generations = ({}, {})
    config.checkpoint.every_steps = 5000
    config.log.validate_every_steps = 5000
    config.plan.update(chip="tpu_v3_core", devices=8, utilization=0.1)
    return config

"""Handwritten digits, fifty labels: the whole loop on a laptop, in minutes.

Command: ``bash launch/quickstart.sh``. Time: three minutes on two CPU cores. Accuracy
to expect: docs/digits.md has that of five seeds.
"""

from noisy_student_jax.config import ConfigDict, base_config


def get_config() -> ConfigDict:
    """A teacher, and two students of a larger architecture."""
    config = base_config()
    config.data.update(
        name="digits", labels_per_class=5, validation=200, test=600, pool_shards=4
    )
    config.model.update(
        name="efficientnet_tiny_l",
        resolution=16,
        crop_padding=0,
        mean=(0.3, 0.3, 0.3),
        std=(0.35, 0.35, 0.35),
        # Short runs: at the paper's 0.99 the statistics remember their start.
        batch_norm_momentum=0.9,
    )
    config.train.update(
        batch=32,
        ratio=3.0,
        epochs=None,
        steps=800,
        optimizer="adamw",
        learning_rate=0.016,
        schedule="cosine",
        warmup_epochs=20.0,
        weight_decay=0.01,
        ema_decay=0.99,
    )
    for stream in ("labeled", "pseudo"):
        config.noise[stream].update(
            randaugment_magnitude=10.0,
            # In pixels of a 16-pixel image.
            randaugment_translate=2.0,
            randaugment_cutout=2.0,
            # A mirrored 2 is not a 2.
            flip=False,
            crop_padding=2,
        )
    config.selection.update(per_class=90, min_score=0.6)
    teacher = {
        "model": {"name": "efficientnet_tiny_m"},
        "train": {"batch": 64, "steps": 1200, "learning_rate": 0.008},
        # The smaller the model, the less noise it bears (as in the paper's B0–B7).
        "noise": {"labeled": {"randaugment_magnitude": 5.0}},
    }
    config.generations = (teacher, {}, {})
    # On labels only the same architecture does best with more noise (tuned as the
    # students' is).
    noise = {"randaugment_magnitude": 15.0}
    config.control.noise = ConfigDict({"labeled": noise, "pseudo": noise})
    config.checkpoint.every_steps = 200
    config.log.update(every_steps=50, validate_every_steps=200)
    return config

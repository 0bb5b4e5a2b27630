"""Handwritten digits, fifty labels: the whole loop on a laptop, in minutes.

Command: ``bash launch/quickstart.sh``
"""

from noisy_student_jax.config import ConfigDict, base_config


def get_config() -> ConfigDict:
    """A small teacher, and two larger students."""
    config = base_config()
    config.data = ConfigDict(
        {
            **config.data.to_dict(),
            "name": "digits",
            "labels_per_class": 5,
            "validation": 200,
            "test": 600,
            "pool_shards": 4,
        }
    )
    config.model.update(
        resolution=16,
        crop_padding=0,
        mean=(0.3, 0.3, 0.3),
        std=(0.35, 0.35, 0.35),
        batch_norm_momentum=0.9,
    )
    config.train.update(
        batch=32,
        ratio=3.0,
        epochs=0.0,
        steps=600,
        optimizer="adamw",
        learning_rate=0.016,
        schedule="cosine",
        warmup_epochs=20.0,
        weight_decay=0.01,
        ema_decay=0.99,
    )
    for stream in ("labelled", "pseudo"):
        config.noise[stream].update(
            randaugment_layers=2,
            randaugment_magnitude=5.0,
            randaugment_translate=2.0,
            randaugment_cutout=2.0,
            flip=False,
            crop_padding=2,
        )
    config.selection.update(per_class=90, min_score=0.3)
    config.generations = (
        {"model": {"name": "efficientnet_tiny_s"}},
        {"model": {"name": "efficientnet_tiny_m"}},
        {"model": {"name": "efficientnet_tiny_l"}},
    )
    config.checkpoint.every_steps = 200
    config.log.update(every_steps=50, validate_every_steps=200)
    return config

"""The whole loop in seconds: what it learns is beside the point."""

from noisy_student_jax.config import ConfigDict, base_config


def get_config() -> ConfigDict:
    """A teacher, a student and the control, a dozen steps each, at 8 px."""
    config = base_config()
    config.data.update(labels_per_class=3, validation=50, test=100, pool_shards=3)
    config.model.update(
        name="efficientnet_test",
        resolution=8,
        crop_padding=0,
        mean=(0.3, 0.3, 0.3),
        std=(0.35, 0.35, 0.35),
        batch_norm_momentum=0.9,
    )
    config.train.update(
        batch=16,
        ratio=1.0,
        epochs=None,
        steps=12,
        warmup_epochs=1.0,
        learning_rate=0.05,
        ema_decay=0.9,
    )
    for stream in ("labeled", "pseudo"):
        config.noise[stream].update(
            randaugment_layers=1,
            randaugment_magnitude=5.0,
            randaugment_translate=2.0,
            randaugment_cutout=2.0,
            flip=False,
            crop_padding=1,
        )
    config.selection.update(per_class=20, min_score=0.05)
    config.generations = ({}, {})
    config.evaluation.update(batch=64, bootstrap=1000)
    config.labels.batch = 64
    config.checkpoint.every_steps = 4
    config.log.update(every_steps=4, validate_every_steps=6)
    return config

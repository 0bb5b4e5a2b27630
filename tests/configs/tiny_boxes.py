"""The loop on discs and squares: boxes in place of classes."""

from noisy_student_jax.config import ConfigDict, base_config


def get_config() -> ConfigDict:
    """A teacher, a student and the control, at 64 px."""
    config = base_config()
    config.task = "detection"
    config.data.update(name="outside.shapes:shapes", labels_per_class=12)
    config.data.update(validation=16, test=24, pool_shards=2)
    config.model.update(
        name="fcos_test",
        resolution=64,
        framing="letterbox",
        crop_padding=0,
        views=2,
        batch_norm_momentum=0.9,
    )
    config.train.update(
        batch=8,
        ratio=2.0,
        epochs=None,
        steps=60,
        optimizer="adamw",
        learning_rate=0.2,
        schedule="cosine",
        warmup_epochs=2.0,
        label_smoothing=0.0,
        loss_normalization="sum",
        ema_decay=0.9,
    )
    for stream in ("labeled", "pseudo"):
        config.noise[stream].update(
            randaugment_layers=1,
            randaugment_magnitude=5.0,
            randaugment_translate=6.0,
            randaugment_cutout=4.0,
        )
    config.selection.update(method="all", share=1.0, min_score=0.0)
    config.generations = ({}, {})
    config.evaluation.update(batch=24, bootstrap=500)
    config.labels.batch = 30
    config.checkpoint.every_steps = 20
    config.log.update(every_steps=20, validate_every_steps=60)
    return config

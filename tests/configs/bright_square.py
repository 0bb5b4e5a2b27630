"""The second task through the whole loop; nothing of it is in the package."""

from noisy_student_jax.config import ConfigDict, base_config


def get_config() -> ConfigDict:
    """The noise moves the square, and the task its label."""
    config = base_config()
    config.task = "outside.bright_square:BrightSquare"
    config.data.update(name="outside.squares:squares", labels_per_class=10)
    config.data.update(validation=60, test=120, pool_shards=3)
    config.model.update(name="outside.squares:heat_map", crop_padding=0)
    config.train.update(batch=20, ratio=2.0, epochs=None, steps=80, warmup_epochs=1.0)
    config.train.update(optimizer="adamw", learning_rate=0.15, ema_decay=0.9)
    for stream in ("labeled", "pseudo"):
        config.noise[stream].update(randaugment_layers=1, randaugment_magnitude=4)
        config.noise[stream].update(randaugment_translate=4.0, randaugment_cutout=4.0)
        config.noise[stream].update(flip=True, turns=True, zoom=1.2)
    config.selection.update(per_class=30, min_score=0.2)
    config.generations = ({}, {})
    config.evaluation.update(batch=60, bootstrap=1000)
    config.labels.batch = 80
    config.log.update(every_steps=20, validate_every_steps=40)
    return config

"""A model, a data set and a task from outside the package."""

from noisy_student_jax.config import ConfigDict, base_config


def get_config() -> ConfigDict:
    """One teacher and one student, in seconds."""
    config = base_config()
    config.task = "outside.gray:Errors"
    config.data.update(name="outside.gray:gray", labels_per_class=6)
    config.data.update(validation=20, test=30, pool_shards=2)
    config.data.options = ConfigDict({"pool": 40})
    config.model.update(name="outside.gray:averages", crop_padding=0)
    config.train.update(batch=6, ratio=2.0, epochs=None, steps=30, warmup_epochs=1.0)
    config.train.update(optimizer="sgd", learning_rate=2.0, ema_decay=0.9)
    for stream in ("labeled", "pseudo"):
        config.noise[stream].update(randaugment_layers=0, flip=True, crop_padding=1)
    config.selection.update(method="all", min_score=0.5)
    config.generations = ({}, {})
    config.evaluation.update(batch=30, bootstrap=1000)
    config.labels.batch = 20
    return config

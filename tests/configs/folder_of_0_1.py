"""What ``configs/folder.py`` was in 0.1: runs that began with it go on with it."""

from support import ROOT

from noisy_student_jax.config import ConfigDict
from noisy_student_jax.config.load import _execute


def get_config() -> ConfigDict:
    """The recipe of then, in the names of today."""
    config = _execute(ROOT / "configs" / "folder.py")
    config.data.validation_fraction = 0.1
    config.model.views = 1
    config.train.update(optimizer="adamw", targets="soft")
    config.selection.update(method="paper", share=1.0, min_score=0.5)
    config.generations = config.generations[:3]
    config.probe.enabled = True
    config.fine_tuning.enabled = True
    return config

"""L2"""

from noisy_student_jax import recipes
from noisy_student_jax.config import ConfigDict


def get_config() -> ConfigDict:
    """A B7, and three L2 students, each the next one's teacher."""
    config = recipes.imagenet()
    student = recipes.student("l2")
    student["model"].update(resolution=475)
    last = {**student, "train": {**student["train"], "ratio": 28.0}}
    config.generations = (recipes.student("b7"), student, student, last)
    config.plan.devices = 2048
    return config

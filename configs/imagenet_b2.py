"""B2"""

from noisy_student_jax import recipes
from noisy_student_jax.config import ConfigDict


def get_config() -> ConfigDict:
    """A teacher and a student of the same size."""
    return recipes.imagenet_student("b2")

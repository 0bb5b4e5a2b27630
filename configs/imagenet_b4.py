"""ImageNet, B4 taught by B4: the paper's student with a teacher of its size.

Command: ``noisy-student run --config=configs/imagenet_b4.py --workdir=W
--config.unlabeled=POOL``; ImageNet comes from TFDS or from your own files
(docs/recipes.md, also for an L2 teacher). Hardware: planned for 512 TPU v3 cores. Time
and accuracy to expect: docs/recipes.md has the core-hours by ``noisy-student plan``,
and the paper's accuracy with 300 million unlabeled images that only its authors have.
We have not run it.
"""

from noisy_student_jax.config import ConfigDict, recipes


def get_config() -> ConfigDict:
    """A teacher and a student of the same size."""
    return recipes.imagenet_student("b4")

"""ImageNet, B4 taught by B4: the paper's student with a teacher of its size.

Command: ``noisy-student run --config=configs/imagenet_b4.py --workdir=W
--config.unlabeled=POOL``; ImageNet is TFDS's, or yours (docs/recipes.md, also for an L2
as the teacher). Hardware: planned for 512 TPU v3 cores. Time: 5,400 core-hours if a
tenth of their peak is used (``noisy-student plan`` with the same flags). To expect: not
run by us; the paper has 84.4 / 97.0 % top-1 / top-5 (labels only 83.2 / 96.4; taught
by an L2 85.3 / 97.5), with 300 million unlabeled images that only its authors
have.
"""

from noisy_student_jax.config import ConfigDict, recipes


def get_config() -> ConfigDict:
    """A teacher and a student of the same size."""
    return recipes.imagenet_student("b4")

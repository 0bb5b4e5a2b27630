"""ImageNet, B3 taught by B3: the paper's student with a teacher of its size.

Command: ``noisy-student run --config=configs/imagenet_b3.py --workdir=W
--config.unlabeled=POOL``; ImageNet is TFDS's, or yours (docs/recipes.md, also for an L2
as the teacher). Hardware: planned for 512 TPU v3 cores. Time: 2,300 core-hours if a
tenth of their peak is used (``noisy-student plan`` with the same flags). To expect: not
run by us; the paper has 82.5 / 96.4 % top-1 / top-5 (labels only 81.7 / 95.7; taught
by an L2 84.1 / 96.9), with 300 million unlabeled images that only its authors
have.
"""

from noisy_student_jax.config import ConfigDict, recipes


def get_config() -> ConfigDict:
    """A teacher and a student of the same size."""
    return recipes.imagenet_student("b3")

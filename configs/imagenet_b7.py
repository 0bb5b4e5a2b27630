"""ImageNet, B7 taught by B7: the paper's student with a teacher of its size.

Command: ``noisy-student run --config=configs/imagenet_b7.py --workdir=W
--config.unlabeled=POOL``; ImageNet comes from TFDS or from your own files
(docs/recipes.md, also for an L2 teacher). Hardware: planned for 512 TPU v3 cores. Time:
24,000 core-hours at a tenth of their peak (``noisy-student plan`` with the same flags).
Accuracy to expect: we have not run it; the paper reports 85.9 / 97.6 % top-1 / top-5
(labels only 85.0 / 97.2; taught by an L2 86.9 / 98.1), with 300 million unlabeled
images that only its authors have.
"""

from noisy_student_jax.config import ConfigDict, recipes


def get_config() -> ConfigDict:
    """A teacher and a student of the same size."""
    return recipes.imagenet_student("b7")

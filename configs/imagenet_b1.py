"""ImageNet, B1 taught by B1: the paper's student with a teacher of its size.

Command: ``noisy-student run --config=configs/imagenet_b1.py --workdir=W
--config.unlabeled=POOL``; ImageNet comes from TFDS or from your own files
(docs/recipes.md, also for an L2 teacher). Hardware: planned for 512 TPU v3 cores. Time:
850 core-hours at a tenth of their peak (``noisy-student plan`` with the same flags).
Accuracy to expect: we have not run it; the paper reports 80.2 / 95.2 % top-1 / top-5
(labels only 79.2 / 94.4; taught by an L2 81.5 / 95.8), with 300 million unlabeled
images that only its authors have.
"""

from noisy_student_jax.config import ConfigDict, recipes


def get_config() -> ConfigDict:
    """A teacher and a student of the same size."""
    return recipes.imagenet_student("b1")

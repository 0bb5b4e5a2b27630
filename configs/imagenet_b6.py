"""ImageNet, B6 taught by B6: the paper's student with a teacher of its size.

Command: ``noisy-student run --config=configs/imagenet_b6.py --workdir=W
--config.unlabeled=POOL``; ImageNet comes from TFDS or from your own files
(docs/recipes.md, also for an L2 teacher). Hardware: planned for 512 TPU v3 cores. Time:
12,000 core-hours at a tenth of their peak (``noisy-student plan`` with the same flags).
Accuracy to expect: we have not run it; the paper reports 85.6 / 97.6 % top-1 / top-5
(labels only 84.5 / 97.0; taught by an L2 86.4 / 97.9), with 300 million unlabeled
images that only its authors have.
"""

from noisy_student_jax.config import ConfigDict, recipes


def get_config() -> ConfigDict:
    """A teacher and a student of the same size."""
    return recipes.imagenet_student("b6")

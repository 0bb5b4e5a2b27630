"""ImageNet, B2 taught by B2: the paper's student with a teacher of its size.

Command: ``noisy-student run --config=configs/imagenet_b2.py --workdir=W
--config.unlabeled=POOL``; ImageNet comes from TFDS or from your own files
(docs/recipes.md, also for an L2 teacher). Hardware: planned for 512 TPU v3 cores. Time:
1,200 core-hours at a tenth of their peak (``noisy-student plan`` with the same flags).
Accuracy to expect: we have not run it; the paper reports 81.1 / 95.5 % top-1 / top-5
(labels only 80.0 / 94.9; taught by an L2 82.4 / 96.3), with 300 million unlabeled
images that only its authors have.
"""

from noisy_student_jax.config import ConfigDict, recipes


def get_config() -> ConfigDict:
    """A teacher and a student of the same size."""
    return recipes.imagenet_student("b2")

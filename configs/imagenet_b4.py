"""ImageNet, B4 taught by B4: the paper's student with a teacher of its size.

Command: ``noisy-student run --config=configs/imagenet_b4.py --workdir=W
--config.unlabeled=POOL``; ImageNet comes from TFDS or from your own files
(docs/recipes.md, also for an L2 teacher). Hardware: planned for 512 TPU v3 cores. Time:
5,400 core-hours at a tenth of their peak (``noisy-student plan`` with the same flags).
Accuracy to expect: we have not run it; the paper reports 84.4 / 97.0 % top-1 / top-5
(labels only 83.2 / 96.4; taught by an L2 85.3 / 97.5), with 300 million unlabeled
images that only its authors have.
"""

from noisy_student_jax.config import ConfigDict, recipes


def get_config() -> ConfigDict:
    """A teacher and a student of the same size."""
    return recipes.imagenet_student("b4")

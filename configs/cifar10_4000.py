"""CIFAR-10 with 4,000 labels and WRN-28-2, as semi-supervised methods are compared.

Command: ``noisy-student run --config=configs/cifar10_4000.py --workdir=W``, after
``tfds build cifar10``. Hardware: planned for one H100. Time: docs/recipes.md has the
hours at a tenth of its peak, which such small images will not reach (``noisy-student
plan --measure`` on your machine).
Accuracy to expect: we have not run it; docs/recipes.md has the published error rates of
other methods on as many labels, with the images that each draws, and what differs here.
"""

from noisy_student_jax.config import ConfigDict, recipes


def get_config() -> ConfigDict:
    """A teacher and two students, all WRN-28-2, and the control."""
    config = recipes.few_labels(
        labels_per_class=400, pool=41_000, validation=5_000, test=10_000
    )
    config.data.sources.update(labeled="tfds:cifar10:train", test="tfds:cifar10:test")
    # Statistics of the 50,000 training images.
    config.model.update(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    return config

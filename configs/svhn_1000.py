"""SVHN with 1,000 labels and WRN-28-2, as semi-supervised methods are compared.

Command: ``noisy-student run --config=configs/svhn_1000.py --workdir=W``, after ``tfds
build svhn_cropped``. Hardware: planned for one H100. Time: docs/recipes.md has the
hours at a tenth of its peak, which such small images will not reach (``noisy-student
plan --measure`` on your machine).
Accuracy to expect: we have not run it; docs/recipes.md has the published error rates of
other methods on as many labels, with the images that each draws, and what differs here.
"""

from noisy_student_jax.config import ConfigDict, recipes

TRAIN, VALIDATION, TEST = 73_257, 7_325, 26_032


def get_config() -> ConfigDict:
    """A teacher and two students, all WRN-28-2, and the control."""
    config = recipes.few_labels(
        labels_per_class=100,
        pool=TRAIN - VALIDATION - 1_000,
        validation=VALIDATION,
        test=TEST,
    )
    # The 531,131 images of ``extra`` are left out, as by Oliver et al.
    config.data.sources.update(
        labeled="tfds:svhn_cropped:train", test="tfds:svhn_cropped:test"
    )
    config.model.update(
        mean=(0.4376821, 0.4437697, 0.47280442),
        std=(0.19803012, 0.20101562, 0.19703614),
    )
    for stream in ("labeled", "pseudo"):
        # A mirrored 2 is not a 2.
        config.noise[stream].flip = False
    return config

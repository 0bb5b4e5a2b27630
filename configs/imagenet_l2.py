"""ImageNet, B7 → L2 → L2 → L2: the paper's best model.

Command: ``noisy-student run --config=configs/imagenet_l2.py --workdir=W
--config.unlabeled=POOL``; ImageNet comes from TFDS or from your own files
(docs/recipes.md). Hardware: the paper's 2,048 TPU v3 cores; the last student's 29
images a core are, by our estimate, slightly more than they hold. Time and accuracy
to expect: docs/recipes.md has the core-hours by ``noisy-student plan``, and the paper's
accuracy with 300 million unlabeled images that only its authors have. We have not run
it. The number of blocks that FixRes froze is not published: here it freezes the first
three stages.
"""

from noisy_student_jax.config import ConfigDict, recipes


def get_config() -> ConfigDict:
    """A B7, and three L2 students, each the next one's teacher."""
    config = recipes.imagenet()
    student = recipes.student("l2")
    student["model"].update(resolution=475)
    student["fixres"] = {"resolution": 800, "epochs": 1.5, "frozen_blocks": 28}
    # The pool is filtered once; later teachers relabel the selected records.
    later = {**student, "selection": {"relabel": True}}
    last = {**later, "train": {**student["train"], "ratio": 28.0}}
    config.generations = (recipes.student("b7"), student, later, last)
    config.plan.devices = 2048
    return config

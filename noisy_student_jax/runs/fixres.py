"""FixRes: a trained model is fine-tuned at the resolution that it will be used at.

Touvron et al., "Fixing the train-test resolution discrepancy" (2019), as the paper uses
it for its largest models: a short training on labeled images that are not augmented,
at the larger resolution, with the shallow layers frozen. How many is not published.

What the paper leaves open is as the hooks of the authors' code leave it (``main.py``,
``efficientnet_model.py``, ``utils.py``):

- ``remove_aug``: images are cropped as in evaluation and not flipped. It touches images
  only: dropout and stochastic depth stay on in the layers that are trained, as they are
  for labeled images in training.
- ``fix_layer_num``: the stem and so many blocks work as in inference, without
  stochastic depth and on their moving statistics, and do not decay.
- ``init_model_path``: raw weights start from the moving averages, and so do the new
  averages, whose ramp starts again; so do the optimizer's. (An average of the decay
  0.9999 that went on would hardly notice a thousand steps.)
- ``train_last_step_num``: the learning rate is that of the last steps of the schedule.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from noisy_student_jax.core.errors import UserError

if TYPE_CHECKING:
    from noisy_student_jax.runs.run import Student

STAGE = "fixres"
BEFORE = "before_fixres"
"""The folder of the bundle that is fine-tuned, which remains."""
NUMBERS_FROM = 1 << 17
"""Past the numbers of everything that is trained: other draws, other dropout."""

_NO_NOISE = {
    "randaugment_layers": 0,
    "flip": False,
    "crop_area": 0.0,
    "crop_padding": 0,
    "cutout_size": 0,
}


def fine_tuned(student: "Student") -> "Student | None":
    """Returns a student as it is fine-tuned after training; None if it is not."""
    options = student.config.fixres
    if student.trained or student.adopted or options.resolution is None:
        return None
    config = student.config.copy_and_resolve_references()
    config.model.resolution = options.resolution
    config.train.update(
        batch=options.batch or config.train.batch,
        ratio=0.0,
        steps=options.steps,
        epochs=options.epochs,
    )
    config.noise.labeled.update(_NO_NOISE)
    return dataclasses.replace(student, config=config, trained=student)


def schedule_start(student: "Student") -> int:
    """Returns the step of the training's schedule that the fine-tuning begins at.

    Its steps are counted in batches of the fine-tuning, so that an epoch stays one.
    """
    trained = student.trained
    epochs = trained.steps / trained.steps_per_epoch
    return round(epochs * student.steps_per_epoch) - student.steps


def check(student: "Student") -> None:
    """Looks for what a fine-tuning would stumble over.

    Raises:
      UserError: what is wrong with it, and what to do.
    """
    if student.config.train.part == "head":
        raise UserError(
            "config.fixres.resolution is given, but config.train.part is 'head', whose"
            " features are computed once: set fixres.resolution to none"
        )
    if not (student.config.train.steps or student.config.train.epochs):
        raise UserError(
            "config.fixres.resolution is given, so that fixres.steps or fixres.epochs"
            " has to be given"
        )
    if schedule_start(student) < 0:
        raise UserError(
            f"config.fixres asks for {student.steps} steps, more than the training"
            " itself has: they are to be the last of its schedule; give fewer"
        )
    try:
        student.trainee  # noqa: B018 - checks itself
    except UserError as error:
        raise UserError(
            f"config.fixres.frozen_blocks={student.config.fixres.frozen_blocks} cannot"
            f" be: {error} (none freezes nothing)"
        ) from None


def origin(student: "Student", sha256: str) -> dict[str, Any]:
    """Returns what a bundle says of its fine-tuning.

    Args:
      student: as it is fine-tuned.
      sha256: of the weights that it started from.
    """
    return {
        "resolution": student.resolution,
        "from": student.trained.resolution,
        "frozen_blocks": student.config.fixres.frozen_blocks,
        "steps": student.steps,
        "model": sha256,
    }

"""FixRes: fine-tunes a trained model at its test resolution.

Touvron et al., "Fixing the train-test resolution discrepancy" (2019), as the paper uses
it for its largest models: a short training on unaugmented labeled images at the larger
resolution, with the shallow layers frozen. The number of frozen layers is unpublished.

The remaining details follow the hooks in the authors' code (``main.py``,
``efficientnet_model.py``, ``utils.py``):

- ``remove_aug``: images are cropped as in evaluation and not flipped. Dropout and
  stochastic depth stay on in the trained layers, as for labeled images in training.
- ``fix_layer_num``: the stem and the first blocks run in inference mode, without
  stochastic depth and on their moving statistics, and are not decayed.
- ``init_model_path``: raw weights start from the moving averages, and so do the new
  averages, whose ramp starts again; the optimizer's averages start again as well. (An
  average with decay 0.9999 that continued would hardly move in a thousand steps.)
- ``train_last_step_num``: the learning rate follows the last steps of the schedule.
"""

from typing import Any

from noisy_student_jax.config import ConfigDict

STAGE = "fixres"
BEFORE = "before_fixres"
"""Folder of the bundle before fine-tuning, which is kept."""
NUMBERS_FROM = 1 << 17
"""First random-key number of fine-tunings, beyond those of all other models."""

_NO_NOISE = {
    "randaugment_layers": 0,
    "flip": False,
    "crop_area": 0.0,
    "crop_padding": 0,
    "cutout_size": 0,
    "zoom": 0.0,
    "turns": False,
}


def fine_tuning_config(config: ConfigDict) -> ConfigDict | None:
    """Returns the config sections of a generation's fine-tuning, or None without one.

    Args:
      config: the sections that the generation is trained with.
    """
    options = config.fixres
    if options.resolution is None:
        return None
    tuned = config.copy_and_resolve_references()
    tuned.model.resolution = options.resolution
    tuned.train.update(
        batch=options.batch or config.train.batch,
        ratio=0.0,
        steps=options.steps,
        epochs=options.epochs,
    )
    tuned.noise.labeled.update(_NO_NOISE)
    return tuned


def schedule_start(*, steps: int, steps_per_epoch: float, epochs: float) -> int:
    """Returns the step of the learning-rate schedule at which fine-tuning starts.

    Steps are counted in batches of the fine-tuning, which keeps the length of an epoch.

    Args:
      steps: steps of the fine-tuning.
      steps_per_epoch: steps per epoch of the fine-tuning.
      epochs: epochs of the training.
    """
    return round(epochs * steps_per_epoch) - steps


def origin(
    *,
    resolution: int,
    trained_at: int,
    frozen_blocks: int | None,
    steps: int,
    sha256: str,
) -> dict[str, Any]:
    """Returns the record of a fine-tuning in a bundle's origin.

    Args:
      resolution: resolution of the fine-tuning, in pixels.
      trained_at: resolution of the training, in pixels.
      frozen_blocks: the config's ``fixres.frozen_blocks``.
      steps: steps of the fine-tuning.
      sha256: SHA-256 of the initial weights.
    """
    return {
        "resolution": resolution,
        "from": trained_at,
        "frozen_blocks": frozen_blocks,
        "steps": steps,
        "model": sha256,
    }

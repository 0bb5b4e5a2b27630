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

from typing import Any

from noisy_student_jax.config import ConfigDict

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


def fine_tuning_config(config: ConfigDict) -> ConfigDict | None:
    """Returns a generation's sections as it is fine-tuned; None if it is not.

    Args:
      config: the sections that it is trained with.
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
    """Returns the step of the training's schedule that a fine-tuning begins at.

    Its steps are counted in batches of the fine-tuning, so that an epoch stays one.

    Args:
      steps: of the fine-tuning.
      steps_per_epoch: of the fine-tuning.
      epochs: of the training.
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
    """Returns what a bundle says of its fine-tuning.

    Args:
      resolution: that it was fine-tuned at.
      trained_at: resolution that it was trained at.
      frozen_blocks: as the config says.
      steps: of the fine-tuning.
      sha256: of the weights that it started from.
    """
    return {
        "resolution": resolution,
        "from": trained_at,
        "frozen_blocks": frozen_blocks,
        "steps": steps,
        "model": sha256,
    }

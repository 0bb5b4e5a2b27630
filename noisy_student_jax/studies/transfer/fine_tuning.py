"""Fine-tuning of whole models on a target, as ordinary runs that resume.

The learning rate is chosen by validation images, and the model then trained again with
these. Settings follow BiT (Kolesnikov et al. 2020) for small data: 500 steps of SGD, a
fifth of them to warm up, no weight decay and no mixup; the classifier starts at zero.
"""

import dataclasses
import pathlib

import numpy as np
from ml_collections import ConfigDict

from noisy_student_jax import config as configs
from noisy_student_jax.config import base_config
from noisy_student_jax.core import console, files, types
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.protocols import Source
from noisy_student_jax.data.sources import fingerprint
from noisy_student_jax.evaluation import resampling
from noisy_student_jax.generation import init_weights
from noisy_student_jax.generation.preconditions import check
from noisy_student_jax.runs import scheduler
from noisy_student_jax.runs.run import Generation, Run
from noisy_student_jax.self_training import noisy_student
from noisy_student_jax.studies.transfer.checkpoints import Checkpoint
from noisy_student_jax.studies.transfer.target import Target, learned_from

FOLDER = "fine_tuning"
RATES = (0.003, 0.01, 0.03)
"""Peak learning rates that are tried."""
HELD_OUT = 0.2
"""Share of the images by which one is chosen."""
STEPS = 500
BATCH = 64
_STAGES = {"data", "generation_0/train", "generation_0/evaluate"}
_PER = 256
"""Images of a batch that `train.learning_rate` is for."""


@dataclasses.dataclass(frozen=True)
class FineTuned:
    """A model that was fine-tuned on a target.

    Attributes:
      rate: the chosen learning rate.
      validation: accuracy on validation images by learning rate.
      right: bool ``[1, test images]``, whether each image's class was found.
    """

    rate: float
    validation: dict[float, float]
    right: np.ndarray


def fine_tune(
    one: Checkpoint,
    data: ConfigDict,
    target: Target,
    workdir: pathlib.Path,
    *,
    interruption: Interruption,
) -> FineTuned:
    """Fine-tunes a model with each learning rate, and with the best on all images.

    Args:
      one: the model.
      data: the target's `target.section`.
      target: the target.
      workdir: the folder of the study; the runs are below it.
      interruption: polled in each step.

    Raises:
      UserError: the model cannot be trained; or an earlier run in the same place had
        other settings.
      Interrupted: a stop was requested; the same command resumes.
    """
    folder = workdir / FOLDER / f"{one.name}_{_digest(one, target)}"
    images = len(target.train)

    def trained(name: str, rate: float, held_out: float) -> Generation:
        console.say(f"{one.name}: fine-tuning with learning rate {rate:g}, {name}")
        config = config_of(one, data, rate=rate, held_out=held_out, images=images)
        run = Run(config, folder / name, interruption=interruption)
        check(run)
        with run.locked():
            scheduler.perform(run, noisy_student(run), only=_STAGES)
        return run.student(0)

    validation = {}
    for rate in RATES:
        student = trained(f"rate_{rate:g}", rate, HELD_OUT)
        metrics = files.read_json(student.paths.evaluation)["splits"]["validation"]
        validation[rate] = metrics["ema"][student.run.task.primary_metric]
    best = max(RATES, key=lambda rate: validation[rate])
    student = trained("all", best, 0.0)
    return FineTuned(best, validation, _right(student, target.test))


def config_of(
    one: Checkpoint, data: ConfigDict, *, rate: float, held_out: float, images: int
) -> ConfigDict:
    """Returns the complete config of one fine-tuning.

    Noise inside a model is off, since it differs from model to model.

    Args:
      one: the model.
      data: see `fine_tune`.
      rate: the peak learning rate.
      held_out: share of the images that is held out.
      images: number of images to learn from.
    """
    config = base_config()
    config.data = data.copy_and_resolve_references()
    config.data.options.held_out = held_out
    # Code that a bundle names was trusted when it was read.
    config.model.name = one.bundle.architecture
    init_weights.copy_model(config, one.bundle, one.init)
    config.model.update(init=one.init, batch_norm_group=None)
    an_epoch = learned_from(images, held_out) / BATCH
    config.train.update(
        batch=BATCH,
        epochs=None,
        steps=STEPS,
        optimizer="sgd",
        momentum=0.9,
        learning_rate=rate * _PER / BATCH,
        schedule="cosine",
        warmup_epochs=STEPS / 5 / an_epoch,
        weight_decay=0.0,
        label_smoothing=0.0,
        ema_decay=0.9,
    )
    for stream in types.STREAMS:
        config.noise[stream].update(
            randaugment_layers=0,
            flip=False,
            crop_padding=one.bundle.preprocessing.resolution // 8,
            dropout=False,
            stochastic_depth=False,
        )
    config.evaluation.bootstrap = 1000
    config.checkpoint.update(every_steps=100, keep=1)
    config.control.enabled = False
    config.generations = ({},)
    config = configs.complete(config)
    configs.check(config)
    return config


def _digest(one: Checkpoint, target: Target) -> str:
    """Identifies a model and a target, so that others are trained elsewhere."""
    whole = {
        "architecture": one.bundle.architecture,
        "arguments": one.bundle.arguments,
        "weights": one.bundle.sha256,
        "train": fingerprint(target.train),
        "test": fingerprint(target.test),
    }
    return files.digest(whole)[:8]


def _right(student: Generation, test: Source) -> np.ndarray:
    """Returns whether each test image's class was found, bool ``[1, test images]``."""
    table = files.read_parquet(student.paths.predictions)
    keys = [test.key(index) for index in range(len(test))]
    found = table["primary"].combine_chunks()
    ordered = resampling.of_images(table["key"].to_pylist(), found, keys)
    return resampling.numbers(ordered)[None] > 0

"""RandAugment on the device, and whole epochs there without waiting for the host.

    python benchmarks/on_device.py
    python benchmarks/on_device.py --json --images=32:512,224:64 --model=efficientnet_tiny_s

Four kinds of cases, all on this machine's default backend:

- *RandAugment*: two operations and a mirror on made-up images, by what `auto` chooses
  here, against Pillow in one thread (whose images per second are per core), and the
  forms for images taken together, and for one after the other, against the plain one;
- *what a step's draws cost*: batches per second of the resident pipeline without any
  noise, many steps' draws being sent at once, against one step's at a time;
- *whole epochs*: steps per second of a small student as the training loop takes them,
  from the resident pipeline and with the metrics looked at one step late, against the
  limit: as many steps in one program (`lax.scan`), whose draws are all on the device.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pillow_randaugment
import side_by_side
from side_by_side import Work

from noisy_student_jax import models, tasks
from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.noise import (
    augment_batch,
    example_keys,
    split_positions,
    stream_key,
)
from noisy_student_jax.data import resident
from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.data.stream import Noise, Stream
from noisy_student_jax.layout import BatchLayout
from noisy_student_jax.models.initialize import initial_variables
from noisy_student_jax.preprocessing import Preprocessing
from noisy_student_jax.randaugment import IMAGENET_CONSTANTS, SVHN_CONSTANTS
from noisy_student_jax.tasks.base import LossOptions
from noisy_student_jax.training import optimizer as optimizers
from noisy_student_jax.training import partitioning
from noisy_student_jax.training.optimizer import OptimizerOptions
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import (
    StepOptions,
    jit_train_step,
    make_train_step,
)

CLASSES = 10

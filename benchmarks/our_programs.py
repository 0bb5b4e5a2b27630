"""The real training step and labeling program of a model, built without a run."""

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from noisy_student_jax import models
from noisy_student_jax.core import sharding
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.protocols import LossOptions
from noisy_student_jax.core.types import Batch, PyTree
from noisy_student_jax.data.labels import FIELDS, OBJECT
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.images.preprocessing import (
    CENTER_CROP,
    LETTERBOX,
    Preprocessing,
)
from noisy_student_jax.models.initialize import abstract_variables, initialize
from noisy_student_jax.tasks.classification import Classification
from noisy_student_jax.tasks.detection import settings
from noisy_student_jax.tasks.detection.task import Detection
from noisy_student_jax.training import optimizer as optimizers
from noisy_student_jax.training.compiled_step import StepProgram
from noisy_student_jax.training.optimizer import OptimizerOptions
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import Metrics, StepOptions, TrainStep


@dataclasses.dataclass(frozen=True)
class Ours:
    """A model with everything needed to train it and to label with it.

    Attributes:
      name: the model's name in ``models``.
      side: side of its images, in pixels.
      module: the model.
      task: its task, of type `TASK`.
      preprocessing: preprocessing at `side`, for images that already have that size.
    """

    name: str
    side: int
    module: nn.Module
    task: Any
    preprocessing: Preprocessing

    TASK: ClassVar[type] = Classification
    FRAMING: ClassVar[str] = CENTER_CROP

    @classmethod
    def make(
        cls, name: str, *, side: int = 0, classes: int = 1000, **arguments: Any
    ) -> "Ours":
        """Makes one; a `side` of 0 is the model's own, `arguments` are the model's."""
        side = side or models.resolution(name)
        mean, std = models.normalization(name)
        module = models.create(name, outputs=classes, **arguments)
        return cls(
            name,
            side,
            module,
            cls.TASK(tuple(map(str, range(classes)))),
            Preprocessing(
                side, crop_padding=0, mean=mean, std=std, framing=cls.FRAMING
            ),
        )

    @functools.cached_property
    def variables(self) -> PyTree:
        """Returns initial variables on the host."""
        return initialize(self.module, resolution=self.side, seed=0)

    def training(self, *, ratio: float = 0.0) -> tuple[TrainStep, TrainState]:
        """Returns the pure step of the paper's recipe, and a state to start from."""
        step, optimizer = self.step_and_optimizer(ratio=ratio)
        return step, self.state(self.variables, optimizer)

    def state(self, variables: PyTree, optimizer: Any) -> TrainState:
        """Returns a state to start from."""
        return TrainState.create(variables, optimizer, seed=0, generation=0)

    def step_and_optimizer(self, *, ratio: float = 0.0) -> tuple[TrainStep, Any]:
        """Returns the pure step of the paper's recipe, and its optimizer."""
        options = OptimizerOptions(
            optimizer="rmsprop",
            learning_rate=0.016,
            schedule="exponential",
            decay_epochs=2.4,
            decay_factor=0.97,
            warmup_epochs=5.0,
            momentum=0.9,
            weight_decay=1e-5,
        )
        schedule = optimizers.make_schedule(
            options, batch=256, steps=100_000, steps_per_epoch=5000
        )
        optimizer = optimizers.make_optimizer(options, schedule)
        step = TrainStep(
            self.module,
            functools.partial(self.task.loss, options=LossOptions(label_smoothing=0.1)),
            optimizer,
            schedule,
            StepOptions(ratio=ratio, weight_decay=options.weight_decay),
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
        )
        return step, optimizer

    def batch(self, layout: BatchLayout) -> Batch:
        """Returns a batch of synthetic images, on the host."""
        ones = np.ones(layout.total, np.float32)
        return {
            "image": self.images(layout.total),
            "target": self.task.targets(self.labels(layout.total)),
            "weight": ones,
            "stream": layout.stream(),
            "noise": {"dropout": ones, "stochastic_depth": ones},
        }

    def labels(self, count: int) -> np.ndarray:
        """Returns labels of synthetic images."""
        return np.random.default_rng(0).integers(0, self.task.outputs, count)

    def images(self, count: int) -> np.ndarray:
        """Returns synthetic images, uint8 ``[count, side, side, 3]``."""
        rng = np.random.default_rng(0)
        shape = (count, self.side, self.side, 3)
        return rng.integers(0, 256, shape, np.uint8)

    def predictor(self, batch: int) -> tuple[Predictor, PyTree]:
        """Returns the predictor that labels, and the variables on its devices."""
        predictor = Predictor(self.task, self.module, self.preprocessing, batch=batch)
        return predictor, predictor.place(self.variables)


@dataclasses.dataclass(frozen=True)
class OurDetector(Ours):
    """A detector, trained as ``configs/boxes.py`` trains on labeled images."""

    TASK: ClassVar[type] = Detection
    FRAMING: ClassVar[str] = LETTERBOX
    PLACES: ClassVar[int] = 60
    """Boxes that an image of a batch may have."""
    BOXES: ClassVar[int] = 20
    """Boxes that an image has: as many as one of blood cells."""

    @classmethod
    def make(cls, name: str, **arguments: Any) -> "Ours":
        """See `Ours.make`."""
        noise = {"batch_norm_momentum": 0.9, "dropout_rate": 0.2}
        return super().make(name, **noise, **arguments)

    def step_and_optimizer(self, *, ratio: float = 0.0) -> tuple[TrainStep, Any]:
        """Returns the pure step of ``configs/boxes.py``, and its optimizer."""
        options = OptimizerOptions(
            optimizer="adamw",
            learning_rate=settings.RATE,
            schedule="cosine",
            decay_epochs=1.0,
            decay_factor=1.0,
            warmup_epochs=2.0,
            momentum=0.9,
            weight_decay=0.01,
        )
        schedule = optimizers.make_schedule(
            options, batch=256, steps=500, steps_per_epoch=4
        )
        frozen = self.module.frozen
        optimizer = optimizers.make_optimizer(options, schedule, frozen=frozen)
        step = TrainStep(
            self.module,
            functools.partial(self.task.loss, options=LossOptions(targets="hard")),
            optimizer,
            schedule,
            StepOptions(
                ratio=ratio, loss_normalization="sum", ema_decay=0.99, frozen=frozen
            ),
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
        )
        return step, optimizer

    def labels(self, count: int, boxes: int = BOXES) -> np.ndarray:
        """Returns labels of synthetic images, with `boxes` in each."""
        rng = np.random.default_rng(0)
        labels = np.zeros((count, self.PLACES, FIELDS), np.float32)
        side = rng.uniform(0.05, 0.4, (count, boxes, 2))
        corner = rng.uniform(0, 1 - side)
        labels[:, :boxes, :4] = np.concatenate([corner, corner + side], -1)
        labels[:, :boxes, 4] = rng.integers(0, self.task.outputs, (count, boxes))
        labels[:, :boxes, 5] = OBJECT
        return labels


@dataclasses.dataclass(frozen=True)
class OurResidual(Ours):
    """A residual network, trained as ``configs/cifar10_4000.py`` trains on labels."""

    RATE: ClassVar[float] = 0.01
    MOMENTUM: ClassVar[float] = 0.9
    DECAY: ClassVar[float] = 5e-4
    LEARNED: ClassVar[int] = 10
    """Classes that there are images of, each with a coarse pattern of its own."""

    def step_and_optimizer(self, *, ratio: float = 0.0) -> tuple[TrainStep, Any]:
        """Returns a step of SGD at a constant rate, and its optimizer."""
        options = OptimizerOptions(
            optimizer="sgd",
            learning_rate=self.RATE,
            schedule="constant",
            decay_epochs=1.0,
            decay_factor=1.0,
            warmup_epochs=0.0,
            momentum=self.MOMENTUM,
            weight_decay=self.DECAY,
        )
        schedule = optimizers.make_schedule(
            options, batch=256, steps=1000, steps_per_epoch=100
        )
        optimizer = optimizers.make_optimizer(options, schedule)
        step = TrainStep(
            self.module,
            functools.partial(self.task.loss, options=LossOptions(label_smoothing=0.0)),
            optimizer,
            schedule,
            StepOptions(ratio=ratio, weight_decay=self.DECAY, ema_decay=0.999),
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
        )
        return step, optimizer

    def batch(self, layout: BatchLayout, number: int = 0) -> Batch:
        """Returns one of many batches of synthetic images, on the host."""
        labels = self.labels(layout.total, number)
        images = self.images(layout.total, number)
        return {
            **super().batch(layout),
            "image": images,
            "target": self.task.targets(labels),
        }

    def labels(self, count: int, number: int = 0) -> np.ndarray:
        """Returns labels of a batch of synthetic images."""
        classes = min(self.LEARNED, self.task.outputs)
        return np.random.default_rng(number).integers(0, classes, count)

    def images(self, count: int, number: int = 0) -> np.ndarray:
        """Returns a batch of synthetic images, uint8 ``[count, side, side, 3]``."""
        patterns = np.random.default_rng(0).normal(0, 40, (self.LEARNED, 4, 4, 3))
        part = -(-self.side // 4)
        seen = patterns[self.labels(count, number)].repeat(part, 1).repeat(part, 2)
        noise = np.random.default_rng([1, number]).normal(128, 40, seen.shape)
        bytes_ = np.clip(seen + noise, 0, 255).astype(np.uint8)
        return bytes_[:, : self.side, : self.side]


class TrainingWork:
    """A work that is one training step, set up as in a run.

    Its programs are compiled, or found, while the state is initialized.
    """

    def __init__(self, ours: Ours, batch: int):
        self._mesh = sharding.make_mesh()
        step, optimizer = ours.step_and_optimizer()
        shapes = abstract_variables(ours.module, resolution=ours.side)
        given = ours.batch(BatchLayout(batch, 0))
        self._program = StepProgram(
            step,
            self._mesh,
            state=jax.eval_shape(lambda v: ours.state(v, optimizer), shapes),
            batch=given,
        )
        state = ours.state(ours.variables, optimizer)
        self._state = jax.device_put(state, self._program.held)
        self._placed, self._count = self.placed(given), batch

    def __call__(self) -> int:
        """Does a step; returns its images."""
        self.step(self._placed)
        return self._count

    def placed(self, batch: Batch) -> Batch:
        """Returns a batch of the first one's shapes on the devices."""
        return sharding.put_batch(batch, self._mesh)

    def step(self, batch: Batch) -> Metrics:
        """Does a step on a batch of `placed`."""
        self._state, metrics = self._program(self._state, batch)
        wait(metrics)
        return metrics


def wait(tree: PyTree) -> None:
    """Waits until all arrays are computed."""
    jax.block_until_ready(tree)

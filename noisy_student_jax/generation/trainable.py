"""The trainable part of a model: the whole model, or its head alone.

The whole model reads images. The head alone (``train.part=head``) reads the features of
the frozen backbone, computed once. Features are treated as images of one pixel, so that
training, validation, labeling and evaluation run the same code for both.
"""

import dataclasses
import functools
import pathlib

import flax.linen as nn
import numpy as np

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Preprocessor, Source
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.features.source import (
    FeatureSource,
    Joined,
    MeanOfViews,
    OnePixel,
)
from noisy_student_jax.features.store import FOLDER, Backbone, FeatureStore
from noisy_student_jax.generation import init_weights
from noisy_student_jax.models import concatenated
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.models.initialize import abstract_outputs, abstract_variables
from noisy_student_jax.runs.paths import PREPARED
from noisy_student_jax.runs.run import Generation
from noisy_student_jax.runs.spec import ModelSpec

NOT_OF_FEATURES = ("outputs", "dropout_rate", "members", "mean", "std", "views")
"""Arguments of models that the features of their networks do not depend on."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The whole of a student's model, as the trainable part.

    Attributes:
      student: the student.
      module: the Flax module, from the records of `source` to the model's outputs.
      preprocessing: preprocessing of the records of `source`.
    """

    student: Generation
    module: nn.Module
    preprocessing: Preprocessor

    def source(
        self, source: Source, name: str, *, bundle: Bundle | None = None
    ) -> Source:
        """Returns a source of the records as this part reads them.

        Args:
          source: source of images.
          name: name of their part of the dataset.
          bundle: the trained model; None for the model as the config describes it.
        """
        del name, bundle
        return source

    def synthetic(self, count: int) -> np.ndarray:
        """Returns `count` synthetic records to measure the speed of this part."""
        return synthetic_images(count, self.student.spec.model.resolution)

    def initial(self) -> PyTree:
        """Returns the initial variables of this part, on the host."""
        return init_weights.initial_variables(self.student)

    def of(self, variables: PyTree) -> PyTree:
        """Returns this part's variables out of the whole model's."""
        return variables

    def whole(self, variables: PyTree) -> PyTree:
        """Returns the whole model's variables, given those of this part."""
        return variables


def part(student: Generation) -> Part:
    """Returns the part of a student's model that is trained.

    Raises:
      UserError: only the head is trained, and the student has no weights to start from
        or its model no separate head.
    """
    spec = student.spec
    if spec.config.train.part == "all" or spec.adopted:
        return Part(student, spec.model.module, spec.model.preprocessing)
    return HeadOnFeatures(student, head(student), OnePixel(width(student)))


def synthetic_images(count: int, side: int) -> np.ndarray:
    """Returns random images, uint8 ``[count, side, side, 3]``."""
    shape = (count, side, side, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def width(student: Generation) -> int:
    """Returns the number of channels of the features that a model's head reads."""
    return channels(student.spec.model.module, student.spec.model.resolution)


def channels(module: nn.Module, side: int) -> int:
    """Returns the number of channels of a module's features, from images of a size."""
    return abstract_outputs(module, resolution=side)["pooled"].shape[-1]


def backbones(
    model: ModelSpec, variables: PyTree, *, head: tuple[str, ...]
) -> tuple[Backbone, ...]:
    """Returns the networks of a model, whose features other models share.

    Args:
      model: the model.
      variables: its variables, with or without those of its head.
      head: names of the head's parameters.
    """
    alone = model.in_views(1)
    used = {
        name: value
        for name, value in alone.arguments.items()
        if name not in NOT_OF_FEATURES
    }
    return tuple(
        Backbone(
            one.module,
            one.variables,
            one.preprocessing,
            channels(one.module, one.preprocessing.resolution),
            {"model": one.described, "arguments": used},
            head=head,
        )
        for one in concatenated.backbones(
            alone.name, alone.module, variables, alone.preprocessing
        )
    )


def head(student: Generation) -> nn.Module:
    """Returns the head of a student's model, if it can be trained alone.

    Raises:
      UserError: see `part`.
    """
    model = student.spec.config.model
    found = getattr(student.spec.model.module, "head", None)
    if found is None:
        raise UserError(
            f"config.train.part is 'head', but model '{model.name}' has no head that"
            " can be trained alone (an attribute 'head', a module that reads its"
            " 'pooled'): set train.part to 'all'"
        )
    if not init_weights.is_given(student):
        raise UserError(
            "config.train.part is 'head', which leaves the rest unchanged, but"
            f" config.model.init='{model.init}' gives {student.spec.name} no weights to"
            " start from: give a bundle, or 'pretrained'"
        )
    return found


def predictor(trained: Part, *, batch: int) -> Predictor:
    """Returns a predictor for the trainable part of a student's model."""
    run = trained.student.run
    return Predictor(
        run.task,
        trained.module,
        trained.preprocessing,
        batch=batch,
        ahead=run.config.data.prefetch,
    )


class HeadOnFeatures(Part):
    """The head of a student's model, on features of its frozen backbone."""

    preprocessing: OnePixel

    def source(
        self, source: Source, name: str, *, bundle: Bundle | None = None
    ) -> FeatureSource:
        """See `Part`; features are averaged over views, and missing ones computed."""
        asked = self.student.spec.model.views
        seen = self.views(source, name, asked if bundle is None else bundle.views)
        return seen[0] if len(seen) == 1 else MeanOfViews(seen)

    def views(self, source: Source, name: str, count: int) -> list[FeatureSource]:
        """Returns the features of a source in its first views; see `source`."""
        return [self._view(source, name, number) for number in range(count)]

    def _view(self, source: Source, name: str, view: int) -> FeatureSource:
        run = self.student.run
        cache = run.config.data.cache or run.workdir / PREPARED
        store = FeatureStore(
            pathlib.Path(cache).expanduser() / FOLDER,
            run.interruption,
            run.progress,
            batch=run.config.labels.batch,
            ahead=run.config.data.prefetch,
        )
        found = [store.source(one, source, name, view=view) for one in self._backbones]
        return found[0] if len(found) == 1 else Joined(found)

    def synthetic(self, count: int) -> np.ndarray:
        """See `Part`."""
        return np.ones((count, 1, 1, self.preprocessing.channels), np.float32)

    def initial(self) -> PyTree:
        """See `Part`."""
        return self.of(init_weights.initial_variables(self.student))

    def of(self, variables: PyTree) -> PyTree:
        """See `Part`."""
        params = {name: variables["params"][name] for name in self.shapes}
        return {"params": params, "batch_stats": {}}

    def whole(self, variables: PyTree) -> PyTree:
        """See `Part`."""
        start = self._bundle.variables
        return {**start, "params": {**start["params"], **variables["params"]}}

    @functools.cached_property
    def shapes(self) -> PyTree:
        """Shapes of the head's parameters."""
        channels = self.preprocessing.channels
        own = abstract_variables(self.module, resolution=1, channels=channels)
        return own["params"]

    @functools.cached_property
    def _backbones(self) -> tuple[Backbone, ...]:
        """The networks of the model, whose features other models share."""
        return backbones(
            self.student.spec.model,
            init_weights.initial_variables(self.student),
            head=tuple(self.shapes),
        )

    @functools.cached_property
    def _bundle(self) -> Bundle:
        bundle = init_weights.given(self.student)
        assert bundle is not None, "`head` refuses a model without given weights"
        return bundle

"""The trainable part of a model: the whole model, or its head alone.

The whole model reads images. The head alone (``train.part=head``) reads the features of
the frozen backbone, computed once. Features are treated as images of one pixel, so that
training, validation, labeling and evaluation run the same code for both.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from noisy_student_jax.core import console, files, random_keys
from noisy_student_jax.core.errors import DamagedFileError, UserError
from noisy_student_jax.core.protocols import Examples, Preprocessor, Resize, Source
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.data.sources import fingerprint, known_labels
from noisy_student_jax.evaluation.predictor import Predictor, predict_batches
from noisy_student_jax.generation import init_weights
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.models.initialize import abstract_variables
from noisy_student_jax.runs.run import Generation, Run

FEATURES = "features"
"""Folder of a run's features, which can be computed again."""
AT_ONCE = 2048
"""Records per feature file."""


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

    def source(self, source: Source, name: str) -> Source:
        """Returns a source of the records as this part reads them.

        Args:
          source: source of images.
          name: name of their part of the dataset.
        """
        del name
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
    module, side = student.spec.model.module, student.spec.model.resolution
    outputs = jax.eval_shape(
        lambda images: module.init_with_output(random_keys.key(0), images)[0],
        jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
    )
    return outputs["pooled"].shape[-1]


def head(student: Generation) -> nn.Module:
    """Returns the head of a student's model, if it can be trained alone.

    Raises:
      UserError: see `part`.
    """
    model = student.spec.config.model
    if not init_weights.is_given(student):
        raise UserError(
            "config.train.part is 'head', which leaves the rest unchanged, but"
            f" config.model.init='{model.init}' gives {student.spec.name} no weights to"
            " start from: give a bundle, or 'pretrained'"
        )
    found = getattr(student.spec.model.module, "head", None)
    if found is None:
        raise UserError(
            f"config.train.part is 'head', but model '{model.name}' has no head of its"
            " own: it needs an attribute 'head', a module that reads its 'pooled'"
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


@dataclasses.dataclass(frozen=True)
class OnePixel:
    """The preprocessing of features, which leaves them unchanged. See `Preprocessing`.

    Attributes:
      channels: number of channels of the features.
      resolution: height and width of a feature image: 1.
      mean: see `Preprocessing`.
      std: see `Preprocessing`.
    """

    channels: int
    resolution: int = 1
    mean: tuple[float, ...] = (0.0,)
    # On the 0–255 scale this is 1: normalization leaves features unchanged.
    std: tuple[float, ...] = (1 / 255,)
    dtype = np.float32

    def apply_all(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """See `Preprocessing`."""
        return np.stack(list(images))

    apply_all_to_train_on = apply_all

    def blank(self) -> np.ndarray:
        """See `Preprocessing`."""
        return np.zeros((1, 1, self.channels), np.float32)

    def apply_crop(
        self,
        image: np.ndarray,
        box: tuple[int, int, int, int],
        *,
        bicubic: Resize | None = None,
    ) -> np.ndarray:
        """See `Preprocessing`."""
        del box, bicubic
        return image


class HeadOnFeatures(Part):
    """The head of a student's model, on features of its frozen backbone."""

    preprocessing: OnePixel

    def source(self, source: Source, name: str) -> "FeatureSource":
        """See `Part`; missing features are computed and stored."""
        run, model = self.student.run, self.student.spec.model
        made_by = {
            "model": model.name,
            "arguments": {
                name: value
                for name, value in model.arguments.items()
                if name not in ("outputs", "dropout_rate")
            },
            "weights": self._bundle.sha256,
            "preprocessing": dataclasses.asdict(model.preprocessing),
        }
        folder = run.workdir / FEATURES / files.digest(made_by)[:16]
        folder /= f"{name}-{fingerprint(source)[:16]}"
        predictor = Predictor(
            _POOLED,
            model.module,
            model.preprocessing,
            batch=run.config.labels.batch,
            ahead=run.config.data.prefetch,
        )
        placed = predictor.place(init_weights.initial_variables(self.student))
        features, status, channels = [], [], self.preprocessing.channels
        for number, start in enumerate(range(0, len(source), AT_ONCE)):
            run.interruption.check()
            path = folder / f"{number:06d}.npz"
            stop = min(start + AT_ONCE, len(source))
            stored = _stored(path, stop - start, channels)
            if stored is None:
                run.progress.start(len(source), f"{name} images", at=start)
                records = range(start, stop)
                _compute(predictor, placed, source, records, run, path, channels)
                stored = files.read_arrays(path)
            features.append(stored["features"])
            status += stored["status"].tolist()
        return FeatureSource(source, np.concatenate(features), status)

    def synthetic(self, count: int) -> np.ndarray:
        """See `Part`."""
        return np.ones((count, 1, 1, self.preprocessing.channels), np.float32)

    def initial(self) -> PyTree:
        """See `Part`."""
        return self.of(init_weights.initial_variables(self.student))

    def of(self, variables: PyTree) -> PyTree:
        """See `Part`."""
        channels = self.preprocessing.channels
        own = abstract_variables(self.module, resolution=1, channels=channels)
        params = {name: variables["params"][name] for name in own["params"]}
        return {"params": params, "batch_stats": {}}

    def whole(self, variables: PyTree) -> PyTree:
        """See `Part`."""
        start = self._bundle.variables
        return {**start, "params": {**start["params"], **variables["params"]}}

    @functools.cached_property
    def _bundle(self) -> Bundle:
        bundle = init_weights.given(self.student)
        assert bundle is not None, "`head` refuses a model without given weights"
        return bundle


def _stored(
    path: pathlib.Path, count: int, channels: int
) -> dict[str, np.ndarray] | None:
    """Returns stored features; None if there are none, or only damaged ones."""
    if not files.is_file(path):
        return None
    try:
        stored = files.read_arrays(path)
    except DamagedFileError as error:
        why = files.reason(error)
    else:
        shapes = {name: array.shape for name, array in stored.items()}
        if shapes == {"features": (count, channels), "status": (count,)}:
            return stored
        why = "it holds other arrays"
    console.warn(f"'{path}' is damaged ({why}): its features are computed again")
    return None


class FeatureSource:
    """A source whose images are features ``[1, 1, channels]``, float32."""

    def __init__(self, source: Source, features: np.ndarray, status: list[str]):
        """Wraps a source of images with the features of each record.

        Args:
          source: source of images.
          features: float32 ``[records, channels]``.
          status: ``ok``, or why a record has no features.
        """
        self._source, self._features = source, features
        self.key, self.status = source.key, status
        self.labels = known_labels(source)
        self.bytes_per_record = features.shape[1] * features.itemsize

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Iterable[int]) -> Examples:
        """See `Source`."""
        indices = list(indices)
        status = [self.status[index] for index in indices]
        images = [
            self._features[index][None, None] if why == "ok" else None
            for index, why in zip(indices, status, strict=True)
        ]
        labels = None if self.labels is None else self.labels[np.asarray(indices, int)]
        return Examples(images, status, labels)


class _Pooled:
    """A task whose predictions are the features that the head reads."""

    def predict(self, outputs: PyTree) -> dict[str, jax.Array]:
        return {"features": outputs["pooled"]}


_POOLED = _Pooled()
"""The only instance, so that all predictors share one program."""


def _compute(
    predictor: Predictor,
    backbone: PyTree,
    source: Source,
    records: range,
    run: Run,
    path: pathlib.Path,
    channels: int,
) -> None:
    """Computes the features of a range of records and writes them to a file."""
    status, parts = [], []
    batches = [
        range(start, min(start + predictor.batch, records.stop))
        for start in range(records.start, records.stop, predictor.batch)
    ]
    for found, predictions in predict_batches(
        predictor,
        {"backbone": backbone},
        source,
        batches,
        before=lambda start: run.interruption.check(),
    ):
        status += found.status
        own = predictions["backbone"]["features"] if predictions else None
        parts.append((found.good, own))
        run.progress.update(found.indices.stop)
    features = np.zeros((len(status), channels), np.float32)
    features[np.concatenate([good for good, _ in parts])] = np.concatenate(
        [own for _, own in parts if own is not None] or [features[:0]]
    )
    files.write_arrays(path, features=features, status=np.array(status))

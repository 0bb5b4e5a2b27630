"""Which part of a model is trained, and how images reach it.

The whole model reads images. A head alone (``train.part=head``) reads what the frozen
body makes of them, computed once: its features are images of one pixel to everything
that follows, so that training, validation, labeling and evaluation are the same.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from noisy_student_jax.core import files, random_keys
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Examples, Preprocessor, Resize, Source
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.data.sources import fingerprint, known_labels
from noisy_student_jax.evaluation.predictor import Predictor, predict_batches
from noisy_student_jax.generation import init_weights
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.models.initialize import abstract_variables
from noisy_student_jax.runs.run import Generation, Run

FEATURES = "features"
"""The folder of a run's features; what is in it can be computed again."""
AT_ONCE = 2048
"""Records whose features are kept in one file."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The whole of a student's model.

    Attributes:
      student: whose model it is a part of.
      module: takes what `source` gives, and gives the model's outputs.
      preprocessing: of what `source` gives.
    """

    student: Generation
    module: nn.Module
    preprocessing: Preprocessor

    def source(self, source: Source, name: str) -> Source:
        """Returns the records as this part reads them.

        Args:
          source: of images.
          name: of the part of the data that they are.
        """
        del name
        return source

    def made_up(self, count: int) -> np.ndarray:
        """Makes up `count` records, as it reads them, to measure its speed with."""
        return made_up_images(count, self.student.spec.model.resolution)

    def initial(self) -> PyTree:
        """Returns what its training starts from, on the host."""
        return init_weights.initial_variables(self.student)

    def of(self, variables: PyTree) -> PyTree:
        """Returns its share of the whole model's variables."""
        return variables

    def whole(self, variables: PyTree) -> PyTree:
        """Returns the whole model's variables, with these as its share."""
        return variables


def part(student: Generation) -> Part:
    """Returns the part of a student's model that is trained.

    Raises:
      UserError: the student has no frozen body, or its model no head of its own.
    """
    spec = student.spec
    if spec.config.train.part == "all" or spec.adopted:
        return Part(student, spec.model.module, spec.model.preprocessing)
    return HeadOnFeatures(student, head(student), OnePixel(width(student)))


def made_up_images(count: int, side: int) -> np.ndarray:
    """Makes images up: uint8 ``[count, side, side, 3]``."""
    shape = (count, side, side, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def width(student: Generation) -> int:
    """Returns the channels of what the head of a student's model reads."""
    module, side = student.spec.model.module, student.spec.model.resolution
    outputs = jax.eval_shape(
        lambda images: module.init_with_output(random_keys.key(0), images)[0],
        jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
    )
    return outputs["pooled"].shape[-1]


def head(student: Generation) -> nn.Module:
    """Returns the head of a student's model, after looking whether it can be trained.

    Raises:
      UserError: see `part`.
    """
    model = student.spec.config.model
    if not init_weights.is_given(student):
        raise UserError(
            "config.train.part is 'head', which leaves the rest as it is, but"
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
    """Returns what predicts with a part of a student's model."""
    run = trained.student.run
    return Predictor(
        run.task,
        trained.module,
        trained.preprocessing,
        batch=batch,
        ahead=run.config.data.prefetch,
        in_pieces=run.config.evaluation.in_pieces,
    )


@dataclasses.dataclass(frozen=True)
class OnePixel:
    """The preprocessing of features: none. See `Preprocessing`.

    Attributes:
      channels: of the features.
      resolution: of an image of features.
      mean: as `Preprocessing` has it.
      std: as `Preprocessing` has it.
    """

    channels: int
    resolution: int = 1
    mean: tuple[float, ...] = (0.0,)
    # Of 255, so that normalizing leaves features as they are.
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
        """See `Part`; features that are not there yet are computed, and kept."""
        run, model = self.student.run, self.student.spec.model
        made_by = {
            "model": model.name,
            "arguments": {
                name: value
                for name, value in model.arguments.items()
                if name not in ("outputs", "dropout_rate")
            },
            "weights": self._body.sha256,
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
            in_pieces=run.config.evaluation.in_pieces,
        )
        placed = predictor.place(init_weights.initial_variables(self.student))
        features, status = [], []
        for number, start in enumerate(range(0, len(source), AT_ONCE)):
            run.interruption.check()
            path = folder / f"{number:06d}.npz"
            if not files.is_file(path):
                run.progress.start(len(source), f"{name} images", at=start)
                stop = min(start + AT_ONCE, len(source))
                records = range(start, stop)
                channels = self.preprocessing.channels
                _compute(predictor, placed, source, records, run, path, channels)
            stored = files.read_arrays(path)
            features.append(stored["features"])
            status += stored["status"].tolist()
        return FeatureSource(source, np.concatenate(features), status)

    def made_up(self, count: int) -> np.ndarray:
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
        body = self._body.variables
        return {**body, "params": {**body["params"], **variables["params"]}}

    @functools.cached_property
    def _body(self) -> Bundle:
        bundle = init_weights.given(self.student)
        assert bundle is not None, "`head` refuses a model without given weights"
        return bundle


class FeatureSource:
    """A source whose images are features ``[1, 1, channels]``, float32."""

    def __init__(self, source: Source, features: np.ndarray, status: list[str]):
        """Takes the source of images, and what was computed of each."""
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
    """Stands for a task: what the classifier reads is what is predicted."""

    def predict(self, outputs: PyTree) -> dict[str, jax.Array]:
        return {"features": outputs["pooled"]}


_POOLED = _Pooled()
"""One for all, so that all predict with one program."""


def _compute(
    predictor: Predictor,
    body: PyTree,
    source: Source,
    records: range,
    run: Run,
    path: pathlib.Path,
    channels: int,
) -> None:
    """Computes the features of some records and writes them."""
    status, parts = [], []
    batches = [
        range(start, min(start + predictor.batch, records.stop))
        for start in range(records.start, records.stop, predictor.batch)
    ]
    for found, predictions in predict_batches(
        predictor,
        {"body": body},
        source,
        batches,
        before=lambda start: run.interruption.check(),
    ):
        status += found.status
        own = predictions["body"]["features"] if predictions else None
        parts.append((found.good, own))
        run.progress.update(found.indices.stop)
    features = np.zeros((len(status), channels), np.float32)
    features[np.concatenate([good for good, _ in parts])] = np.concatenate(
        [own for _, own in parts if own is not None] or [features[:0]]
    )
    files.write_arrays(path, features=features, status=np.array(status))

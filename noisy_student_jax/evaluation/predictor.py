"""Batched inference without noise, on this host's devices.

Reading, computation and post-processing overlap: while the devices compute a batch,
the host reads the next one and processes the previous one. On a CPU a batch is split
into pieces small enough for its caches, one per core at a time.
"""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Protocol

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from noisy_student_jax import models
from noisy_student_jax.core import sharding
from noisy_student_jax.core.prefetch import Prefetcher
from noisy_student_jax.core.protocols import Arrays, Preprocessor, Source, Task
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.core.unusable import refuse
from noisy_student_jax.data.encoded import Reader, preprocesses
from noisy_student_jax.data.sources import known_labels
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import cost, onnx_backbone, views
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.models.views import Seen
from noisy_student_jax.training.step import normalize

PIECE = 3e9
"""FLOPs per CPU call: enough to amortize dispatch, few enough that activations stay in
cache."""

WORTHWHILE = 64
"""Factor by which a call may fall short of `PIECE` to occupy idle cores."""

PROGRAMS = 2 * len(models.MEMBERS) * views.MOST
"""Programs that are kept: each backbone in each view is one, and has a turn with every
part of a dataset."""


class Predicts(Protocol):
    """The part of a task that a predictor needs."""

    def predict(self, outputs: PyTree) -> dict[str, jax.Array]:
        """See `Task`."""


class Predictor:
    """Applies a model in evaluation mode: no dropout, no stochastic depth.

    Examples are sharded over this host's devices and processed independently. The
    program has no collectives, so hosts need not run in step.
    """

    def __init__(
        self,
        task: Predicts,
        module: nn.Module | Seen,
        preprocessing: Preprocessor,
        *,
        batch: int = 256,
        ahead: int = 1,
        devices: list[jax.Device] | None = None,
    ):
        """Compiles nothing yet.

        Args:
          task: turns the model's outputs into predictions.
          module: the model.
          preprocessing: preprocessing of the images.
          batch: images per batch, rounded up to a multiple of the devices.
          ahead: number of batches that are read, and number that are dispatched, before
            the results of the previous one are fetched; 0 for no overlap.
          devices: devices to use; None for all of this host's.
        """
        self.preprocessing, self.ahead = preprocessing, ahead
        self.outside: tuple[str, ...] = getattr(module, "outside", ())
        self._views = views.numbers(module)
        self.mesh = sharding.make_mesh(devices or jax.local_devices())
        self.batch = -(-batch // self.mesh.size) * self.mesh.size
        self.piece = 0
        self._waiting: set[Future] = set()
        what = task, module, preprocessing.mean, preprocessing.std, self.mesh
        try:
            # A module has a hash, which Flax's dataclass transform hides.
            self.apply = _shared_program(*what)  # type: ignore[arg-type]
        except TypeError:
            # A user's task or model may be unhashable.
            self.apply = _program(*what)

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, task: Task, *, batch: int = 256, ahead: int = 1
    ) -> "Predictor":
        """Creates a predictor for a bundle's model, to call with its variables."""
        module = models.create(bundle.architecture, **bundle.arguments)
        return cls(task, module, bundle.preprocessing, batch=batch, ahead=ahead)

    def place(self, variables: PyTree) -> PyTree:
        """Replicates variables over the devices, for use in many calls."""
        return jax.device_put(variables, sharding.replicated(self.mesh))

    def __call__(
        self,
        variables: PyTree,
        images: np.ndarray,
        *,
        after_batch: Callable[[int], None] = lambda done: None,
    ) -> Arrays:
        """Predicts preprocessed images.

        Args:
          variables: ``{"params", "batch_stats"}``.
          images: uint8 or float32 ``[images, side, side, 3]``, preprocessed.
          after_batch: called after each batch with the number of images done.

        Returns:
          The task's predictions as NumPy arrays ``[images, …]``.
        """
        whole = range(0, len(images), self.batch)

        def start(number: int) -> Callable[[], Arrays]:
            return self.start(variables, images[whole[number] :][: self.batch])

        begun = Prefetcher(start, ahead=self.ahead, stop=len(whole))
        parts = []
        with self.abandoning():
            for number, at in enumerate(whole):
                parts.append(begun(number)())
                after_batch(min(at + self.batch, len(images)))
        return {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }

    def start(self, variables: PyTree, images: np.ndarray) -> Callable[[], Arrays]:
        """Dispatches the prediction of at most `batch` images.

        Returns:
          A function that waits for the predictions and returns them.
        """
        count = len(images)
        parts: list[Callable[[], Arrays]] = []
        # All calls of a predictor have images of the same shape.
        compiled = bool(self.piece)
        self.piece = self.piece or self._piece(variables, images)
        filled = _filled_up(images, to=self.piece)
        for at in range(0, len(filled), self.piece):
            one = filled[at : at + self.piece]
            if self.piece == self.batch or not (compiled or parts):
                # The calling thread runs the first piece: threads would compile twice.
                parts.append(self._start(variables, one))
                continue
            part = _cores().submit(lambda piece: self._start(variables, piece)(), one)
            self._waiting.add(part)
            part.add_done_callback(self._waiting.discard)
            parts.append(part.result)

        # The closure must not hold the images until the results are fetched.
        def fetch() -> Arrays:
            fetched = [part() for part in parts]
            return {
                name: np.concatenate([part[name] for part in fetched])[:count]
                for name in fetched[0]
            }

        return fetch

    @contextlib.contextmanager
    def abandoning(self) -> Iterator[None]:
        """Cancels pending pieces on exit, such as after an interruption."""
        try:
            yield
        finally:
            for part in list(self._waiting):
                part.cancel()

    def _piece(self, variables: PyTree, images: np.ndarray) -> int:
        """Returns the number of images per program call: on a CPU, a few.

        A power of two, reduced to a batch's images per core as far as `WORTHWHILE`
        allows. At least two: some models treat a single image specially.
        """
        alone = self.mesh.size == 1 and self.mesh.devices.flat[0].platform == "cpu"
        if not alone:
            return self.batch
        two = jax.ShapeDtypeStruct((2, *images.shape[1:]), images.dtype)
        given = self._outside(np.zeros(two.shape, two.dtype))
        each = cost.flops(self.apply, variables, two, *given) / 2
        # Of features that the host computes as well, which would fill its memory.
        for member in self.outside:
            each += onnx_backbone.opened(member).flops(images.shape[1])
        few = PIECE / max(1, each)
        few = 2 ** max(1, round(math.log2(few)))
        share = -(-self.batch // len(os.sched_getaffinity(0)))
        return min(self.batch, few, max(share, few // WORTHWHILE, 2))

    def _start(self, variables: PyTree, images: np.ndarray) -> Callable[[], Arrays]:
        spread = sharding.along_batch(self.mesh)
        given = jax.device_put((images, *self._outside(images)), spread)
        predictions = self.apply(variables, *given)
        for value in jax.tree.leaves(predictions):
            if isinstance(value, jax.Array):
                value.copy_to_host_async()
        return functools.partial(jax.device_get, predictions)

    def _outside(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns the features that backbones from outside compute on the host."""
        if not self.outside:
            return ()
        mean, std = (
            np.asarray(one, np.float32) * np.float32(255)
            for one in (self.preprocessing.mean, self.preprocessing.std)
        )
        normalized = (images.astype(np.float32) - mean) / std
        seen = [
            onnx_backbone.features(
                self.outside, np.asarray(views.view(normalized, one))
            )
            for one in self._views
        ]
        return (np.mean(seen, axis=0),)


def _filled_up(images: np.ndarray, *, to: int) -> np.ndarray:
    """Pads with zero images to a multiple of `to`, at least to one piece."""
    missing = -len(images) % to if len(images) else to
    if not missing:
        return images
    blank = np.zeros((missing, *images.shape[1:]), images.dtype)
    return np.concatenate([images, blank])


@functools.cache
def _cores() -> Executor:
    """Returns a pool of one thread per core, each of which calls the program.

    XLA's own threads synchronize after each layer, and calls from one thread run in
    turn.
    """
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), "predictor")


def _program(
    task: Predicts,
    module: nn.Module | Seen,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """Builds the compiled function that predicts a batch."""
    spread = sharding.along_batch(mesh)
    names = ("outside",) if getattr(module, "outside", ()) else ()

    def apply(variables, images, *given):
        images = normalize(images, mean, std)
        more = dict(zip(names, given, strict=True))
        return task.predict(module.apply(variables, images, train=False, **more))

    return jax.jit(
        apply,
        in_shardings=(sharding.replicated(mesh), spread, *(spread for _ in names)),
        out_shardings=spread,
    )


_shared_program = functools.lru_cache(maxsize=PROGRAMS)(_program)
"""`_program`, shared by predictors of the same model so that it compiles once."""


@dataclasses.dataclass(frozen=True)
class Read:
    """A batch of records that were read.

    Attributes:
      indices: indices of the records.
      status: ``ok``, or why a record is unusable.
      labels: ``[records, …]``; None if the source has no labels.
    """

    indices: range
    status: list[str]
    labels: np.ndarray | None

    @functools.cached_property
    def good(self) -> np.ndarray:
        """Whether each record is usable, bool ``[records]``."""
        return np.array([reason == "ok" for reason in self.status])


def predict_batches(
    predictor: Predictor,
    placed: dict[str, PyTree],
    source: Source,
    batches: Sequence[range],
    *,
    before: Callable[[int], None] = lambda start: None,
) -> Iterator[tuple[Read, dict[str, Arrays]]]:
    """Predicts batches of a source, in order, with models of one architecture.

    Args:
      predictor: predictor for the architecture and its preprocessing.
      placed: variables by model name, as returned by `Predictor.place`.
      source: the source.
      batches: ranges of records, each of at most ``predictor.batch``.
      before: called with the first record of each batch before it is dispatched.

    Yields:
      Each batch, with every model's predictions for its usable records; no predictions
      if none is usable.
    """
    reader, preprocessing = None, predictor.preprocessing
    # A task of one's own may preprocess in another way.
    if preprocesses(source) and isinstance(preprocessing, Preprocessing):
        reader = source.reader(preprocessing, batches)

    def read(number: int) -> tuple[Read, np.ndarray | None]:
        indices = batches[number]
        if reader:
            return _taken(reader, source, indices)
        examples = source.read(indices)
        found = Read(indices, examples.status, examples.labels)
        if not found.good.any():
            return found, None
        usable = zip(examples.images, found.good, strict=True)
        return found, predictor.preprocessing.apply_all(
            image for image, good in usable if good and image is not None
        )

    def start(number: int) -> tuple[Read, dict[str, Callable[[], Arrays]]]:
        found, images = was_read(number)
        before(found.indices.start)
        if images is None:
            return found, {}
        return found, {
            name: predictor.start(variables, images)
            for name, variables in placed.items()
        }

    ahead, stop = predictor.ahead, len(batches)
    thread = ThreadPoolExecutor(1, "read_ahead") if ahead else None
    was_read = Prefetcher(read, ahead=ahead, stop=stop, executor=thread)
    started = Prefetcher(start, ahead=ahead, stop=stop)
    reading = contextlib.closing(reader) if reader else contextlib.nullcontext()
    with reading, predictor.abandoning(), contextlib.closing(was_read):
        for found, fetch in map(started, range(len(batches))):
            yield found, {name: one() for name, one in fetch.items()}


def _taken(
    reader: Reader, source: Source, indices: range
) -> tuple[Read, np.ndarray | None]:
    """Takes a batch from a reader; its images are None if none is usable."""
    images, status = reader.take(len(indices))
    labels = known_labels(source)
    own = None if labels is None else labels[indices.start : indices.stop]
    found = Read(indices, status, own)
    if found.good.all():
        return found, images["image"]
    return found, images["image"][found.good] if found.good.any() else None


@dataclasses.dataclass(frozen=True)
class Predicted:
    """Predictions for the usable records of a source.

    Attributes:
      records: int64 ``[usable]``, indices of the records.
      labels: ``[usable, …]``, labels of the records.
      predictions: predictions by model name.
      unusable: reasons by key for the other records.
    """

    records: np.ndarray
    labels: np.ndarray
    predictions: dict[str, Arrays]
    unusable: dict[str, str]


def predict_source(
    predictor: Predictor,
    models: dict[str, PyTree],
    source: Source,
    *,
    before_batch: Callable[[int], None] = lambda done: None,
) -> Predicted:
    """Predicts a labeled source with models of one architecture, reading it once.

    Only a few batches of images are in memory at a time.

    Args:
      predictor: predictor for the architecture and its preprocessing.
      models: variables by model name.
      source: a source of labeled records.
      before_batch: called before each batch with the number of records done.

    Raises:
      UserError: no record is usable.
    """
    placed = {name: predictor.place(variables) for name, variables in models.items()}
    parts: dict[str, list[Arrays]] = {name: [] for name in models}
    records: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    unusable: dict[str, str] = {}
    batches = [
        range(start, min(start + predictor.batch, len(source)))
        for start in range(0, len(source), predictor.batch)
    ]
    for found, predictions in predict_batches(
        predictor, placed, source, batches, before=before_batch
    ):
        for index, reason in zip(found.indices, found.status, strict=True):
            if reason != "ok":
                unusable[source.key(index)] = reason
        if not predictions:
            continue
        records.append(np.array(found.indices)[found.good])
        labels.append(np.asarray(found.labels)[found.good])
        for name, own in predictions.items():
            parts[name].append(own)
    if not records:
        refuse(unusable.items(), len(source), "images to be judged on")
    return Predicted(
        np.concatenate(records),
        np.concatenate(labels),
        {
            name: {key: np.concatenate([part[key] for part in own]) for key in own[0]}
            for name, own in parts.items()
        },
        unusable,
    )

"""A feed that reads, decodes and noises images in tf.data's threads.

What is random is drawn in NumPy beforehand, from the positions alone; so the order and
the noise are those of every other road, and tf.data is told to keep the order. It
begins at the step that is asked for, and nothing of it is ever saved.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from jax.sharding import Mesh

from noisy_student_jax.augment import host, host_draws
from noisy_student_jax.augment.crops import crop_boxes
from noisy_student_jax.data.hosted import Fed
from noisy_student_jax.data.pipeline import Draws
from noisy_student_jax.data.stream import Stream
from noisy_student_jax.data.streaming.decoding import preprocessed
from noisy_student_jax.decoding import UndecodableImageError, header
from noisy_student_jax.layout import BatchLayout
from noisy_student_jax.preprocessing import Preprocessing, compiled_bicubic

_READ_AT_ONCE = 64
_READERS = 4
_STEPS_AHEAD = 2
_WHOLE = (0, 0, 0, 0)
"""A box that stands for the crop of evaluation."""

Tensors = dict[str, tf.Tensor]


class TensorFlowFeed:
    """Images of encoded sources (`EncodedSource`), some steps ahead."""

    def __init__(
        self,
        streams: list[Stream],
        layout: BatchLayout,
        mesh: Mesh,
        preprocessing: Preprocessing,
        *,
        seed: int,
        generation: int,
        noised: bool = True,
        decoder: str = "auto",
    ):
        """Starts nothing before the first step is asked for.

        Args:
          streams: the streams.
          layout: of a batch.
          mesh: devices; of other hosts' rows nothing is read.
          preprocessing: of the images.
          seed: the run's.
          generation: of the student.
          noised: whether the input noise is added here; else only the crops are made.
          decoder: ``auto``, or ``plain`` for Pillow alone and nothing compiled.
        """
        self.noised, self._decoder = noised, decoder
        self._bicubic = None if decoder == "plain" else compiled_bicubic()
        self._streams, self._mesh = streams, mesh
        self._preprocessing = preprocessing
        self._numbers = {"seed": seed, "generation": generation}
        self._draws = Draws(streams, layout, **self._numbers)
        self._next: int | None = None
        self._steps: Any = None
        self._failure: Exception | None = None
        # Of each stream, the images of the steps that have been begun.
        self._made: list[dict[int, dict[str, np.ndarray]]] = []

    def __call__(self, step: int) -> list[Fed]:
        """See `Feed`.

        Steps that do not follow one another are allowed, and slow.
        """
        if step != self._next:
            self._start(step)
        try:
            streams = next(self._steps)
        except tf.errors.OpError as error:
            self.close()
            raise (self._failure or error) from None
        self._next = step + 1
        return [
            self._fed(made.pop(step), [status.decode() for status in statuses])
            for made, statuses in zip(self._made, streams, strict=True)
        ]

    def _fed(self, images: dict[str, np.ndarray], status: list[str]) -> Fed:
        return Fed(images["image"], status, images.get("teacher_image"))

    def close(self) -> None:
        """See `Feed`."""
        self._next = self._steps = None
        self._made = []

    def _start(self, step: int) -> None:
        self.close()
        self._failure = None
        streams = range(len(self._streams))
        whole = tf.data.Dataset.zip(tuple(self._stream(n, step) for n in streams))
        cores = len(os.sched_getaffinity(0))
        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        options.threading.max_intra_op_parallelism = 1
        # Each stream's readers may all be waiting for the disk.
        options.threading.private_threadpool_size = cores + _READERS * len(streams)
        whole = whole.prefetch(_STEPS_AHEAD).with_options(options)
        self._steps = whole.as_numpy_iterator()

    def _stream(self, number: int, first_step: int) -> tf.data.Dataset:
        """Makes the statuses of one stream's images, step by step.

        Files and images do not go through TensorFlow, which would copy each several
        times: files are kept by their position, and images are written where those of
        their step are collected.
        """
        cores = len(os.sched_getaffinity(0))
        drawn = self._drawn(number, first_step)
        count = len(drawn["position"])
        read_at_once = min(count, _READ_AT_ONCE)
        held: dict[int, bytes] = {}
        made: dict[int, dict[str, np.ndarray]] = {}
        self._made.append(made)

        def begin(step: np.ndarray) -> dict[str, np.ndarray]:
            made[int(step)] = self._blank(number, count)
            return self._drawn(number, int(step))

        def draw(step: tf.Tensor) -> Tensors:
            like = {name: (v.dtype, v.shape) for name, v in drawn.items()}
            return self._call(begin, [step], like)

        def read(examples: Tensors) -> Tensors:
            like = {
                "status": (object, [read_at_once]),
                "box": (np.int32, [read_at_once, 4]),
            }
            asked = [examples["record"], examples["position"]]
            reading = functools.partial(self._read, number, held)
            return examples | self._call(reading, asked, like)

        def finish(example: Tensors) -> tf.Tensor:
            finished = functools.partial(self._finished, number, held, made, [*example])
            like = {"status": (object, [])}
            return self._call(finished, [*example.values()], like)["status"]

        steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
        examples = steps.map(draw).unbatch()
        encoded = examples.batch(read_at_once, drop_remainder=True)
        encoded = encoded.map(read, num_parallel_calls=_READERS).unbatch()
        statuses = encoded.map(finish, num_parallel_calls=cores)
        return statuses.batch(count, drop_remainder=True)

    def _blank(self, number: int, count: int) -> dict[str, np.ndarray]:
        """Returns where the images of a step are collected."""
        seen = {"image": self._preprocessing}
        if teacher := self._streams[number].teacher:
            seen["teacher_image"] = teacher
        return {
            name: np.empty((count, how.resolution, how.resolution, 3), np.uint8)
            for name, how in seen.items()
        }

    def _drawn(self, number: int, step: int) -> dict[str, np.ndarray]:
        """Draws a step's records and noise; all arrays ``[count, …]``."""
        own = self._draws.of_step(step, self._mesh)[number]
        count = len(own.positions)
        found = {
            "step": np.full(count, step, np.int64),
            "row": np.arange(count),
            "position": own.positions,
            "record": own.records,
        }
        if not self.noised:
            return found
        side = self._preprocessing.resolution
        noise = host_draws.draw(
            **self._numbers,
            stream=number,
            positions=own.positions,
            noise=self._streams[number].noise.input,
            height=side,
            width=side,
        )
        return found | noise

    def _read(
        self,
        number: int,
        held: dict[int, bytes],
        records: np.ndarray,
        positions: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Reads records, and draws a crop for each by the size in its header.

        Args:
          number: of the stream.
          held: takes their bytes, by position.
          records: of the source.
          positions: of the stream.
        """
        stream = self._streams[number]
        found = stream.source.read_encoded(records.tolist())
        sizes, status = [], []
        for data, why in zip(found.data, found.status, strict=True):
            size = (1, 1)
            try:
                size = size if data is None else header(data)
            except UndecodableImageError as error:
                why = str(error)
            sizes.append(size)
            status.append(why.encode())
        boxes = crop_boxes(
            **self._numbers,
            stream=number,
            positions=positions,
            sizes=np.array(sizes),
            least_area=stream.noise.input.crop_area,
        )
        held.update(zip(positions.tolist(), found.data, strict=True))
        return {"status": _objects(status), "box": boxes}

    def _finished(
        self,
        number: int,
        held: dict[int, bytes],
        made: dict[int, dict[str, np.ndarray]],
        names: list[str],
        *values: Any,
    ) -> dict[str, Any]:
        """Decodes and noises an image; mid-grey, with the reason, where it cannot be.

        Args:
          number: of the stream.
          held: what `_read` put there; it is taken out.
          made: takes the image, by step and row.
          names: of what is in `values`.
          values: of one example what `_drawn` and `_read` gave.
        """
        own, example = self._streams[number], dict(zip(names, values, strict=True))
        data, status = held.pop(int(example["position"])), example["status"]
        wanted = {"image": (tuple(example["box"].tolist()), self._preprocessing)}
        if own.teacher:
            wanted["teacher_image"] = (_WHOLE, own.teacher)
        how = {"decoder": self._decoder, "bicubic": self._bicubic}
        found = None
        if status == b"ok":
            try:
                found = {
                    name: preprocessed(data, part, seen, **how)
                    for name, (part, seen) in wanted.items()
                }
            except UndecodableImageError as error:
                status = str(error).encode()
        if found is None:
            found = {name: seen.blank() for name, (_, seen) in wanted.items()}
        if self.noised:
            noise = own.noise.input
            found["image"] = host.augment(found["image"], example, noise)
        for name, image in found.items():
            made[int(example["step"])][name][int(example["row"])] = image
        return {"status": status}

    def _call(
        self,
        function: Callable[..., dict[str, Any]],
        arguments: list[tf.Tensor],
        like: dict[str, tuple[Any, Any]],
    ) -> Tensors:
        """Calls Python from a graph.

        Args:
          function: takes arrays, returns a dictionary of them.
          arguments: for it.
          like: dtype and shape of what it returns.
        """

        # Python as it is: what calls Python needs no graph made of it.
        @tf.autograph.experimental.do_not_convert
        def called(*arguments: Any) -> list[Any]:
            try:
                found = function(*arguments)
            except Exception as error:
                # TensorFlow makes a string of it: who asked is told the error itself.
                self._failure = self._failure or error
                raise
            return [found[name] for name in like]

        dtypes = [tf.string if d is object else d for d, _ in like.values()]
        tensors = tf.numpy_function(called, arguments, dtypes)
        for tensor, (_, shape) in zip(tensors, like.values(), strict=True):
            tensor.set_shape(shape)
        return dict(zip(like, tensors, strict=True))


def _objects(values: list[bytes]) -> np.ndarray:
    """NumPy's own strings lose zero bytes at their end."""
    array = np.empty(len(values), object)
    array[:] = values
    return array

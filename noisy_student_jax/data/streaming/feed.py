"""A feed that reads, decodes and noises images in tf.data, in many threads.

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

from noisy_student_jax.augment import host_draws
from noisy_student_jax.augment.crops import crop_boxes
from noisy_student_jax.data.hosted import Fed
from noisy_student_jax.data.pipeline import Draws
from noisy_student_jax.data.stream import Stream
from noisy_student_jax.data.streaming.augment import augment
from noisy_student_jax.data.streaming.decoding import preprocessed
from noisy_student_jax.decoding import UndecodableImageError, header
from noisy_student_jax.layout import BatchLayout
from noisy_student_jax.preprocessing import Preprocessing
from noisy_student_jax.randaugment import FILL

_READ_AT_ONCE = 64
_READERS = 4
_STEPS_AHEAD = 2
_WHOLE = (0, 0, 0, 0)
"""A box that stands for the crop of evaluation."""

Tensors = dict[str, tf.Tensor]


class TensorFlowFeed:
    """Noised images of encoded sources (`EncodedSource`), some steps ahead."""

    noised = True

    def __init__(
        self,
        streams: list[Stream],
        layout: BatchLayout,
        mesh: Mesh,
        preprocessing: Preprocessing,
        *,
        seed: int,
        generation: int,
    ):
        """Starts nothing before the first step is asked for."""
        self._streams, self._mesh = streams, mesh
        self._preprocessing = preprocessing
        self._numbers = {"seed": seed, "generation": generation}
        self._draws = Draws(streams, layout, **self._numbers)
        self._next: int | None = None
        self._steps: Any = None
        self._failure: Exception | None = None

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
            Fed(
                fed["image"],
                [status.decode() for status in fed["status"]],
                fed.get("teacher_image"),
            )
            for fed in streams
        ]

    def close(self) -> None:
        """See `Feed`."""
        self._next = self._steps = None

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
        # Some threads wait for the disk most of the time.
        options.threading.private_threadpool_size = cores + _READERS
        whole = whole.prefetch(_STEPS_AHEAD).with_options(options)
        self._steps = whole.as_numpy_iterator()

    def _stream(self, number: int, first_step: int) -> tf.data.Dataset:
        """Makes batches of ``{"image", "status"}`` of one stream, step by step."""
        side, teacher = self._preprocessing.resolution, self._streams[number].teacher
        cores = len(os.sched_getaffinity(0))
        drawn = self._drawn(number, first_step)
        count = len(drawn["position"])
        read_at_once = min(count, _READ_AT_ONCE)

        def draw(step: tf.Tensor) -> Tensors:
            like = {name: (v.dtype, v.shape) for name, v in drawn.items()}
            return self._call(lambda step: self._drawn(number, step), [step], like)

        def read(examples: Tensors) -> Tensors:
            like = {
                "data": (object, [read_at_once]),
                "status": (object, [read_at_once]),
                "box": (np.int32, [read_at_once, 4]),
            }
            asked = [examples["record"], examples["position"]]
            found = self._call(lambda *asked: self._read(number, *asked), asked, like)
            return examples | found

        def finish(example: Tensors) -> Tensors:
            like = {"image": (np.uint8, [side, side, 3]), "status": (object, [])}
            if teacher:
                seen = [teacher.resolution, teacher.resolution, 3]
                like["teacher_image"] = (np.uint8, seen)
            asked = [example[name] for name in ("data", "status", "box")]
            decoded = functools.partial(self._decoded, teacher=teacher)
            found = self._call(decoded, asked, like)
            noise = self._streams[number].noise.input
            return found | {"image": augment(found["image"], example, noise)}

        steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
        examples = steps.map(draw).unbatch()
        encoded = examples.batch(read_at_once, drop_remainder=True)
        encoded = encoded.map(read, num_parallel_calls=_READERS).unbatch()
        images = encoded.map(finish, num_parallel_calls=cores)
        return images.batch(count, drop_remainder=True)

    def _drawn(self, number: int, step: int) -> dict[str, np.ndarray]:
        """Draws a step's records and noise; all arrays ``[count, …]``."""
        own = self._draws.of_step(int(step), self._mesh)[number]
        side = self._preprocessing.resolution
        noise = host_draws.draw(
            **self._numbers,
            stream=number,
            positions=own.positions,
            noise=self._streams[number].noise.input,
            height=side,
            width=side,
        )
        return {"position": own.positions, "record": own.records, **noise}

    def _read(
        self, number: int, records: np.ndarray, positions: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Reads records, and draws a crop for each by the size in its header."""
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
        data = [b"" if data is None else data for data in found.data]
        return {"data": _objects(data), "status": _objects(status), "box": boxes}

    def _decoded(
        self,
        data: bytes,
        status: bytes,
        box: np.ndarray,
        *,
        teacher: Preprocessing | None,
    ) -> dict[str, Any]:
        """Decodes an image; mid-grey, with the reason, where that cannot be done."""
        wanted = {"image": (tuple(box.tolist()), self._preprocessing)}
        if teacher:
            wanted["teacher_image"] = (_WHOLE, teacher)
        if status == b"ok":
            try:
                found = {name: preprocessed(data, *how) for name, how in wanted.items()}
                return {**found, "status": status}
            except UndecodableImageError as error:
                status = str(error).encode()
        sides = {name: how.resolution for name, (_, how) in wanted.items()}
        grey = {
            n: np.full((side, side, 3), FILL, np.uint8) for n, side in sides.items()
        }
        return {**grey, "status": status}

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

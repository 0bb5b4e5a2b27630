"""A tf.data pipeline of images, in the order of our own positions.

One Python call computes what is wanted of a thousand images, as vectors, and one reads
the stored records of a few dozen (and may wait for a disk). All else is native, without
Python's lock: parsing a record, decoding the crop, resizing, noise, batching.

Each image carries its number through the graph. One that fails there is dropped, and
missed: our own decoder decodes it again, or gives the reason why it cannot. That
decoder is asked from the start where the graph would decode otherwise than it does.
"""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.data.encoded import EncodedSource, headers_of, is_indexed
from noisy_student_jax.data.streaming import noise as noising
from noisy_student_jax.data.streaming import tf
from noisy_student_jax.data.streaming.decoding import View, crops, decoded
from noisy_student_jax.images.decode import DEFAULT, UndecodableImageError, decode
from noisy_student_jax.images.preprocessing import compiled_bicubic

READ_AT_ONCE = 64
"""Number of images that are read in one Python call."""
PLANNED_AT_ONCE = 16 * READ_AT_ONCE
"""Number of images whose draws and crops are computed at a time."""
NOISED_AT_ONCE = 16
"""Number of images that are noised in one call: about one for each operation, so that
temporaries stay small."""
_MADE_AHEAD = 8
"""Number of images a core may be ahead of a batch that is being copied together."""
_READS = 4
"""Number of reads at a time: most of them wait."""
_BATCHES_AHEAD = 2

Images = dict[str, np.ndarray]
"""Images by the name of their view."""
Boxes = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Maps numbers of images, their heights and widths, int64 ``[images]``, to the training
crops of `augment.crops.crop_boxes`."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is wanted of some images.

    Attributes:
      records: int64 ``[images]``, indices into the source.
      draws: the draws of the input noise, see `augment.host_draws.draw`.
    """

    records: np.ndarray
    draws: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


class ImageStream:
    """Images of an encoded source, made ahead of their use."""

    def __init__(
        self,
        source: EncodedSource,
        views: dict[str, View],
        wanted: Callable[[np.ndarray], Wanted],
        *,
        batch: int,
        first: int = 0,
        end: int | None = None,
        boxes: Boxes | None = None,
        noise: InputNoise | None = None,
        decoder: str = "auto",
    ):
        """Reads nothing before the first call of `take` but the source's headers.

        Args:
          source: the source.
          views: the ways to see each image; the one called ``image`` is cropped and
            noised.
          wanted: maps numbers of images, int64 ``[images]``, to what is wanted of them.
          batch: usual number of images that are taken at a time.
          first: number of the first image.
          end: number after the last image; None for no end.
          boxes: draws training crops; None for the center crop of evaluation.
          noise: the noise; None for none.
          decoder: ``plain`` for our own decoder and Pillow's resize alone.
        """
        self._source, self._views, self._wanted = source, views, wanted
        self._batch, self._next = batch, first
        self._first, self._end = first, np.iinfo(np.int64).max if end is None else end
        self._boxes, self._noise = boxes, noise or InputNoise()
        self._headers = headers_of(source)
        self._native = decoder != "plain"
        self._decoding = getattr(source, "decoding", DEFAULT)
        self._bicubic = (lambda: None) if decoder == "plain" else compiled_bicubic
        # Farther than this the graph only gets if it drops whole batches.
        self._most_ahead = 4 * batch + 8 * READ_AT_ONCE
        self._plan = functools.lru_cache(maxsize=_READS)(self._planned)
        self._planning = threading.Lock()
        self._decoders = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        self._reasons: dict[int, str] = {}
        self._failed: tuple[int, BaseException] | None = None
        self._iterator: Any = None
        self._rest: tuple[np.ndarray, Images] | None = None

    def take(self, count: int) -> tuple[Images, list[str]]:
        """Returns the next images.

        Args:
          count: number of images.

        Returns:
          ``[count, side, side, 3]`` for each view, and the status of each image:
          ``ok``, or the reason why it is mid-gray.
        """
        if self._iterator is None:
            self._iterator = iter(self._dataset())
        numbers = np.arange(self._next, self._next + count)
        images, dropped = self._collected(numbers)
        if self._failed and self._failed[0] <= numbers[-1]:
            raise self._failed[1]
        for row in dropped:
            for name, image in self._repaired(numbers[row : row + 1]).items():
                images[name][row] = image
        self._next += count
        return images, [self._reasons.pop(number, "ok") for number in numbers.tolist()]

    def close(self) -> None:
        """Stops the pipeline."""
        self._iterator = self._rest = None
        self._decoders.shutdown(cancel_futures=True)

    def _collected(self, numbers: np.ndarray) -> tuple[Images, list[int]]:
        """Returns images by number, and the rows of those that the graph dropped."""
        found, images = self._rest or self._batch_of_graph()
        self._rest = None
        if np.array_equal(found, numbers):
            return images, []  # without a copy
        collected = {
            name: np.empty((len(numbers), *view.shape), view.dtype)
            for name, view in self._views.items()
        }
        dropped = set(range(len(numbers)))
        while len(found):
            here = int(np.searchsorted(found, numbers[-1], side="right"))
            rows = found[:here] - numbers[0]
            dropped.difference_update(rows.tolist())
            for name, own in images.items():
                collected[name][rows] = own[:here]
            if here < len(found):
                self._rest = found[here:], {n: own[here:] for n, own in images.items()}
                break
            if len(numbers) - 1 not in dropped:
                break
            found, images = self._batch_of_graph()
        return collected, sorted(dropped)

    def _batch_of_graph(self) -> tuple[np.ndarray, Images]:
        """Returns the graph's next images and their numbers; none at the end."""
        batch = next(self._iterator, None)
        if batch is None:
            return np.zeros(0, np.int64), {}
        # Unlike `numpy()`, without a copy.
        return tf.nest.map_structure(lambda own: np.asarray(memoryview(own)), batch)

    def _repaired(self, number: np.ndarray) -> Images:
        """Decodes an image ``[1]`` that the graph dropped."""
        plan = self._plan_of(number)
        (images,) = self._decoded_by_us(number, plan)
        if not self._noise.is_off:
            draws = {name: tf.constant(own) for name, own in plan["draws"].items()}
            image = tf.constant(images["image"][None])
            images["image"] = noising.augment(image, draws, self._noise)[0].numpy()
        return images

    def _dataset(self) -> tf.data.Dataset:
        cores = len(os.sched_getaffinity(0))
        options = tf.data.Options()
        options.autotune.enabled = False
        options.deterministic = True
        options.threading.max_intra_op_parallelism = 1
        options.threading.private_threadpool_size = cores + _READS
        starts = tf.data.Dataset.range(self._first, self._end, READ_AT_ONCE)
        images = (
            starts.map(self._read_in_graph, num_parallel_calls=_READS)
            .unbatch()
            .map(self._image, num_parallel_calls=_MADE_AHEAD * cores)
            .ignore_errors()
        )
        if self._noise.is_off:
            images = images.map(lambda number, _, seen: (number, seen))
        else:
            few = images.batch(NOISED_AT_ONCE)
            images = few.map(self._noised, num_parallel_calls=2 * cores).unbatch()
        images = images.batch(self._batch, num_parallel_calls=2)
        images = images.prefetch(_BATCHES_AHEAD)
        return images.with_options(options)

    @tf.autograph.experimental.do_not_convert
    def _read_in_graph(self, start: tf.Tensor) -> Any:
        """Returns the tensors ``[images, …]`` from which the graph makes images."""
        # A plan of one image tells their types.
        number = np.array([self._first])
        example = self._columns(number, self._plan_of(number), [b""])
        read = tf.numpy_function(
            lambda start: tf.nest.flatten(self._read(int(start))),
            [start],
            [
                tf.string if own.dtype == object else own.dtype
                for own in tf.nest.flatten(example)
            ],
        )
        for own, one in zip(read, tf.nest.flatten(example), strict=True):
            own.set_shape([None, *one.shape[1:]])
        return tf.nest.pack_sequence_as(example, read)

    @tf.autograph.experimental.do_not_convert
    def _image(self, read: dict[str, Any]) -> tuple[tf.Tensor, Any, Any]:
        """Makes one image, in all views; returns its number and draws too."""
        images = tf.cond(
            read["native"], lambda: self._decoded(read), lambda: self._taken_over(read)
        )
        return read["number"], read["draws"], images

    @tf.autograph.experimental.do_not_convert
    def _noised(
        self,
        number: tf.Tensor,
        draws: dict[str, tf.Tensor],
        images: dict[str, tf.Tensor],
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Adds noise to a few images."""
        image = noising.augment(images["image"], draws, self._noise)
        return number, {**images, "image": image}

    def _decoded(self, read: dict[str, Any]) -> dict[str, tf.Tensor]:
        """Parses and decodes a stored record."""
        feature = getattr(self._source, "feature", None)
        if feature is None:
            content = tf.io.read_file(read["stored"])
        else:
            form = {feature: tf.io.FixedLenFeature([], tf.string)}
            content = tf.io.parse_single_example(read["stored"], form)[feature]
        return {
            name: decoded(content, read["crops"][name], view)
            for name, view in self._views.items()
        }

    def _taken_over(self, read: dict[str, Any]) -> dict[str, tf.Tensor]:
        """Takes the pixels that our own decoder made."""
        images, start = {}, 0
        for name, view in self._views.items():
            size = view.blank().nbytes
            pixels = tf.strings.substr(read["stored"], start, size)
            images[name] = tf.reshape(tf.io.decode_raw(pixels, view.dtype), view.shape)
            start += size
        return images

    def _read(self, start: int) -> dict[str, Any]:
        """Reads some images, from number `start`; never raises."""
        numbers = np.arange(start, min(start + READ_AT_ONCE, self._end))
        try:
            plan = self._plan_of(numbers)
            if start > self._next + self._most_ahead:
                # The graph drops everything: what cannot fail ends the search.
                plan["native"] = np.zeros(len(numbers), bool)
            return self._columns(numbers, plan, self._stored(numbers, plan))
        except BaseException as error:
            # The graph would drop an error; `take` raises the first one.
            with self._planning:
                if self._failed is None or start < self._failed[0]:
                    self._failed = start, error
            first = self._plan_of(np.array([self._first]))
            plan = tf.nest.map_structure(lambda own: own[[0] * len(numbers)], first)
            plan["native"] = np.zeros(len(numbers), bool)
            return self._columns(numbers, plan, [self._blank()] * len(numbers))

    def _columns(
        self, numbers: np.ndarray, plan: dict[str, Any], stored: list[bytes]
    ) -> dict[str, Any]:
        column = np.empty(len(stored), object)
        column[:] = stored
        told = {name: plan[name] for name in ("native", "crops", "draws")}
        return {"number": numbers, "stored": column, **told}

    def _stored(self, numbers: np.ndarray, plan: dict[str, Any]) -> list[bytes]:
        """Returns each image's stored record, or the pixels from our own decoder."""
        stored = [b""] * len(numbers)  # an unreadable record fails in the graph
        native, others = np.flatnonzero(plan["native"]), np.flatnonzero(~plan["native"])
        if len(native):
            assert is_indexed(self._source), "only an index tells native images"
            found = self._source.read_stored(plan["records"][native].tolist())
            for row, data in zip(native.tolist(), found.data, strict=True):
                stored[row] = data or b""
        if len(others):
            own = tf.nest.map_structure(lambda column: column[others], plan)
            done = self._decoded_by_us(numbers[others], own)
            for row, images in zip(others.tolist(), done, strict=True):
                stored[row] = b"".join(image.tobytes() for image in images.values())
        return stored

    def _decoded_by_us(self, numbers: np.ndarray, plan: dict[str, Any]) -> list[Images]:
        """Decodes images with our own decoder; mid-gray ones get a reason."""

        def one(each: tuple[int, bytes | None, str]) -> Images:
            row, data, why = each
            try:
                if data is not None:
                    return self._seen(
                        decode(data, decoding=self._decoding), numbers[row], plan, row
                    )
            except UndecodableImageError as error:
                why = str(error)
            self._reasons[int(numbers[row])] = why
            return {name: view.blank() for name, view in self._views.items()}

        found = self._source.read_encoded(plan["records"].tolist())
        rows = range(len(numbers))
        each = zip(rows, found.data, found.status, strict=True)
        return list(self._decoders.map(one, each))

    def _seen(
        self, image: np.ndarray, number: int, plan: dict[str, Any], row: int
    ) -> Images:
        """Crops and resizes an image in all views."""
        box, size = plan["boxes"][row], np.array(image.shape[:2])
        if self._boxes and (size != plan["sizes"][row]).any():
            # Its header was unknown, or another.
            (box,) = self._boxes(np.array([number]), *size[:, None])
        whole = np.zeros(4, int)
        return {
            name: view.seen(image, box if name == "image" else whole, self._bicubic())
            for name, view in self._views.items()
        }

    def _blank(self) -> bytes:
        return b"".join(view.blank().tobytes() for view in self._views.values())

    def _plan_of(self, numbers: np.ndarray) -> dict[str, Any]:
        """Returns the rows of a plan for consecutive images of one read."""
        chunk, start = divmod(int(numbers[0]) - self._first, PLANNED_AT_ONCE)
        with self._planning:
            plan = self._plan(chunk)
        rows = slice(start, start + len(numbers))
        return tf.nest.map_structure(lambda column: column[rows], plan)

    def _planned(self, chunk: int) -> dict[str, Any]:
        """Computes what to read, decode and draw; arrays ``[images, …]``."""
        first = self._first + chunk * PLANNED_AT_ONCE
        numbers = np.arange(first, min(first + PLANNED_AT_ONCE, self._end))
        wanted = self._wanted(numbers)
        headers = self._headers.of(wanted.records)
        sizes = headers.heights, headers.widths
        native = headers.plain & self._native
        native &= headers.heights * headers.widths <= self._decoding.max_pixels
        whole = np.zeros((len(numbers), 4), int)
        boxes = self._boxes(numbers, *sizes) if self._boxes else whole
        return {
            "records": wanted.records,
            "draws": wanted.draws,
            "native": native,
            "sizes": np.stack(sizes, axis=1),
            "boxes": boxes,
            "crops": {
                name: crops(view, boxes if name == "image" else whole, *sizes)
                for name, view in self._views.items()
            },
        }

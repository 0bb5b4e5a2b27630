"""A feed that reads, decodes and augments images in threads.

Randomness depends on positions alone, so order and noise equal those of the other
input pipelines and do not depend on thread timing. The feed starts at any step, and
has no state to save.

Reader threads may all wait for the disk; one finisher thread per core decodes and
augments a few images at a time, mostly without the GIL, and writes them into the step's
arrays. A reader waits for the images it has read, which bounds the number of encoded
files in memory, whatever the batch size.
"""

import dataclasses
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from noisy_student_jax.augment import numpy_draws, numpy_ops
from noisy_student_jax.core.prefetch import Prefetcher
from noisy_student_jax.data.encoded import is_encoded
from noisy_student_jax.data.pipelines.draws import Drawn
from noisy_student_jax.data.pipelines.host_fed import CroppingFeed, Fed
from noisy_student_jax.data.streaming.decoding import preprocessed
from noisy_student_jax.images.decode import Header, UndecodableImageError, inspect
from noisy_student_jax.images.preprocessing import Preprocessing

_READ_AT_ONCE = 64
_READERS = 4
"""Reader threads per stream."""
_FINISHED_AT_ONCE = 4
_STEPS_AHEAD = 2
_WHOLE = (0, 0, 0, 0)
"""The box that stands for the center crop of evaluation."""


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """An encoded image: the file's bytes, its header, and the crop to decode."""

    data: bytes
    header: Header
    box: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class _Begun:
    """A stream's images of a step, in progress.

    Attributes:
      drawn: the records.
      noise: the result of ``numpy_draws.draw``.
      images: uint8 ``[count, side, side, 3]`` by name, filled by the finishers.
      status: of each image, filled by readers and finishers.
      reads: one future per read, which yields the futures of its images.
    """

    drawn: Drawn
    noise: dict[str, np.ndarray]
    images: dict[str, np.ndarray]
    status: list[str]
    reads: list["Future[list[Future]]"] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class StreamingFeed(CroppingFeed):
    """Reads images of encoded sources (`EncodedSource`), a few steps ahead.

    Attributes:
      noised: whether to apply the input noise on the host, and not only the crops.
    """

    preprocessing: Preprocessing
    _: dataclasses.KW_ONLY
    noised: bool = True

    def __post_init__(self):
        """Starts nothing before the first call."""
        super().__post_init__()
        self._next: int | None = None
        self._ahead = Prefetcher(self._begin, ahead=_STEPS_AHEAD)
        self._make_pools()
        self._closing = threading.Event()

    def __call__(self, step: int) -> list[Fed]:
        """See `Feed`; steps that are not consecutive are allowed, but slow."""
        if step != self._next:
            self._start()
        try:
            fed = [_collected(begun.result()) for begun in self._ahead(step)]
        except BaseException:
            self.close()
            raise
        self._next = step + 1
        return fed

    def close(self) -> None:
        """See `Feed`."""
        self._next = None
        self._ahead.close()
        self._closing.set()
        # Readers wait for finishers.
        for pool in (self._readers, self._finishers):
            pool.shutdown(cancel_futures=True)

    def _start(self) -> None:
        self.close()
        self._closing.clear()
        self._make_pools()

    def _make_pools(self) -> None:
        """Creates the pools; their threads start with the first task."""
        self._readers = ThreadPoolExecutor(_READERS * len(self.streams))
        self._finishers = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def _begin(self, step: int) -> list[Future[_Begun]]:
        streams = range(len(self.streams))
        return [self._readers.submit(self._begin_stream, n, step) for n in streams]

    def _begin_stream(self, number: int, step: int) -> _Begun:
        """Draws a stream's records and noise, and submits the reads."""
        drawn = self._drawn(step)[number]
        count, side = len(drawn.positions), self.preprocessing.resolution
        noise: dict[str, np.ndarray] = {}
        if self.noised:
            noise = numpy_draws.draw(
                **self._numbers,
                stream=number,
                positions=drawn.positions,
                noise=self.streams[number].noise.input,
                height=side,
                width=side,
            )
        images = {
            name: np.empty((count, how.resolution, how.resolution, 3), np.uint8)
            for name, how in self._seen(number).items()
        }
        begun = _Begun(drawn, noise, images, [""] * count)
        for first in range(0, count, _READ_AT_ONCE):
            rows = range(first, min(first + _READ_AT_ONCE, count))
            begun.reads.append(self._readers.submit(self._read, number, begun, rows))
        return begun

    def _read(self, number: int, begun: _Begun, rows: range) -> list[Future]:
        """Reads records, draws crops from their headers, and submits the decoding."""
        asked = slice(rows.start, rows.stop)
        source = self.streams[number].source
        assert is_encoded(source), "a streaming feed is made for encoded sources"
        found = source.read_encoded(begun.drawn.records[asked].tolist())
        headers: list[Header | None] = []
        for row, data, why in zip(rows, found.data, found.status, strict=True):
            header = None
            try:
                header = None if data is None else inspect(data)
            except UndecodableImageError as error:
                why = str(error)
            headers.append(header)
            begun.status[row] = why
        sizes = [(h.height, h.width) if h else (1, 1) for h in headers]
        boxes = self._boxes(number, begun.drawn.positions[asked], sizes)
        encoded = [
            _Encoded(data, header, box) if data is not None and header else None
            for data, header, box in zip(found.data, headers, boxes, strict=True)
        ]
        each = list(zip(rows, encoded, strict=True))
        finished = [
            self._finishers.submit(
                self._finish, number, begun, each[first : first + _FINISHED_AT_ONCE]
            )
            for first in range(0, len(each), _FINISHED_AT_ONCE)
        ]
        wait(finished)
        return finished

    def _finish(
        self, number: int, begun: _Begun, each: list[tuple[int, _Encoded | None]]
    ) -> None:
        """Decodes and augments images; an undecodable one becomes mid-gray.

        Args:
          number: number of the stream.
          begun: receives images and reasons.
          each: rows and their encoded images; None if unreadable.
        """
        noise = self.streams[number].noise.input
        for row, encoded in each:
            if self._closing.is_set():
                return
            found = None
            if encoded:
                try:
                    found = self._decoded(number, encoded)
                except UndecodableImageError as error:
                    begun.status[row] = str(error)
            if found is None:
                seen = self._seen(number)
                found = {name: how.blank() for name, how in seen.items()}
            if self.noised:
                draws = {name: drawn[row] for name, drawn in begun.noise.items()}
                found["image"] = numpy_ops.augment(found["image"], draws, noise)
            for name, image in found.items():
                begun.images[name][row] = image

    def _decoded(self, number: int, encoded: _Encoded) -> dict[str, np.ndarray]:
        boxes = {"image": encoded.box, "teacher_image": _WHOLE}
        return {
            name: preprocessed(
                encoded.data,
                encoded.header,
                boxes[name],
                seen,
                decoder=self.decoder,
                bicubic=self._bicubic,
            )
            for name, seen in self._seen(number).items()
        }

    def _seen(self, number: int) -> dict[str, Preprocessing]:
        """Returns the student's and the teacher's preprocessing, by image name."""
        seen = {"image": self.preprocessing}
        if teacher := self.streams[number].teacher:
            seen["teacher_image"] = teacher
        return seen


def _collected(begun: _Begun) -> Fed:
    """Waits for a stream's images."""
    for read in begun.reads:
        for finished in read.result():
            finished.result()
    images = begun.images
    return Fed(images["image"], begun.status, images.get("teacher_image"))

"""The host-fed pipeline: the host reads each step's images and transfers them.

Used for datasets that do not fit on the devices, and for random crops. Without random
crops its batches are bit-equal to those of the device-resident pipeline.
"""

import dataclasses
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from noisy_student_jax.augment.crops import crop_boxes
from noisy_student_jax.augment.noise import split_positions
from noisy_student_jax.core import sharding
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.prefetch import Prefetcher
from noisy_student_jax.core.protocols import Preprocessor
from noisy_student_jax.core.types import Batch
from noisy_student_jax.data.pipelines.draws import (
    Drawn,
    Draws,
    assemble,
    noised,
    stream_keys,
    take_rows,
)
from noisy_student_jax.data.pipelines.stream import Stream
from noisy_student_jax.data.quarantine import Quarantine
from noisy_student_jax.images.preprocessing import compiled_bicubic

_STEPS_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Fed:
    """The images of one stream in one step.

    Attributes:
      images: uint8 ``[examples, side, side, 3]``; gray for unusable records.
      status: ``ok``, or why a record is unusable.
      teacher_images: the images as preprocessed for the stream's teacher, if any.
    """

    images: np.ndarray
    status: list[str]
    teacher_images: np.ndarray | None = None


class Feed(Protocol):
    """A provider of images for a host-fed pipeline."""

    noised: bool
    """Whether the images have the input noise applied."""

    def __call__(self, step: int) -> list[Fed]:
        """Returns this host's images of a step, by stream."""

    def close(self) -> None:
        """Stops its threads."""


class HostedPipeline:
    """Batches by step; every device gets the configured ratio of the two streams."""

    def __init__(
        self,
        streams: list[Stream],
        layout: BatchLayout,
        mesh: Mesh,
        feed: Feed,
        quarantine: Quarantine,
        *,
        seed: int,
        generation: int,
    ):
        """Takes a feed that was built for the same streams and order.

        An unusable image keeps its place in the batch with weight 0, so later examples
        do not move.
        """
        assert not (feed.noised and any(stream.moves for stream in streams))
        self._mesh, self._feed, self._quarantine = mesh, feed, quarantine
        self._draws = Draws(streams, layout, seed=seed, generation=generation)
        self.records = self._draws.records
        self._streams = streams
        self._keys = stream_keys(
            len(streams), seed=seed, generation=generation, mesh=mesh
        )
        self._assemble = jax.jit(
            functools.partial(_assemble, streams, layout, mesh, feed.noised),
            out_shardings=sharding.along_batch(mesh),
        )

    def __call__(self, step: int) -> Batch:
        """Returns the batch of a step, counted from 0, on the devices.

        Raises:
          UserError: too many images are unusable.
        """
        sent = []
        for stream, own, fed in zip(
            self._streams,
            self._draws.of_step(step, self._mesh),
            self._feed(step),
            strict=True,
        ):
            good = np.array([reason == "ok" for reason in fed.status])
            for row in np.flatnonzero(~good):
                key = stream.source.key(int(own.records[row]))
                self._quarantine.note(key, fed.status[row])
            sent.append(
                {
                    "image": fed.images,
                    "stored": take_rows(stream.targets, own.rows),
                    "position": split_positions(own.positions),
                    "weight": good.astype(np.float32),
                }
            )
            if stream.teacher:
                sent[-1]["teacher_image"] = fed.teacher_images
        return self._assemble(self._keys, sharding.put_batch(sent, self._mesh))

    @property
    def quarantined(self) -> int:
        """Number of unusable records found so far."""
        return len(self._quarantine)

    def close(self) -> None:
        """Stops the feed."""
        self._feed.close()


@dataclasses.dataclass(eq=False)
class CroppingFeed:
    """Base class of feeds that read sources: draws records and random crops.

    Attributes:
      streams: the streams.
      layout: layout of a batch.
      mesh: the devices; only this host's rows are read.
      preprocessing: preprocessing of the images.
      seed: the run's seed.
      generation: the student's number in random keys (`GenerationSpec.number`).
      decoder: ``auto``, or ``plain`` for Pillow alone, without compiled code.
    """

    streams: list[Stream]
    layout: BatchLayout
    mesh: Mesh
    preprocessing: Preprocessor
    _: dataclasses.KW_ONLY
    seed: int
    generation: int
    decoder: str = "auto"

    def __post_init__(self):
        """Draws and reads nothing yet."""
        self._bicubic = None if self.decoder == "plain" else compiled_bicubic()
        self._numbers = {"seed": self.seed, "generation": self.generation}
        self._draws = Draws(self.streams, self.layout, **self._numbers)

    def _boxes(
        self,
        number: int,
        positions: np.ndarray,
        heights: np.ndarray,
        widths: np.ndarray,
    ) -> np.ndarray:
        """Draws crops of a stream's images, see `crop_boxes`."""
        return crop_boxes(
            **self._numbers,
            stream=number,
            positions=positions,
            sizes=np.stack([heights, widths], axis=1),
            least_area=self.streams[number].noise.input.crop_area,
        )


class SourceFeed(CroppingFeed):
    """Reads and crops images in threads, a few steps ahead, without noise."""

    noised = False

    def __post_init__(self):
        """Creates the thread pools."""
        super().__post_init__()
        self._workers = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        self._ahead = Prefetcher(
            self._step, ahead=_STEPS_AHEAD, executor=ThreadPoolExecutor(1)
        )

    def __call__(self, step: int) -> list[Fed]:
        """See `Feed`."""
        return self._ahead(step)

    def close(self) -> None:
        """See `Feed`."""
        self._ahead.close()
        self._workers.shutdown(cancel_futures=True)

    def _step(self, step: int) -> list[Fed]:
        return [
            self._fed(number, stream, own)
            for number, (stream, own) in enumerate(
                zip(self.streams, self._draws.of_step(step, self.mesh), strict=True)
            )
        ]

    def _fed(self, number: int, stream: Stream, drawn: Drawn) -> Fed:
        examples = stream.source.read(drawn.records.tolist())
        sizes = [(1, 1) if i is None else i.shape[:2] for i in examples.images]
        boxes = self._boxes(number, drawn.positions, *np.array(sizes).T)
        whole = np.zeros_like(boxes)
        shown = None
        if stream.teacher is not None:
            shown = self._all(stream.teacher, examples.images, whole)
        images = self._all(self.preprocessing, examples.images, boxes)
        return Fed(images, examples.status, shown)

    def _all(
        self,
        preprocessing: Preprocessor,
        images: list[np.ndarray | None],
        boxes: np.ndarray,
    ) -> np.ndarray:
        def one(image: np.ndarray | None, box: list[int]) -> np.ndarray:
            if image is None:
                return preprocessing.blank()
            top, left, height, width = box
            where = top, left, height, width
            return preprocessing.apply_crop(image, where, bicubic=self._bicubic)

        return np.stack(list(self._workers.map(one, images, boxes.tolist())))


def _assemble(
    streams: list[Stream],
    layout: BatchLayout,
    mesh: Mesh,
    already_noised: bool,
    keys: list[jax.Array],
    sent: list[dict[str, Any]],
) -> Batch:
    images, matrices = [own["image"] for own in sent], None
    if not already_noised:
        made = [
            noised(stream, mesh, key, own["position"], own["image"])
            for stream, key, own in zip(streams, keys, sent, strict=True)
        ]
        images, matrices = [own for own, _ in made], [by for _, by in made]
    return assemble(
        streams,
        layout,
        images,
        [own["stored"] for own in sent],
        [own["weight"] for own in sent],
        [own.get("teacher_image") for own in sent],
        matrices=matrices,
    )

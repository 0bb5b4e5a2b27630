"""The device-resident pipeline: images stay on the devices and are augmented there.

The host computes which records each step draws, for many steps at a time and ahead of
them in a thread, so a step costs the host one program call.
"""

import functools
import operator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh

from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.noise import split_positions
from noisy_student_jax.augment.sharded import augment_spread
from noisy_student_jax.core import sharding
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.prefetch import Prefetcher
from noisy_student_jax.core.protocols import Preprocessor
from noisy_student_jax.core.types import STREAMS, Batch
from noisy_student_jax.data.pipelines.draws import (
    Draws,
    assemble,
    noised,
    stream_keys,
)
from noisy_student_jax.data.pipelines.stream import Stream
from noisy_student_jax.data.sources import read_all_good

DRAWS_AT_ONCE = 1 << 15
"""Draws that the host computes at a time, in whole steps: a few milliseconds' work."""
STEPS_AT_ONCE = 64
"""Upper bound on those steps, for small batches."""


class ResidentPipeline:
    """Batches by step; every device gets the configured ratio of the two streams."""

    quarantined = 0
    """Unusable records found so far: none, as all are read before the first step."""

    def __init__(
        self,
        streams: list[Stream],
        layout: BatchLayout,
        mesh: Mesh,
        preprocessing: Preprocessor,
        *,
        seed: int,
        generation: int,
    ):
        """Reads images and targets, and moves them to the devices.

        Raises:
          UserError: an image is unusable.
        """
        self._mesh = mesh
        self._draws = Draws(streams, layout, seed=seed, generation=generation)
        self.records = self._draws.records
        self._drawn_from, resident = [], []
        for name, stream in zip(STREAMS, streams, strict=False):
            records = np.unique(stream.picks[:, 0])
            indices = records.tolist()
            images, _ = read_all_good(stream.source, preprocessing, indices, part=name)
            held = {
                "images": images,
                "targets": jax.tree.map(np.asarray, stream.targets),
            }
            if stream.teacher:
                held["teacher_images"], _ = read_all_good(
                    stream.source, stream.teacher, indices, part=name
                )
            self._drawn_from.append(records)
            resident.append(held)
        self._resident = jax.device_put(resident, sharding.replicated(mesh))
        self._keys = stream_keys(
            len(streams), seed=seed, generation=generation, mesh=mesh
        )
        self._program = functools.partial(_assemble, streams, layout, mesh)
        self._assemble = jax.jit(
            self._program, out_shardings=sharding.along_batch(mesh)
        )
        steps = max(1, min(STEPS_AT_ONCE, DRAWS_AT_ONCE // layout.total))
        self._ahead = Prefetcher(self._drawn, ahead=1, executor=ThreadPoolExecutor(1))
        self._current: tuple[int, Any] = (-1, None)
        # Indices within a chunk are on the devices too, so a step transfers nothing.
        self._places = [
            jax.device_put(np.int32(place), sharding.replicated(mesh))
            for place in range(steps)
        ]

    def __call__(self, step: int) -> Batch:
        """Returns the batch of a step, counted from 0, on the devices."""
        number, place = divmod(step, len(self._places))
        if number != self._current[0]:
            placed = sharding.put_batch(self._ahead(number), self._mesh)
            self._current = number, placed
        return self._assemble(
            self._resident, self._keys, self._current[1], self._places[place]
        )

    def close(self) -> None:
        """Stops the prefetching thread."""
        self._ahead.close()

    def _drawn(self, number: int) -> list[dict[str, np.ndarray]]:
        """Returns the draws of a chunk of steps, ``[draws, steps, …]``."""
        count = len(self._places)
        steps = range(number * count, (number + 1) * count)
        return [
            {
                "image": np.searchsorted(records, own.records).astype(np.int32),
                "target": own.rows.astype(np.int32),
                "position": split_positions(own.positions),
            }
            for records, own in zip(
                self._drawn_from, self._draws.of_steps(steps, self._mesh), strict=True
            )
        ]


def _assemble(
    streams: list[Stream],
    layout: BatchLayout,
    mesh: Mesh,
    resident: list[dict[str, Any]],
    keys: list[jax.Array],
    drawn: list[dict[str, jax.Array]],
    place: jax.Array,
) -> Batch:
    """Gathers, augments and interleaves the examples of each device."""
    images, stored, shown, matrices = [], [], [], []
    for stream, held, key, steps in zip(streams, resident, keys, drawn, strict=True):
        rows = {
            name: lax.dynamic_index_in_dim(each, place, axis=1, keepdims=False)
            for name, each in steps.items()
        }
        drawing = {"rows": rows["image"]}
        given = mesh, key, rows["position"]
        own, by = noised(stream, *given, held["images"], **drawing)
        images.append(own)
        matrices.append(by)
        which_rows = operator.itemgetter(rows["target"])
        stored.append(jax.tree.map(which_rows, held["targets"]))
        shown.append(
            augment_spread(*given, held["teacher_images"], InputNoise(), **drawing)
            if stream.teacher
            else None
        )
    return assemble(
        streams, layout, images, stored, teacher_images=shown, matrices=matrices
    )

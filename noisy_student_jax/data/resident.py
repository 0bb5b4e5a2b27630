"""The resident pipeline: images live on the devices, and are augmented there."""

import functools
import operator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from noisy_student_jax.augment.noise import (
    InputNoise,
    augment_batch,
    example_keys,
    split_positions,
)
from noisy_student_jax.data.pipeline import Draws, assemble, stream_keys
from noisy_student_jax.data.sources import read_all_good
from noisy_student_jax.data.stream import Stream
from noisy_student_jax.layout import BatchLayout
from noisy_student_jax.preprocessing import Preprocessing
from noisy_student_jax.training import partitioning
from noisy_student_jax.types import STREAMS, Batch


class ResidentPipeline:
    """Batches by step, laid out so that every device sees the configured ratio."""

    quarantined = 0
    """Records found to be unusable: all have been read before the first step."""

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
        """Reads images and targets, and moves them to the devices.

        Raises:
          UserError: an image cannot be used.
        """
        self._mesh = mesh
        self._draws = Draws(streams, layout, seed=seed, generation=generation)
        self.records = self._draws.records
        self._drawn_from, resident = [], []
        for name, stream in zip(STREAMS, streams, strict=False):
            records = np.unique(stream.picks[:, 0])
            images, _ = read_all_good(stream.source, preprocessing, records, part=name)
            held = {
                "images": images,
                "targets": jax.tree.map(np.asarray, stream.targets),
            }
            if stream.teacher:
                held["teacher_images"], _ = read_all_good(
                    stream.source, stream.teacher, records, part=name
                )
            self._drawn_from.append(records)
            resident.append(held)
        self._resident = jax.device_put(resident, partitioning.replicated(mesh))
        self._keys = stream_keys(
            len(streams), seed=seed, generation=generation, mesh=mesh
        )
        self._assemble = jax.jit(
            functools.partial(_assemble, streams, layout, mesh),
            out_shardings=partitioning.along_batch(mesh),
        )

    def __call__(self, step: int) -> Batch:
        """Returns the batch of a step (counted from 0), on the devices."""
        drawn = [
            {
                "image": np.searchsorted(records, own.records).astype(np.int32),
                "target": own.rows.astype(np.int32),
                "position": split_positions(own.positions),
            }
            for records, own in zip(
                self._drawn_from, self._draws.of_step(step, self._mesh), strict=True
            )
        ]
        placed = partitioning.put_batch(drawn, self._mesh)
        return self._assemble(self._resident, self._keys, placed)

    def close(self) -> None:
        """Has nothing to let go of."""


def _assemble(
    streams: list[Stream],
    layout: BatchLayout,
    mesh: Mesh,
    resident: list[dict[str, Any]],
    keys: list[jax.Array],
    drawn: list[dict[str, jax.Array]],
) -> Batch:
    """Gathers, augments and interleaves, each device its own examples."""
    images, stored, shown = [], [], []
    for stream, held, key, rows in zip(streams, resident, keys, drawn, strict=True):
        noise = stream.noise.input
        images.append(_gathered(mesh, noise, held["images"], key, rows))
        which_rows = operator.itemgetter(rows["target"])
        stored.append(jax.tree.map(which_rows, held["targets"]))
        shown.append(
            _gathered(mesh, InputNoise(), held["teacher_images"], key, rows)
            if stream.teacher
            else None
        )
    return assemble(streams, layout, images, stored, teacher_images=shown)


def _gathered(
    mesh: Mesh,
    noise: InputNoise,
    images: jax.Array,
    key: jax.Array,
    rows: dict[str, jax.Array],
) -> jax.Array:
    spread, whole = PartitionSpec(partitioning.DATA), PartitionSpec()

    def local(images, key, row, position):
        example = example_keys(jax.random.wrap_key_data(key), position)
        return augment_batch(example, images[row], noise)

    # On its own device each example is taken one by one; left to the partitioner,
    # a loop over examples would pass every image through every device.
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, whole, spread, spread),
        out_specs=spread,
        check_vma=False,
    )(images, key, rows["image"], rows["position"])

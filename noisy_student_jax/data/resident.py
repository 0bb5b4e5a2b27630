"""The resident pipeline: images live on the device, and are augmented there.

A batch is a pure function of the step: the order says which records, each record's
key says which noise. Nothing is saved and nothing replayed.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from noisy_student_jax import types
from noisy_student_jax.augment.noise import (
    InputNoise,
    augment_batch,
    example_keys,
    split_positions,
    stream_key,
)
from noisy_student_jax.layout import BatchLayout
from noisy_student_jax.order import order
from noisy_student_jax.training import partitioning
from noisy_student_jax.types import Batch, PyTree


@dataclasses.dataclass(frozen=True)
class Noise:
    """All noise of one stream.

    Attributes:
      input: what is done to its images.
      dropout: whether the model's dropout applies to it.
      stochastic_depth: whether the model's stochastic depth applies to it.
    """

    input: InputNoise
    dropout: bool = True
    stochastic_depth: bool = True


@dataclasses.dataclass(frozen=True)
class Stream:
    """One of the two streams of a batch.

    Attributes:
      images: uint8 ``[images, side, side, 3]``, preprocessed for the model.
      picks: int64 ``[draws, 2]``: for each draw of an epoch, the row of `images` and
        the row of `targets`.
      targets: a tree of arrays ``[rows, …]``, as they are stored.
      to_target: makes the task's target of rows of `targets`, on the device.
      noise: of this stream.
      keys: names the record in a row of `images`, for messages.
    """

    images: np.ndarray
    picks: np.ndarray
    targets: PyTree
    to_target: Callable[[PyTree], PyTree]
    noise: Noise
    keys: Callable[[int], str]


class ResidentPipeline:
    """Batches by step, laid out so that every device sees the configured ratio."""

    def __init__(
        self,
        labelled: Stream,
        pseudo: Stream | None,
        layout: BatchLayout,
        mesh: Mesh,
        *,
        seed: int,
        generation: int,
    ):
        """Moves images and targets to the devices."""
        self.layout, self.mesh = layout, mesh
        self.streams = [labelled] if pseudo is None else [labelled, pseudo]
        self._sizes = [layout.labelled, layout.pseudo][: len(self.streams)]
        # The order of another generation is another order.
        self._order_seed = (seed << 32) + generation
        resident = [
            {"images": stream.images, "targets": stream.targets}
            for stream in self.streams
        ]
        everywhere = partitioning.replicated(mesh)
        self._resident = jax.device_put(resident, everywhere)
        keys = [
            jax.random.key_data(stream_key(seed, generation, number))
            for number in range(len(self.streams))
        ]
        self._keys = jax.device_put([np.asarray(key) for key in keys], everywhere)
        self._assemble = jax.jit(
            functools.partial(_assemble, self.streams, layout, mesh),
            out_shardings=partitioning.along_batch(mesh),
        )

    def __call__(self, step: int) -> Batch:
        """Returns the batch of a step (counted from 0), on the devices."""
        drawn = []
        for number, (stream, size) in enumerate(
            zip(self.streams, self._sizes, strict=True)
        ):
            positions = self._positions(step, size)
            positions = positions[partitioning.local_rows(self.mesh, size)]
            picks = self._picks(stream, number, positions)
            drawn.append(
                {
                    "image": picks[:, 0].astype(np.int32),
                    "target": picks[:, 1].astype(np.int32),
                    "position": split_positions(positions),
                }
            )
        drawn = partitioning.put_batch(drawn, self.mesh)
        return self._assemble(self._resident, self._keys, drawn)

    def records(self, step: int) -> dict[str, list[str]]:
        """Names the records in the batch of a step, by stream."""
        named = {}
        for number, (stream, size) in enumerate(
            zip(self.streams, self._sizes, strict=True)
        ):
            picks = self._picks(stream, number, self._positions(step, size))
            named[types.STREAMS[number]] = [stream.keys(int(row)) for row, _ in picks]
        return named

    def _positions(self, step: int, size: int) -> np.ndarray:
        return np.arange(step * size, (step + 1) * size, dtype=np.int64)

    def _picks(self, stream: Stream, number: int, positions: np.ndarray) -> np.ndarray:
        _, draw = order(self._order_seed, number, positions, len(stream.picks))
        return np.asarray(stream.picks[draw])


def _assemble(
    streams: list[Stream],
    layout: BatchLayout,
    mesh: Mesh,
    resident: list[dict[str, Any]],
    keys: list[jax.Array],
    drawn: list[dict[str, jax.Array]],
) -> Batch:
    """Gathers, augments and interleaves, each device its own examples."""
    images, targets = [], []
    for stream, held, key, rows in zip(streams, resident, keys, drawn, strict=True):
        images.append(_augmented(mesh, stream.noise.input, held["images"], key, rows))
        which_rows = operator.itemgetter(rows["target"])
        stored = jax.tree.map(which_rows, held["targets"])
        targets.append(stream.to_target(stored))
    if len(streams) == 1:
        image, target = images[0], targets[0]
    else:
        image = layout.interleave(*images)
        target = jax.tree.map(layout.interleave, *targets)
    which = layout.stream()
    flags = {
        name: np.array([getattr(s.noise, name) for s in streams], np.float32)[which]
        for name in ("dropout", "stochastic_depth")
    }
    return {
        "image": image,
        "target": target,
        "weight": jnp.ones(layout.total, jnp.float32),
        "stream": jnp.asarray(which),
        "noise": jax.tree.map(jnp.asarray, flags),
    }


def _augmented(
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

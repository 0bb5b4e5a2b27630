"""Functions that the training input pipelines share.

A batch is a pure function of the step: the data order gives the records of each
stream, and the position of each draw gives its noise. No state is saved or replayed.
The pipelines differ in where images come from: device memory, a prepared cache, or
files decoded on the fly.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from noisy_student_jax.augment.noise import stream_key
from noisy_student_jax.augment.sharded import augment_moved_spread, augment_spread
from noisy_student_jax.core import sharding, types
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.types import Batch, PyTree
from noisy_student_jax.data.order.block_shuffle import lanes_order
from noisy_student_jax.data.order.shuffle import order
from noisy_student_jax.data.pipelines.stream import Stream

DRAWS_AT_ONCE = 1024
"""Number of draws that `Draws.of_step` computes at a time, in whole steps."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One host's draws from a stream.

    Attributes:
      positions: int64 ``[draws]`` for one step, or ``[draws, steps]``; number of
        earlier draws from the stream since the start of training.
      records: int64 of the same shape, indices into the stream's source.
      rows: int64 of the same shape, indices into its targets.
    """

    positions: np.ndarray
    records: np.ndarray
    rows: np.ndarray


class Draws:
    """The records that each step draws from each stream."""

    def __init__(
        self, streams: list[Stream], layout: BatchLayout, *, seed: int, generation: int
    ):
        """Computes nothing yet."""
        self.streams = streams
        self.sizes = [layout.labeled, layout.pseudo][: len(streams)]
        # Each generation has its own order.
        self._seed = (seed << 32) + generation
        self._kept: tuple[int, Mesh | None, list[Drawn]] | None = None

    def of_step(self, step: int, mesh: Mesh | None = None) -> list[Drawn]:
        """Returns the draws of a step, by stream.

        Args:
          step: the step, counted from 0.
          mesh: restricts the rows to this host's; None for all rows.
        """
        # Several at once: a small batch takes as long as a thousand draws.
        count = max(1, DRAWS_AT_ONCE // sum(self.sizes))
        chunk, place = divmod(step, count)
        if self._kept is None or self._kept[:2] != (chunk, mesh):
            steps = range(chunk * count, (chunk + 1) * count)
            self._kept = chunk, mesh, self.of_steps(steps, mesh)
        return [
            Drawn(own.positions[:, place], own.records[:, place], own.rows[:, place])
            for own in self._kept[2]
        ]

    def of_steps(self, steps: range, mesh: Mesh | None = None) -> list[Drawn]:
        """Returns the draws of consecutive steps, by stream, ``[draws, steps]``.

        Args:
          steps: the steps, counted from 0.
          mesh: restricts the rows to this host's; None for all rows.
        """
        drawn = []
        for number, size in enumerate(self.sizes):
            first = np.arange(size, dtype=np.int64)
            if mesh is not None:
                first = first[sharding.local_rows(mesh, size)]
            positions = first[:, None] + size * np.array(steps, np.int64)
            drawn.append(self.at(number, positions))
        return drawn

    def at(self, number: int, positions: np.ndarray) -> Drawn:
        """Returns the draws of a stream at positions, int64 of any shape."""
        stream = self.streams[number]
        where = self._seed, number, positions.ravel(), len(stream.picks)
        if stream.lanes is None:
            draws = order(*where)[1]
        else:
            draws = lanes_order(*where, self.sizes[number], stream.lanes)[1]
        picks = np.asarray(stream.picks[draws]).reshape(*positions.shape, 2)
        return Drawn(positions, picks[..., 0], picks[..., 1])

    def records(self, step: int) -> dict[str, list[str]]:
        """Returns the keys of the records in a step's batch, by stream."""
        return {
            types.STREAMS[number]: [stream.source.key(int(r)) for r in drawn.records]
            for number, (stream, drawn) in enumerate(
                zip(self.streams, self.of_step(step), strict=True)
            )
        }


def noised(
    stream: Stream,
    mesh: Mesh,
    key: jax.Array,
    positions: jax.Array,
    images: jax.Array,
    *,
    rows: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """Applies a stream's input noise on the devices; see `augment_spread`.

    Returns:
      The images, and where its targets move the matrices by which they do
      (`augment_moved`).
    """
    given = mesh, key, positions, images, stream.noise.input
    if stream.moves:
        return augment_moved_spread(*given, rows=rows)
    return augment_spread(*given, rows=rows), None


def assemble(
    streams: list[Stream],
    layout: BatchLayout,
    images: list[jax.Array],
    stored: list[PyTree],
    weights: list[jax.Array] | None = None,
    teacher_images: list[jax.Array | None] | None = None,
    *,
    matrices: Sequence[jax.Array | None] | None = None,
) -> Batch:
    """Interleaves the streams' examples into one batch; can be traced by `jit`.

    Targets whose second axis differs between streams are filled up with zeros.

    Args:
      streams: the streams.
      layout: layout of the batch.
      images: noised images per stream, ``[examples, height, width, channels]``.
      stored: rows of the stored targets per stream.
      weights: float32 ``[examples]`` per stream; None for ones.
      teacher_images: images for the teacher per stream; None without a teacher.
      matrices: per stream, those by which its targets move, or None; None if none do.
    """
    targets = [s.to_target(rows) for s, rows in zip(streams, stored, strict=True)]
    for number, by in enumerate(matrices or []):
        move = streams[number].moved
        if by is not None and move is not None:
            targets[number] = move(targets[number], by)
    if weights is None:
        weights = [jnp.ones(len(own), jnp.float32) for own in images]
    which = layout.stream()
    flags = {
        name: np.array([getattr(s.noise, name) for s in streams], np.float32)[which]
        for name in ("dropout", "stochastic_depth")
    }

    def interleaved(*parts: jax.Array) -> jax.Array:
        return layout.interleave(*parts) if len(parts) > 1 else parts[0]

    shown = [own for own in teacher_images or [] if own is not None]
    return {
        **({"teacher_image": shown[0]} if shown else {}),
        "image": interleaved(*images),
        "target": jax.tree.map(lambda *parts: interleaved(*filled_up(parts)), *targets),
        "weight": interleaved(*weights),
        "stream": jnp.asarray(which),
        "noise": jax.tree.map(jnp.asarray, flags),
    }


def filled_up(parts: Sequence[jax.Array]) -> list[jax.Array]:
    """Appends zeros to arrays ``[examples, …]`` along the second axis, to the longest.

    Args:
      parts: arrays of the streams, otherwise of one shape per example.
    """
    if parts[0].ndim < 2:
        return list(parts)
    most = max(part.shape[1] for part in parts)

    def filled(part: jax.Array) -> jax.Array:
        lacking = most - part.shape[1]
        rest = ((0, 0),) * (part.ndim - 2)
        return jnp.pad(part, ((0, 0), (0, lacking), *rest)) if lacking else part

    return [filled(part) for part in parts]


def take_rows(targets: PyTree, rows: np.ndarray) -> PyTree:
    """Reads rows of every array of a tree; the arrays may be memory-mapped."""
    return jax.tree.map(lambda array: np.asarray(array[rows]), targets)


def stream_keys(
    count: int, *, seed: int, generation: int, mesh: Mesh
) -> list[jax.Array]:
    """Returns the key data of each stream's noise, replicated over the devices."""
    keys: list[Any] = [
        np.asarray(jax.random.key_data(stream_key(seed, generation, number)))
        for number in range(count)
    ]
    return jax.device_put(keys, sharding.replicated(mesh))

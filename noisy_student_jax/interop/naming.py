"""Maps tensor names and layouts of EfficientNet between this package and others.

A `Naming` is another library's table of layer names. `rows` expands it for one
architecture; import and export apply the same rows in opposite directions.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from flax import traverse_util

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.models.architectures import Architecture

_VARIABLES = {
    "conv": ("params/kernel",),
    "biased": ("params/kernel", "params/bias"),
    "depthwise": ("params/kernel",),
    "norm": ("params/scale", "params/bias", "batch_stats/mean", "batch_stats/var"),
    "dense": ("params/kernel", "params/bias"),
}


@dataclasses.dataclass(frozen=True)
class Naming:
    """A library's layer names and array layouts.

    Attributes:
      name: name of the library, for messages.
      outside: its names of the layers outside blocks, by our names.
      block: its name of a block; ``{flat}`` is the index among all blocks, ``{stage}``
        that of the stage and ``{place}`` that within the stage, each from 0.
      expanding: its names of the layers of a block with an expansion, by our names.
      plain: the same for a block without expansion, as in the first stage.
      joint: separator between the parts of a name.
      leaves: its names of a layer's arrays, by kind of layer and our names.
      axes: for each kind of kernel, the positions of our axes in its array; a kind that
        is absent has the same layout.
    """

    name: str
    outside: Mapping[str, str]
    block: str
    expanding: Mapping[str, str]
    plain: Mapping[str, str]
    joint: str
    leaves: Mapping[str, Mapping[str, str]]
    axes: Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Row:
    """One array under both its names.

    Attributes:
      ours: path in the variables, such as ``params/blocks_3/se_reduce/kernel``.
      theirs: name in the other library.
      axes: positions of our axes in their array; None for the same layout.
    """

    ours: str
    theirs: str
    axes: tuple[int, ...] | None = None

    def shape_there(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of one of our arrays in the other library's layout."""
        return tuple(shape[axis] for axis in self._back()) if self.axes else shape

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Converts one of their arrays to our layout; contiguous, copied if needed."""
        return np.ascontiguousarray(array.transpose(self.axes) if self.axes else array)

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Converts one of our arrays to their layout; contiguous, copied if needed."""
        return np.ascontiguousarray(
            array.transpose(self._back()) if self.axes else array
        )

    def _back(self) -> tuple[int, ...]:
        axes = self.axes or ()
        return tuple(axes.index(axis) for axis in range(len(axes)))


def rows(architecture: Architecture, naming: Naming) -> tuple[Row, ...]:
    """Returns a row for each array of an architecture, in the model's order.

    Raises:
      UserError: the architecture has fused blocks, which other libraries lack.
    """
    if any(stage.fused for stage in architecture.stages):
        raise UserError(
            f"this model has fused blocks, which {naming.name} has no names for: only"
            " the published members of the family (b0 to b8, l0 to l2, lite0 to lite4)"
            " have them"
        )
    return tuple(_rows(architecture, naming))


def to_theirs(rows: tuple[Row, ...], variables: PyTree) -> dict[str, np.ndarray]:
    """Converts our variables to another library's names and layouts.

    Args:
      rows: rows of the variables' architecture.
      variables: ``{"params", "batch_stats"}``, exactly those of the architecture.

    Returns:
      Contiguous host arrays by the library's names.

    Raises:
      KeyError: the variables do not match the rows.
    """
    flat = traverse_util.flatten_dict(variables, sep="/")
    if unknown := flat.keys() - {row.ours for row in rows}:
        raise KeyError(f"no row for {sorted(unknown)[0]}")
    return {
        row.theirs: row.to_theirs(np.asarray(jax.device_get(flat[row.ours])))
        for row in rows
    }


def to_ours(rows: tuple[Row, ...], tensors: Mapping[str, np.ndarray]) -> PyTree:
    """Converts another library's tensors to our variables, in float32.

    Args:
      rows: rows of the tensors' architecture.
      tensors: arrays by the library's names, one for each row.

    Returns:
      ``{"params", "batch_stats"}``.

    Raises:
      KeyError: a tensor is missing.
    """
    flat = {
        row.ours: row.to_ours(tensors[row.theirs]).astype(np.float32, copy=False)
        for row in rows
    }
    return traverse_util.unflatten_dict(flat, sep="/")


def _rows(architecture: Architecture, naming: Naming) -> Iterator[Row]:
    def layer(ours: str, theirs: str, kind: str) -> Iterator[Row]:
        shape_of = "conv" if kind == "biased" else kind
        for variable in _VARIABLES[kind]:
            collection, leaf = variable.split("/")
            yield Row(
                f"{collection}/{ours}/{leaf}",
                theirs + naming.joint + naming.leaves[shape_of][leaf],
                naming.axes.get(shape_of) if leaf == "kernel" else None,
            )

    outside = naming.outside
    yield from layer("stem_conv", outside["stem_conv"], "conv")
    yield from layer("stem_bn", outside["stem_bn"], "norm")
    flat = 0
    for number, stage in enumerate(architecture.stages):
        plain = stage.expand == 1
        names = naming.plain if plain else naming.expanding
        parts = [] if plain else [("expand_conv", "conv"), ("expand_bn", "norm")]
        parts += [("depthwise_conv", "depthwise"), ("depthwise_bn", "norm")]
        if stage.se_ratio:
            parts += [("se_reduce", "biased"), ("se_expand", "biased")]
        parts += [("project_conv", "conv"), ("project_bn", "norm")]
        for place in range(stage.repeats):
            block = naming.block.format(flat=flat, stage=number, place=place)
            for part, kind in parts:
                theirs = block + naming.joint + names[part]
                yield from layer(f"blocks_{flat}/{part}", theirs, kind)
            flat += 1
    yield from layer("head_conv", outside["head_conv"], "conv")
    yield from layer("head_bn", outside["head_bn"], "norm")
    yield from layer("classifier", outside["classifier"], "dense")

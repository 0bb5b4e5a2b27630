"""The parameters of a model by block, as rows and as a table."""

import dataclasses
import itertools
import re
from typing import Any

import jax
from clu import parameter_overview

from noisy_student_jax.core.types import PyTree

KERNELS = 5
"""Kernels shown of a block, so that a row fits a terminal."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A block, or several in a row with the same shapes.

    Attributes:
      block: the name of the block, or of the first and the last.
      kernels: shapes of the arrays with more than one axis, without axes of length 1.
      parameters: the number of parameters.
    """

    block: str
    kernels: str
    parameters: int


def rows(params: PyTree) -> list[Row]:
    """Returns the parameters of a model by block.

    Args:
      params: the ``params`` of its variables, or their shapes.
    """
    found = []
    blocks = sorted(params, key=_numbered)
    for _, alike in itertools.groupby(blocks, lambda name: _shapes(params[name])):
        names = list(alike)
        found.append(
            Row(
                " … ".join(dict.fromkeys((names[0], names[-1]))),
                _told(params[names[0]]),
                int(parameter_overview.count_parameters({n: params[n] for n in names})),
            )
        )
    return found


def table(found: list[Row]) -> str:
    """Formats `rows` as a table, with their total."""
    total = sum(row.parameters for row in found)
    return parameter_overview.make_table([*found, Row("total", "", total)])


def _shapes(block: Any) -> str:
    return str(jax.tree.map(lambda leaf: leaf.shape, block))


def _told(block: Any) -> str:
    shapes = [leaf.shape for leaf in jax.tree.leaves(block) if len(leaf.shape) > 1]
    told = ["×".join(str(n) for n in one if n > 1) or "1" for one in shapes]
    more = len(told) - KERNELS
    return ", ".join(told[:KERNELS]) + (f" and {more} more" if more > 0 else "")


def _numbered(name: str) -> list[int | str]:
    """Returns a key that sorts ``blocks_10`` after ``blocks_9``."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]

"""Classification's section of the report: which classes are confused."""

import collections
import pathlib

import numpy as np
import pyarrow as pa

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import DamagedFileError
from noisy_student_jax.core.protocols import ReportContext
from noisy_student_jax.core.sections import (
    Beside,
    Block,
    Confusion,
    Heading,
    Section,
    Table,
    Text,
)

MANY_CLASSES = 20
"""Up to this many classes have a matrix."""
_PAIRS_SHOWN = 20
_PAIRS_BESIDE = 8


def mistakes(context: ReportContext, classes: tuple[str, ...]) -> Section:
    """Returns the confusion of the best model on the test images."""
    blocks: list[Block] = [Heading(f"Confusion of {context.best.title}")]
    table = _read(context.best.predictions, context.best.title)
    if isinstance(table, str):
        blocks.append(Text(f"There is no confusion to show: {table}.", missing=True))
    else:
        blocks += _confusion(table, classes)
    return Section("mistakes", "Mistakes", "Mistakes", blocks)


def _read(path: pathlib.Path, title: str) -> pa.Table | str:
    """Returns the predictions for the test images, or a phrase on their absence."""
    try:
        table = files.read_parquet(path)
    except FileNotFoundError:
        return f"{path.name} of {title} is not there"
    except (DamagedFileError, OSError):
        return f"{path.name} of {title} cannot be read"
    names = set(table.column_names)
    columns = [table[name] for name in ("truth", "label") if name in names]
    if len(columns) < 2 or not all(
        pa.types.is_integer(column.type) and not column.null_count for column in columns
    ):
        return "this task's truths are not classes, one an image"
    return table


def _confusion(table: pa.Table, classes: tuple[str, ...]) -> list[Block]:
    truth, label = (table[name].to_numpy() for name in ("truth", "label"))
    pairs, times = np.unique(np.stack([truth, label]), axis=1, return_counts=True)
    found = {(int(t), int(p)): int(n) for t, p, n in zip(*pairs, times, strict=True)}
    totals = collections.Counter(truth.tolist())
    wrong = sorted(
        ((n, *pair) for pair, n in found.items() if pair[0] != pair[1]),
        key=lambda one: (-one[0], one[1:]),
    )
    count = sum(n for n, _, _ in wrong)
    says = f"{count:,} of {len(truth):,} test images are taken for another class."
    beside: list[Block] = []
    if len(classes) <= MANY_CLASSES and all(
        0 <= number < len(classes) for pair in found for number in pair
    ):
        counts = np.zeros((len(classes), len(classes)), np.int64)
        for pair, n in found.items():
            counts[pair] = n
        beside.append(
            Confusion(
                "Test images by true class (rows) and predicted class (columns)",
                classes,
                counts,
            )
        )
    if wrong:
        left = max(0, len(wrong) - _PAIRS_SHOWN)
        more = f"; {left:,} rarer ones are left out" if left else ""
        shown = wrong[: _PAIRS_BESIDE if beside else _PAIRS_SHOWN]
        beside.append(
            Table(
                "Most confused pairs",
                f"The most confused pairs{more}",
                ("True", "Taken for", "Images", "Of the class"),
                [
                    (_name(classes, t), _name(classes, p), n, n / totals[t])
                    for n, t, p in shown
                ],
                texts=2,
            )
        )
    return [Text(says), Beside(beside)]


def _name(classes: tuple[str, ...], label: int) -> str:
    """Returns the name of a class, or its number if it has no name."""
    return classes[label] if 0 <= label < len(classes) else f"class {label}"

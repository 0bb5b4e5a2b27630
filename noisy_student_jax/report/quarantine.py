"""Unusable records: their number, and the names of the first."""

import pathlib
from typing import Any

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import DamagedFileError

SHOWN = 50


def quarantine(path: pathlib.Path) -> dict[str, Any]:
    """Returns the first quarantined records, of possibly millions, and their number.

    Args:
      path: a Parquet file with columns ``key`` and ``reason``.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        with files.open_parquet(path) as file:
            total = file.metadata.num_rows
            first = next(file.iter_batches(SHOWN, columns=["key", "reason"]), None)
            rows = first.to_pylist() if first else []
    except FileNotFoundError:
        return {"missing": f"{path.name} is not there", "total": 0, "rows": []}
    except (DamagedFileError, OSError, ValueError):
        return {"missing": f"{path.name} cannot be read", "total": 0, "rows": []}
    return {"missing": None, "where": where, "total": total, "rows": rows}

"""Records that could not be used: how many, and the first of them by name."""

import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SHOWN = 50


def quarantine(path: pathlib.Path) -> dict[str, Any]:
    """Reads the first quarantined records; at scale there may be millions.

    Args:
      path: a Parquet file with columns ``key`` and ``reason``.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        with pq.ParquetFile(path) as file:
            total = file.metadata.num_rows
            first = next(file.iter_batches(SHOWN, columns=["key", "reason"]))
            rows = first.to_pylist()
    except StopIteration:
        return {"missing": None, "where": where, "total": 0, "rows": []}
    except FileNotFoundError:
        return {"missing": f"{path.name} is not there", "total": 0, "rows": []}
    except (pa.ArrowException, OSError, ValueError):
        return {"missing": f"{path.name} cannot be read", "total": 0, "rows": []}
    return {"missing": None, "where": where, "total": total, "rows": rows}

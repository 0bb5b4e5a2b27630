"""Records which part of the dataset each record belongs to."""

import pyarrow as pa

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.runs.paths import DATASET
from noisy_student_jax.runs.run import Run

SPLITS = "data/splits.parquet"
QUARANTINE = "data/quarantine.parquet"


def write_splits(run: Run) -> dict[str, int]:
    """Writes the splits, the dataset's description and its quarantine.

    The files are ``data/splits.parquet`` (key, part), ``data/dataset.json`` and
    ``data/quarantine.parquet`` (key, reason) for unusable records.

    Returns:
      The number of records by part, and of quarantined records.

    Raises:
      UserError: a record is in two parts.
    """
    parts = run.dataset.parts()
    seen: dict[str, str] = {}
    for name, source in parts.items():
        for index in range(len(source)):
            key = source.key(index)
            if key in seen:
                raise UserError(
                    f"record '{key}' of dataset '{run.dataset.name}' is in both"
                    f" {seen[key]} and {name}: every record may be in one part only"
                )
            seen[key] = name
    table = pa.table({"key": list(seen), "part": list(seen.values())})
    files.write_parquet(run.workdir / SPLITS, table)
    quarantined = [
        {"key": key, "reason": reason} for key, reason in run.dataset.quarantined
    ]
    schema = pa.schema([("key", pa.string()), ("reason", pa.string())])
    files.write_parquet(
        run.workdir / QUARANTINE, pa.Table.from_pylist(quarantined, schema)
    )
    counts = {name: len(source) for name, source in parts.items()}
    files.write_json(
        run.workdir / DATASET,
        {
            "name": run.dataset.name,
            "classes": list(run.dataset.classes),
            "splits": counts,
            "fingerprints": run.fingerprints,
            "facts": run.dataset.facts,
        },
    )
    return {**counts, "quarantined": len(quarantined)}

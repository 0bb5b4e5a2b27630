"""Pseudo-labeled images that are like no class: the pool's foreign ones, if any."""

from typing import Any

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import DamagedFileError, UserError
from noisy_student_jax.report.gallery import one_line, tile
from noisy_student_jax.report.pseudo import class_name
from noisy_student_jax.report.students import Shown, generations
from noisy_student_jax.runs.paths import SUSPECTS
from noisy_student_jax.runs.run import Run


def suspects(
    run: Run, summary: dict[str, Any], students: list[Shown]
) -> dict[str, Any] | None:
    """Returns the last student's suspects with their pictures; None without any."""
    paths = [one.folder / "train" / SUSPECTS for one in generations(students)]
    there = [path for path in paths if files.is_file(path)]
    if not there:
        return None
    try:
        found = files.read_parquet(there[-1]).to_pylist()
        pool = run.dataset.pool
        records = [row["record"] for row in found]
        if [pool.key(record) for record in records] != [row["key"] for row in found]:
            raise ValueError("the pool is not the one that was labeled")
        examples = pool.read(records)
    except DamagedFileError:
        return {"missing": f"{SUSPECTS} is damaged"}
    except (UserError, OSError, ValueError, LookupError, RuntimeError) as error:
        # Data may be unavailable by now; the report is written without it.
        return {"missing": one_line(error)}
    tiles = [
        tile(row["key"], image, status)
        | {
            "label": class_name(summary["classes"], row["label"]),
            "likeness": f"{row['likeness']:.2f}",
        }
        for row, image, status in zip(
            found, examples.images, examples.status, strict=True
        )
    ]
    return {"missing": None, "tiles": tiles}

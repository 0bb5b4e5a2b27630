"""The table that a run prints at its end."""

from collections.abc import Sequence
from typing import Any

from noisy_student_jax.core import console
from noisy_student_jax.report import formatting
from noisy_student_jax.runs.run import Run
from noisy_student_jax.runs.spec import Role


def text_table(run: Run, summary: dict[str, Any]) -> str:
    """Formats a row for each model and, where they have intervals, all metrics."""
    metric = summary["primary_metric"]
    head = ("", "model", "parameters", "px", "labeled", "pseudo", f"{metric} raw")
    interval = f"{run.config.evaluation.confidence:.0%} interval"
    rows = [(*head, f"{metric} EMA", interval, "time")]
    entries = [
        (one["generation"], f"generation {one['generation']}", one)
        for one in summary["generations"]
    ]
    if summary["control"]:
        entries.append((Role.CONTROL, Role.CONTROL, summary["control"]))
    entries += [
        (one["name"], Role(one["name"]).display_name, one)
        for one in summary["baselines"]
    ]
    titled = [
        (f"{title} ★" if name == summary["best"] else title, entry)
        for name, title, entry in entries
    ]
    for title, entry in titled:
        rows.append(
            (
                title,
                entry["model"],
                f"{entry['parameters']:,}",
                formatting.resolution(entry),
                f"{entry['labeled']:,}",
                f"{entry['pseudo_labeled']:,}",
                formatting.hundredths(entry["raw"][metric]),
                formatting.hundredths(entry["metrics"][metric]),
                formatting.interval(entry["interval"]),
                console.duration(entry["seconds"]),
            )
        )
    table = aligned(rows, left=2)
    if others := _with_intervals(titled, metric):
        table += f"\n\n{aligned(others, left=1)}"
    return table


def _with_intervals(
    titled: Sequence[tuple[str, dict[str, Any]]], primary: str
) -> list[tuple[str, ...]]:
    """Returns a row for each metric that has intervals, a column for each model."""
    names = dict.fromkeys(
        name for _, entry in titled for name in entry.get("intervals", ())
    )
    if len(names) < 2:
        return []
    rows = [("", *(title for title, _ in titled))]
    for name in names:
        cells = [
            formatting.with_interval(name, entry, primary=primary)
            for _, entry in titled
        ]
        rows.append((console.printable(name), *cells))
    return rows


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Aligns the first `left` columns to the left, and others to the right."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if n < left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)

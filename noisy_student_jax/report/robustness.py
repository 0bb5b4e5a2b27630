"""The report's section on robustness: results of the suites that were run."""

from typing import Any

from noisy_student_jax.report.formatting import NOTHING, percent
from noisy_student_jax.report.students import Shown
from noisy_student_jax.robustness import results


def table(students: list[Shown]) -> dict[str, Any] | None:
    """Returns a row for each model with a suite's result; None without any."""
    rows: list[dict[str, Any]] = []
    epsilons: list[str] = []
    for one in students:
        worn = results.read(one.folder, "corruptions")
        attacked = results.read(one.folder, "fgsm")
        if worn:
            clean = worn["clean_error"]
        elif attacked:
            clean = 1 - attacked["clean_top1"]
        else:
            continue
        top1 = attacked["top1"] if attacked else {}
        epsilons += [epsilon for epsilon in top1 if epsilon not in epsilons]
        relative = worn and worn["relative"]
        rows.append(
            {
                "title": one.title,
                "css": one.css,
                "clean": percent(clean),
                "corrupted": percent(worn["mean_error"]) if worn else NOTHING,
                "relative": f"{relative:.2f}" if relative else NOTHING,
                "attacked": {e: percent(1 - value) for e, value in top1.items()},
            }
        )
    if not rows:
        return None
    epsilons.sort(key=float)
    for row in rows:
        row["attacked"] = [row["attacked"].get(e, NOTHING) for e in epsilons]
    return {"rows": rows, "epsilons": epsilons}

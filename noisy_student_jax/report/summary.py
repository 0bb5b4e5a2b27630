"""Summarizes a run: its table, the model to use, and what a student gains."""

import math
import pathlib
from typing import Any

import pyarrow as pa

from noisy_student_jax import report
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.evaluation import resampling, statistics
from noisy_student_jax.generation.left_out import left_out
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.report import choice, formatting, results
from noisy_student_jax.report.choice import Choice, Row
from noisy_student_jax.report.text_table import text_table
from noisy_student_jax.runs.run import Generation, Run
from noisy_student_jax.runs.spec import Role

SUMMARY = "summary.json"

Judged = tuple[list[choice.Key], pa.Array]
"""Keys of images, and the task's statistics of each."""


def judge(run: Run) -> dict[str, Any]:
    """Writes ``summary.json``, ``best/``, ``README.md`` and ``report.html``.

    Returns:
      The name of the best row of the table, and the verdict as a sentence.
    """
    summary = summarize(run)
    files.write_json(run.workdir / SUMMARY, summary)
    _keep_best(run, summary["best"])
    files.write_atomically(run.workdir / "README.md", _readme(run, summary))
    report.write(run, summary)
    return {"best": summary["best"], "verdict": summary["verdict"]["says"]}


def summarize(run: Run) -> dict[str, Any]:
    """Collects the results of the stages, the best model and the verdict."""
    whole = [run.student(number) for number in range(run.last + 1)]
    # A teacher without a confident pseudo-label has no student.
    students = [
        one for one in whole if run.ledger.manifest(f"{one.spec.name}/evaluate")
    ]
    generations = [_generation(student) for student in students]
    metric = run.task.primary_metric
    rivals = {name: run.student(name) for name in run.compared_with}
    control = rivals.get(Role.CONTROL)
    rows = [_row(one) for one in (*students, *rivals.values())]
    chosen = choice.choose(rows, run.task.primary)
    found = {
        "schema": 1,
        "task": run.config.task,
        "dataset": run.dataset.name,
        "classes": list(run.dataset.classes),
        "primary_metric": metric,
        "splits": {
            "train": len(run.dataset.labeled),
            # Unreadable images are not counted.
            **_judged(students[-1]),
            "pool": len(run.dataset.pool),
        },
        "generations": generations,
        "control": _trained(control) if control else None,
        "baselines": [
            {"name": name, **_trained(rival)}
            for name, rival in rivals.items()
            if name != Role.CONTROL
        ],
        "best": chosen.best,
        "verdict": (
            _verdict(run, chosen) if students == whole else _no_student(students[-1])
        ),
        "choice": {
            "says": chosen.says,
            "notes": chosen.notes,
            "leads": chosen.leads,
        },
    }
    return statistics.without_nan(found)


def _generation(student: Generation) -> dict[str, Any]:
    return {"generation": student.spec.generation, **_trained(student)}


def _trained(student: Generation) -> dict[str, Any]:
    """Returns the summary's entry for a trained model."""
    ledger = student.run.ledger
    trained = ledger.finished(f"{student.spec.name}/train")
    final = student.final
    refined = ledger.finished(f"{student.spec.name}/{final.spec.stage}")
    evaluation = files.read_json(student.paths.evaluation)
    test, validation = (evaluation["splits"][part] for part in ("test", "validation"))
    seconds = sum(
        manifest["seconds"]
        for stage in dict.fromkeys(
            ("train", final.spec.stage, "evaluate", "label", "select")
        )
        if (manifest := ledger.manifest(f"{student.spec.name}/{stage}"))
    )
    intervals = {"intervals": test["intervals"]} if "intervals" in test else {}
    return {
        "model": evaluation["model"],
        "parameters": trained["counts"]["parameters"],
        "resolution": final.spec.model.resolution,
        # The resolution before FixRes.
        "trained_at": student.spec.model.resolution,
        "labeled": trained["counts"]["labeled"],
        "pseudo_labeled": trained["counts"]["pseudo_labeled"],
        "images_drawn": trained["counts"]["images_drawn"]
        + (refined["counts"]["images_drawn"] if final.spec.fine_tunes else 0),
        # By the generations whose weights it started from.
        "drawn_before": _drawn_before(student),
        "metrics": test["ema"],
        "raw": test["raw"],
        "interval": test["interval"],
        **intervals,
        "validation": validation["ema"],
        "seconds": round(seconds, 1),
    }


def _drawn_before(student: Generation) -> int:
    """Returns the image draws in the weights that a model started from."""
    start = student.start
    if start is None:
        return 0
    stages = dict.fromkeys(("train", start.final.spec.stage))
    manifests = [
        start.run.ledger.manifest(f"{start.spec.name}/{stage}") for stage in stages
    ]
    drawn = sum(one["counts"].get("images_drawn", 0) for one in manifests if one)
    return drawn + _drawn_before(start)


def _row(student: Generation) -> Row:
    """Returns what a trained model does on images that it has not learned from."""
    run, spec = student.run, student.spec
    entry = files.read_json(student.paths.evaluation)["splits"]["validation"]
    mean = entry["ema"][run.task.primary_metric]
    parts = [_left_out(student)]
    if not run.dataset.cross_fitted:
        parts.append(_on_validation(student))
    known = [one for one in parts if one is not None]
    return Row(
        name=spec.generation,
        role=spec.role,
        parameters=run.ledger.finished(f"{spec.name}/train")["counts"]["parameters"],
        mean=math.nan if mean is None else mean,
        images=entry["images"],
        given=spec.adopted is not None,
        **_joined(known),
    )


def _joined(parts: list[Judged]) -> dict[str, Any]:
    """Returns the fields of a `Row` on single images."""
    if not parts:
        return {}
    return {
        "keys": [key for keys, _ in parts for key in keys],
        "statistics": pa.concat_arrays([statistics for _, statistics in parts]),
    }


def _on_validation(student: Generation) -> Judged | None:
    """Returns the statistics of each validation image, if they were recorded."""
    path = student.paths.validation
    if not files.is_file(path):
        return None  # by an older version
    keys, found = _recorded(path)
    return [(choice.VALIDATION, key) for key in keys], found


def _left_out(student: Generation) -> Judged | None:
    """Returns the statistics of each labeled image when it was left out."""
    found = left_out(student)
    if found is None:
        return None
    statistics = student.run.task.statistics(found.predictions, found.truth)
    return [(choice.LEFT_OUT, key) for key in found.keys], statistics


def _recorded(path: pathlib.Path) -> tuple[list[str], pa.Array]:
    """Reads keys and statistics of the images of an evaluation."""
    table = files.read_parquet(path, columns=["key", "primary"])
    return table["key"].to_pylist(), table["primary"].combine_chunks()


def _verdict(run: Run, chosen: Choice) -> dict[str, Any]:
    """Compares the best student with its best rival on the test images."""
    options = run.config.evaluation
    if chosen.student is None or chosen.rival is None:
        return {
            "against": None,
            "difference": None,
            "interval": None,
            "says": "there is one generation and no control: nothing to compare with",
        }
    rival = run.student(chosen.rival)
    role, ours, theirs = rival.spec.role, *paired(run.student(chosen.student), rival)
    primary = run.task.primary
    difference = resampling.difference(
        ours,
        theirs,
        primary,
        confidence=options.confidence,
        samples=options.bootstrap,
        seed=run.config.seed,
    )
    return {
        "against": str(role),
        "student": chosen.student,
        "difference": difference.value,
        "interval": [difference.low, difference.high],
        "method": f"paired bootstrap over test images, {options.bootstrap:,} samples",
        "confidence": options.confidence,
        "images": difference.images,
        "only_student_right": difference.only_ours,
        "only_rival_right": difference.only_theirs,
        "outcome": statistics.judge(difference),
        "says": statistics.sentence(
            difference,
            ours=float(primary(ours)[0]),
            theirs=float(primary(theirs)[0]),
            against=_AGAINST[role],
        ),
    }


_AGAINST = {
    Role.CONTROL: "labels-only",
    Role.TEACHER: "teacher",
    Role.PROBE: "labels-only probe",
    Role.FINE_TUNING: "labels-only fine-tuning",
}


def _no_student(teacher: Generation) -> dict[str, Any]:
    """Returns the verdict of a run that ended at a teacher."""
    started = teacher.run.ledger.started(f"{teacher.spec.name}/select") or {}
    return {
        "against": None,
        "difference": None,
        "interval": None,
        "outcome": results.NO_STUDENT,
        "says": f"no student learned from {teacher.spec.name}:"
        f" {started.get('ended', 'its selection is missing')}",
    }


def paired(one: Generation, other: Generation) -> tuple[pa.Array, pa.Array]:
    """Returns the statistics of two models for each test image common to both.

    An image that was unreadable in one of the evaluations is in neither result.

    Returns:
      Two arrays ``[images]``.

    Raises:
      UserError: the evaluations have no image in common.
    """
    ours, theirs = (_recorded(student.paths.predictions) for student in (one, other))
    both = sorted(set(ours[0]) & set(theirs[0]))
    if not both:
        raise UserError(
            f"{one.spec.name} and {other.spec.name} were judged on different test"
            " images: evaluate both again"
        )
    return resampling.of_images(*ours, both), resampling.of_images(*theirs, both)


def _judged(student: Generation) -> dict[str, int]:
    """Returns the number of images in a student's evaluation, by part."""
    splits = files.read_json(student.paths.evaluation)["splits"]
    return {part: splits[part]["images"] for part in ("validation", "test")}


def _keep_best(run: Run, best: int | str) -> None:
    """Copies the best model's bundle to ``best/``."""
    source, target = run.student(best).paths.model, run.workdir / "best"
    for path in files.list_folder(target):
        if not files.exists(source / path.name):
            files.remove(path)
    for path in files.list_folder(source):
        files.copy_file(path, target / path.name)
    bundles.read(target)


def _readme(run: Run, summary: dict[str, Any]) -> str:
    verdict, chosen = summary["verdict"]["says"], summary["choice"]
    use = " ".join(
        f"{formatting.capitalized(one)}." for one in (chosen["says"], *chosen["notes"])
    )
    return f"""# A run of Noisy Student Training

{verdict}

{use}

```
{text_table(run, summary)}
```

Data: {summary["dataset"]}, {summary["splits"]["train"]:,} labeled images,
{summary["splits"]["pool"]:,} unlabeled; judged on {summary["splits"]["test"]:,} test
images that nothing else touched, and that chose nothing.

- `report.html`: the result, to look at
- `best/`: the model to use (★): `noisy-student predict --model=best IMAGE…`
- `config.json`: what was run; `ledger/`: from what, and with which versions

Made by this command, which also resumes it, or says that it is finished:

```
{run.command}
```
"""

"""The report's sections on the verdict, the models and the primary metric."""

import dataclasses
import pathlib
from typing import Any

from markupsafe import Markup

from noisy_student_jax import models
from noisy_student_jax.core import files
from noisy_student_jax.report import svg
from noisy_student_jax.report.formatting import (
    NOTHING,
    capitalized,
    count,
    interval,
    is_interval,
    is_number,
    percent,
    points,
    resolution,
    seconds,
    with_interval,
)
from noisy_student_jax.report.students import Shown, control
from noisy_student_jax.runs.run import Run
from noisy_student_jax.runs.spec import Role

_HEADLINES = {
    "better": "The student is better than {rival}.",
    "probably better, not surely": (
        "The student is probably better than {rival}, not surely."
    ),
    "cannot tell": "This test cannot tell the student and {rival} apart.",
    "probably worse, not surely": (
        "{Rival} is probably better than the student, not surely."
    ),
    "worse": "{Rival} is better than the student.",
}
NO_STUDENT = "no student"
"""The outcome of a run whose teacher had no confident pseudo-label."""
_RIVALS = {
    "control": "the control",
    "teacher": "the first teacher",
    "probe": "the probe",
    "fine_tuning": "fine-tuning on labels only",
}
_ROW = 52


def verdict(workdir: pathlib.Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the contents of the section on the verdict."""
    found: dict[str, Any] = summary["verdict"] or {}
    rival = _RIVALS.get(found.get("against", ""))
    headline = _HEADLINES.get(found.get("outcome", ""))
    if rival and headline:
        headline = headline.format(rival=rival, Rival=capitalized(rival))
    elif found.get("outcome") == NO_STUDENT:
        headline = "No pseudo-label was confident enough to learn from."
    else:
        headline = "There is nothing to compare with."
    return {
        "headline": headline,
        "says": found.get("says") or "",
        "use": capitalized((summary.get("choice") or {}).get("says") or ""),
        "chart": _difference(found, rival),
        "facts": _comparison(summary, rival),
        "notes": _notes(workdir, summary),
    }


def table(run: Run, summary: dict[str, Any], students: list[Shown]) -> dict[str, Any]:
    """Returns the table of models, and a table of all their metrics."""
    primary = summary["primary_metric"]
    rows = []
    for one in students:
        entry = one.entry
        measured = (entry.get(part) or {} for part in ("metrics", "raw", "validation"))
        ema, raw, validation = (metrics.get(primary) for metrics in measured)
        rows.append(
            {
                "title": one.title,
                "css": one.css,
                "best": one.name == summary["best"],
                "model": entry.get("model", NOTHING),
                "parameters": count(entry.get("parameters")),
                "resolution": resolution(entry),
                "labeled": count(entry.get("labeled")),
                "pseudo_labeled": count(entry.get("pseudo_labeled")),
                "images_drawn": count(entry.get("images_drawn")),
                "raw": percent(raw),
                "ema": percent(ema),
                "interval": interval(entry.get("interval")),
                "validation": percent(validation),
                "seconds": seconds(entry.get("seconds")),
            }
        )
    return {
        "rows": rows,
        # Heads that are solved have no average of their own.
        "averaged": any(row["raw"] != row["ema"] for row in rows),
        "members": _members(run),
        "left_out": run.dataset.cross_fitted,
        "has_control": control(students) is not None,
        "primary": primary,
        "confidence": percent(run.config.evaluation.confidence, digits=0),
        "others": _all_metrics(students, primary),
    }


def _members(run: Run) -> list[str]:
    """Says which networks each model consists of, where it is several."""
    told = []
    for one in run.students:
        model = one.spec.model
        networks = models.members(model.name, model.arguments.get("members"))
        if len(networks) > 1:
            told.append(f"{model.name}: the features of {' + '.join(networks)}")
    return list(dict.fromkeys(told))


def by_generation(summary: dict[str, Any], students: list[Shown]) -> Markup | None:
    """Draws the primary metric of each model with its interval.

    Returns:
      None if no model has a number.
    """
    primary = summary["primary_metric"]
    values = {
        one.title: one.entry["metrics"].get(primary)
        for one in students
        if is_number((one.entry.get("metrics") or {}).get(primary))
    }
    if not values:
        return None
    shown = [one for one in students if one.title in values]
    ends = [100 * value for value in values.values()]
    for one in shown:
        if is_interval(one.entry.get("interval")):
            ends += [100 * end for end in one.entry["interval"]]
    scale = svg.Scale(min(ends), max(ends), ticks=5)
    height = _ROW * len(shown) + 12
    marks = [svg.line(scale(t), 0, scale(t), height, "grid") for t in scale.ticks]
    marks += [
        svg.text(scale(t), height + 18, f"{scale.name(t)} %", anchor="middle")
        for t in scale.ticks
    ]
    rival = control(shown)
    if rival:
        at = scale(100 * values[rival.title])
        if is_interval(rival.entry.get("interval")):
            low, high = (scale(100 * end) for end in rival.entry["interval"])
            marks.append(svg.rectangle(low, 0, high - low, height, "band control"))
        marks.append(svg.line(at, 0, at, height, "reference control"))
    for number, one in enumerate(shown):
        marks += _row(one, values[one.title], scale, _ROW * number + 6)
    title = f"{primary} on the test images: " + "; ".join(
        f"{name} {percent(value)}" for name, value in values.items()
    )
    return svg.chart(title, *marks, height=height + 26, css="inset")


def _row(one: Shown, value: float, scale: svg.Scale, top: float) -> list[Markup]:
    """Draws one model: its name and number above its interval."""
    at, middle = scale(100 * value), top + 32
    model = svg.tag("tspan", f" {one.entry.get('model', '')}", class_="aside wide")
    bounds = svg.tag("tspan", f" {interval(one.entry.get('interval'))}", class_="aside")
    marks = [
        svg.text(0, top + 16, one.title, model, class_="name halo"),
        svg.text(1, top + 16, percent(value), bounds, anchor="end", class_="name halo"),
    ]
    if is_interval(one.entry.get("interval")):
        low, high = (scale(100 * end) for end in one.entry["interval"])
        marks.append(svg.line(low, middle, high, middle, f"whisker {one.css}"))
    if one.is_control:
        # The control has its own shape, for color-blind readers.
        return [*marks, _diamond(at, middle, one.css)]
    return [*marks, svg.circle(at, middle, 6, f"dot {one.css}")]


def _diamond(x: float, y: float, css: str) -> Markup:
    shape = svg.tag("polygon", points="0,-7 7,0 0,7 -7,0", class_=f"dot {css}")
    return svg.tag("svg", shape, x=svg.across(x), y=y, class_="loose")


def _difference(found: dict[str, Any], rival: str | None) -> Markup | None:
    """Draws the difference and its interval against zero."""
    value, ends = found.get("difference"), found.get("interval")
    if rival is None or not is_number(value) or not is_interval(ends):
        return None
    reach = 100 * max(abs(end) for end in (value, *ends)) * 1.15 or 1.0
    scale = svg.Scale(-reach, reach, ticks=6, tight=True)
    low, high = (scale(100 * end) for end in ends)
    at, zero = scale(100 * value), scale(0)
    # Only a significant difference has a color.
    side = "ahead" if ends[0] > 0 else "behind" if ends[1] < 0 else "level"
    marks = [svg.line(scale(t), 46, scale(t), 86, "grid") for t in scale.ticks]
    marks += [
        svg.text(scale(t), 104, _signed(scale, t), anchor="middle") for t in scale.ticks
    ]
    marks += [
        svg.text(0, 14, f"← {rival} better", class_="aside"),
        svg.text(1, 14, "student better →", anchor="end", class_="aside"),
        svg.rectangle(low, 56, high - low, 18, f"span {side}", rx=3),
        svg.line(zero, 46, zero, 86, "zero"),
        svg.circle(at, 65, 7, f"dot {side}"),
        svg.text(at, 40, points(value), anchor="middle", class_="name"),
    ]
    title = (
        f"difference {points(value)} points, interval {interval(ends, signed=True)},"
        " against zero"
    )
    return svg.chart(title, *marks, height=110, css="inset")


def _signed(scale: svg.Scale, value: float) -> str:
    name = scale.name(value)
    return f"+{name}" if value > scale.step / 2 else name


def _comparison(summary: dict[str, Any], rival: str | None) -> list[tuple[str, str]]:
    """Returns the comparison behind the verdict as terms and facts."""
    found = summary["verdict"]
    theirs, student = _rival(summary), _student(summary)
    if rival is None or theirs is None:
        return []
    facts = [("Student", f"generation {student['generation']}, {_trained(student)}")]
    if found["against"] == "teacher":
        facts.append(("First teacher", f"generation 0, {_trained(theirs)}"))
    else:
        name = capitalized(Role(found["against"]).display_name)
        facts.append((name, f"{_trained(theirs)}: what labels alone give"))
    facts.append(
        (
            "Difference",
            f"{points(found.get('difference'))} points,"
            f" {percent(found.get('confidence'), digits=0)} interval"
            f" {interval(found.get('interval'), signed=True)}",
        )
    )
    if found.get("method"):
        facts.append(("Method", found["method"]))
    images = found.get("images")
    ours, theirs = found.get("only_student_right"), found.get("only_rival_right")
    if is_number(images):
        facts.append(("Test images", f"{count(images)}, the same for both"))
    if is_number(ours) and is_number(theirs):
        facts.append(
            (
                "Where they differ",
                f"only the student is right on {count(ours)}, only {rival} on"
                f" {count(theirs)}",
            )
        )
    return facts


def _trained(entry: dict[str, Any]) -> str:
    return (
        f"{entry.get('model', NOTHING)} trained on {count(entry.get('labeled'))}"
        f" labeled and {count(entry.get('pseudo_labeled'))} pseudo-labeled images,"
        f" {count(entry.get('images_drawn'))} image draws"
    )


@dataclasses.dataclass(frozen=True)
class Note:
    """A sentence beside the verdict; adverse if it counts against the student."""

    says: str
    adverse: bool = False


def _notes(workdir: pathlib.Path, summary: dict[str, Any]) -> list[Note]:
    """Returns the comparisons beside the verdict, whether favorable or adverse."""
    name, entries = summary["primary_metric"], summary["generations"]
    student, rival = _student(summary), summary.get("control")
    notes = []
    if not files.is_file(workdir / "best" / "model.json"):
        notes.append(Note("best/ is not there.", adverse=True))
    also = (summary.get("choice") or {}).get("notes") or []
    notes += [Note(f"{capitalized(says)}.") for says in also]
    if student is not entries[-1]:
        notes.append(
            Note(
                f"The verdict is on generation {student['generation']}, the best"
                " student, and not on the last."
            )
        )
    notes += _against_teacher(entries[0], student, name)
    against = summary["verdict"].get("against")
    theirs, ours = (_drawn(one) for one in (rival or {}, student))
    if rival and against == "control" and theirs != ours:
        notes.append(
            Note(
                "The comparison is not on equal terms: the control drew"
                f" {count(theirs)} images, the student {count(ours)}, those of the"
                " weights that they started from included.",
                adverse=True,
            )
        )
    return notes


def _drawn(entry: dict[str, Any]) -> int | None:
    """Returns a model's image draws, with those of the weights that it started from."""
    own = entry.get("images_drawn")
    return None if own is None else own + (entry.get("drawn_before") or 0)


def _student(summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the entry of the student that the verdict is on."""
    entries, number = summary["generations"], summary["verdict"].get("student")
    found = [entry for entry in entries if entry["generation"] == number]
    return found[0] if found else entries[-1]


def _rival(summary: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the entry of the model that the student is compared with."""
    against = summary["verdict"].get("against")
    named = {entry["name"]: entry for entry in summary["baselines"]}
    named |= {"control": summary.get("control"), "teacher": summary["generations"][0]}
    return named.get(against)


def _against_teacher(
    first: dict[str, Any], student: dict[str, Any], name: str
) -> list[Note]:
    ours, theirs = _value(student, "metrics", name), _value(first, "metrics", name)
    if first is student or not (is_number(ours) and is_number(theirs)):
        return []
    our, their = percent(ours), percent(theirs)
    if ours > theirs:
        says = f"The student is ahead of the first teacher: {our} against"
        return [Note(f"{says} {their} on the test images.")]
    if ours < theirs:
        says = f"The first teacher is ahead of the student: {their} against"
        return [Note(f"{says} {our} on the test images.", adverse=True)]
    says = "The student and the first teacher are level"
    return [Note(f"{says}, both at {our} of the test images.")]


def _value(entry: dict[str, Any], part: str, name: str) -> Any:
    return (entry.get(part) or {}).get(name)


def _all_metrics(students: list[Shown], primary: str) -> dict[str, Any] | None:
    names = list(
        dict.fromkeys(n for one in students for n in one.entry.get("metrics") or {})
    )
    if len(names) < 2:
        return None
    return {
        "names": names,
        "intervals": any(one.entry.get("intervals") for one in students),
        "rows": [
            {
                "title": one.title,
                "css": one.css,
                "cells": [with_interval(n, one.entry, primary=primary) for n in names],
            }
            for one in students
        ],
    }

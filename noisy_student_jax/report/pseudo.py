"""The report's section on each teacher's pseudo-labels and their selection."""

from typing import Any

from markupsafe import Markup

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.generation.left_out import expected_precision
from noisy_student_jax.pseudo_labels import selection, sidecar
from noisy_student_jax.pseudo_labels.chosen import fact_text
from noisy_student_jax.report import svg
from noisy_student_jax.report.formatting import count, is_number, percent, short
from noisy_student_jax.report.quarantine import quarantine
from noisy_student_jax.report.students import Shown, generations
from noisy_student_jax.runs.paths import OUT_OF_FOLD
from noisy_student_jax.runs.run import Run

MANY_CLASSES = 20
_HEIGHT = 170
_ROW = 26


def teachers(
    run: Run, summary: dict[str, Any], students: list[Shown]
) -> list[dict[str, Any]]:
    """Returns the report's entry for each generation that has a student."""
    return [
        _teacher(run, one, summary["classes"], student=pupil)
        for one, pupil in zip(
            generations(students), generations(students)[1:], strict=False
        )
    ]


def class_name(classes: list[str], label: int) -> str:
    """Returns the name of a class, or its number if it has no name."""
    return str(classes[label]) if 0 <= label < len(classes) else f"class {label}"


def _teacher(
    run: Run, one: Shown, classes: list[str], *, student: Shown
) -> dict[str, Any]:
    said = {
        "title": one.title,
        "css": one.css,
        "model": one.entry.get("model", ""),
        "student": student.title,
        "quarantine": quarantine(one.folder / "labels" / sidecar.QUARANTINE),
    }
    path = one.folder / "selection" / selection.SUMMARY
    try:
        found = files.read_json(path)
        counts = found["counts"]
    except FileNotFoundError:
        return said | {"missing": f"{path.name} is not there"}
    except (UserError, KeyError, TypeError):
        return said | {"missing": f"{path.name} is damaged"}
    by_class = not _has_classes_within(found, classes)
    return said | {
        "missing": None,
        "method": found.get("method", ""),
        "counts": counts,
        "adds_up": counts["read"]
        == sum(counts[part] for part in ("selected", "quarantined", *_left_out(found))),
        "kept": found.get("kept"),
        "min_score": found.get("options", {}).get("min_score"),
        "facts": _facts(found),
        "over": _over(found),
        "confidence": {
            name: percent(value)
            for name, value in (found.get("confidence") or {}).items()
        },
        "lowest": _lowest(found.get("thresholds") or []) * by_class
        + _cap(found.get("options", {}).get("max_copies")),
        "histogram": _histogram(one, found),
        "by_class": by_class,
        "balance": _balance(one, found, classes) if by_class else None,
        "precision": _precision(run, one, found, classes),
        "warnings": found.get("warnings") or [],
    }


def _left_out(found: dict[str, Any]) -> tuple[str, ...]:
    """Returns the reasons for which labeled records are not selected."""
    if found.get("kept"):
        return ("not_in_plan",)
    asked = ("above_max_score", "not_drawn")
    there = [name for name in asked if name in found["counts"]]
    return ("below_threshold", "over_capacity", *there)


def _facts(found: dict[str, Any]) -> dict[str, str]:
    """Returns what the task chose within the records, formatted, by name."""
    facts = found.get("facts")
    if not isinstance(facts, dict):
        return {}
    return {name: fact_text(value) for name, value in facts.items()}


def _has_classes_within(found: dict[str, Any], classes: list[str]) -> bool:
    """Returns whether facts tell of the classes within records.

    The class that a record is counted as is then one of several.
    """
    facts = found.get("facts")
    return isinstance(facts, dict) and any(
        isinstance(one, dict) and one.keys() == set(classes) for one in facts.values()
    )


def _over(found: dict[str, Any]) -> str:
    """Describes why records above the threshold are not selected."""
    if is_number(share := _share(found)):
        return f"after the surest {100 * share:g} % of the pool"
    return "over a class's capacity"


def _share(found: dict[str, Any]) -> Any:
    """Returns the share of the pool that is selected at most, if there is one."""
    return found.get("options", {}).get("share")


def _lowest(thresholds: list[float | None]) -> str:
    """Describes the lowest selected score, by class."""
    there = [score for score in thresholds if is_number(score)]
    if not there:
        return ""
    return (
        f" The least confident record selected of a class scores {min(there):.4g} to"
        f" {max(there):.4g}, by class."
    )


def _cap(copies: Any) -> str:
    """Describes the cap on draws of a record, if there is one."""
    if not is_number(copies) or copies < 1:
        return ""
    return f" No record is drawn more than {count(copies)} times an epoch."


def _histogram(one: Shown, found: dict[str, Any]) -> Markup | None:
    """Draws a histogram of scores, of all records and of the selected ones."""
    bins = found.get("score_histogram") or {}
    edges, before, selected = (
        bins.get(name) for name in ("edges", "before", "selected")
    )
    if not edges or not before or not max(before):
        return None
    y = svg.Scale(0, max(before), ticks=3)
    low, width = edges[0], edges[-1] - edges[0]
    marks = []
    for tick in y.ticks:
        height = _HEIGHT * (1 - y(tick))
        marks.append(svg.line(0, height, 1, height, "grid"))
        marks.append(svg.text(0, height + 4, y.name(tick), anchor="end", dx=-8))
    for css, counts in (("bar before", before), ("bar selected", selected or [])):
        for left, right, number in zip(edges, edges[1:], counts, strict=False):
            if not number:
                continue
            tall = _HEIGHT * y(number)
            what = f"{left:g} to {right:g}: {count(number)} {css.removeprefix('bar ')}"
            place = (left - low) / width, (right - left) / width
            marks.append(
                svg.tag(
                    "rect",
                    svg.tag("title", what),
                    x=svg.across(place[0]),
                    width=svg.across(place[1]),
                    y=_HEIGHT - tall,
                    height=tall,
                    class_=css,
                )
            )
    for tick in (0, 0.25, 0.5, 0.75, 1):
        at = low + tick * width
        anchor = "middle" if 0 < tick < 1 else "end" if tick else "start"
        marks.append(svg.text(tick, _HEIGHT + 18, f"{at:g}", anchor=anchor))
    threshold = found.get("options", {}).get("min_score")
    inclusive = found.get("method") == "reference"
    if is_number(_share(found)):
        lowest = [one for one in found.get("thresholds") or [] if is_number(one)]
        threshold, inclusive = min(lowest, default=None), True
    whole = not (found.get("kept") or found.get("facts"))
    if is_number(threshold) and threshold > 0 and whole:
        at = (threshold - low) / width
        anchor, shift = ("end", -6) if at > 0.6 else ("start", 6)
        marks.append(svg.line(at, -14, at, _HEIGHT, "threshold"))
        marks.append(
            svg.text(
                at,
                -4,
                f"selected {'from' if inclusive else 'above'} {threshold:.4g}",
                anchor=anchor,
                dx=shift,
                class_="label halo",
            )
        )
    title = f"records by the score of {one.title}, before and after selection"
    return svg.chart(title, *marks, height=_HEIGHT + 24, css=f"histogram {one.css}")


def _balance(
    one: Shown, found: dict[str, Any], classes: list[str]
) -> dict[str, Any] | None:
    """Draws records per class: predicted, selected, drawn."""
    per_class = found.get("per_class") or {}
    series: list[list[int]] = [
        per_class.get(name) or [] for name in ("before", "selected", "draws")
    ]
    if not all(series) or not max(map(max, series)):
        return None
    if len(series[0]) <= MANY_CLASSES:
        return {"many": False, "chart": _rows(one, series, classes), "says": ""}
    ordered = sorted(range(len(series[0])), key=lambda label: -series[0][label])
    most, fewest = ordered[0], ordered[-1]
    says = (
        f"{len(ordered):,} classes, sorted by how often the teacher predicts them:"
        f" from '{class_name(classes, most)}' ({count(series[0][most])}) to"
        f" '{class_name(classes, fewest)}' ({count(series[0][fewest])})."
    )
    return {"many": True, "chart": _profile(one, series, ordered), "says": says}


def _precision(
    run: Run, one: Shown, found: dict[str, Any], classes: list[str]
) -> dict[str, Any] | None:
    """Returns what to expect of the selected, by class, the least precise first.

    None where no labeled images were left out of the teacher's training.
    """
    try:
        expected = expected_precision(run.named(one.folder.name), found)
    except (UserError, KeyError, TypeError, ValueError, IndexError):
        return {"missing": f"{OUT_OF_FOLD} or selection.json is damaged"}
    if expected is None:
        return None
    taken, right = expected.taken.tolist(), expected.right.tolist()
    names = [class_name(classes, label) for label in range(len(taken))]
    bare = [name for name, number in zip(names, taken, strict=True) if not number]
    ordered = expected.classes()
    return {
        "missing": None,
        "images": expected.images,
        "taken": sum(taken),
        "overall": percent(expected.overall),
        "rows": [
            {
                "name": names[label],
                "taken": taken[label],
                "right": right[label],
                "share": percent(right[label] / taken[label]),
            }
            for label in ordered[:MANY_CLASSES]
        ],
        "more": max(0, len(ordered) - MANY_CLASSES),
        "bare": bare[:MANY_CLASSES],
        "more_bare": max(0, len(bare) - MANY_CLASSES),
    }


def _rows(one: Shown, series: list[list[int]], classes: list[str]) -> Markup:
    most = max(map(max, series))
    names = [class_name(classes, label) for label in range(len(series[0]))]
    shorts = [short(name, length=13) for name in names]
    told = [" → ".join(map(count, numbers)) for numbers in zip(*series, strict=True)]
    marks = []
    for label, numbers in enumerate(zip(*series, strict=True)):
        top = _ROW * label
        before, selected, draws = (number / most for number in numbers)
        name = svg.tag("title", names[label])
        marks += [
            svg.text(
                0, top + 17, name, shorts[label], anchor="end", dx=-10, class_="label"
            ),
            svg.rectangle(0, top + 4, before, 17, "bar before"),
            svg.rectangle(0, top + 8, selected, 9, "bar selected"),
            svg.line(draws, top + 2, draws, top + 23, "draws") if draws else "",
            svg.text(1, top + 17, told[label], dx=12),
        ]
    return svg.chart(
        f"pseudo-labels of {one.title} per class: predicted, selected, drawn",
        *marks,
        height=_ROW * len(names),
        css=f"balance {one.css}",
        style=f"--names:{max(map(len, shorts))};--told:{max(map(len, told))}",
    )


def _profile(one: Shown, series: list[list[int]], ordered: list[int]) -> Markup:
    y = svg.Scale(0, max(map(max, series)), ticks=3)
    last = len(ordered) - 1
    # No more points than a screen has columns.
    places = sorted(
        {round(k * last / min(last, 800)) for k in range(min(last, 800) + 1)}
    )
    marks = []
    for tick in y.ticks:
        height = _HEIGHT * (1 - y(tick))
        marks.append(svg.line(0, height, 1, height, "grid"))
        marks.append(svg.text(0, height + 4, y.name(tick), anchor="end", dx=-8))
    styles = ("curve second", "curve first", "curve third")
    ends = []
    for css, counts in zip(styles, series, strict=True):
        curve = [(k / last, _HEIGHT * (1 - y(counts[ordered[k]]))) for k in places]
        marks.append(svg.path(curve, height=_HEIGHT, css=css))
        ends.append(curve[-1][1] + 4)
    ends = svg.spread(ends, gap=14, low=8, high=_HEIGHT)
    for name, height in zip(("predicted", "selected", "drawn"), ends, strict=True):
        marks.append(svg.text(1, height, name, dx=8, class_="label"))
    marks.append(svg.text(0, _HEIGHT + 18, "most predicted class"))
    marks.append(svg.text(1, _HEIGHT + 18, "least", anchor="end"))
    title = f"pseudo-labels of {one.title} per class, sorted"
    return svg.chart(title, *marks, height=_HEIGHT + 24, css=f"profile {one.css}")

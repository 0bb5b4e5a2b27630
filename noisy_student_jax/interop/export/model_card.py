"""Writes model cards, which list the known facts of a model and the unknown ones.

Class and dataset names are untrusted text: none is interpreted as YAML, HTML or
Markdown.
"""

import html
import json
import re
from typing import Any

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.protocols import Task
from noisy_student_jax.images.preprocessing import LETTERBOX
from noisy_student_jax.images.resize import BICUBIC_TF1
from noisy_student_jax.interop.export import agreement
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models import views
from noisy_student_jax.models.bundle import Bundle

MOST_CLASSES = 100
UNKNOWN = "unknown, to be filled in"
ORIGIN = {
    "generation": "Generation (0 is the first teacher)",
    "dataset": "Dataset",
    "steps": "Steps",
    "seed": "Seed",
    "weights": "Weights",
    "teacher": "Its teacher (SHA-256 of the weights)",
}


def text(
    bundle: Bundle,
    evaluation: dict[str, Any] | None,
    *,
    task: Task,
    timm: str | None,
    own: str,
) -> str:
    """Returns the text of a model card.

    Args:
      bundle: the model.
      evaluation: the run's evaluation of the model; None if unknown.
      task: the model's task.
      timm: timm's name of the model; None if the weights are not exported for timm.
      own: the bundle's folder in the repository.

    Returns:
      Markdown with YAML front matter.
    """
    parts = [
        _front_matter(bundle, evaluation, task, timm),
        f"# {inline(bundle.architecture)}, by Noisy Student Training\n",
        _what(bundle),
        _use(bundle, task, timm, own),
        "## Where it comes from\n",
        _table(_lineage(bundle)),
        "## Metrics\n",
        _metrics(evaluation, task.primary_metric),
        "## Data and license\n",
        _table(
            [
                ("License of the weights", _license(bundle) or UNKNOWN),
                ("Labeled images: source and license", UNKNOWN),
                ("Unlabeled images: source and license", UNKNOWN),
                ("Intended use, and what it must not be used for", UNKNOWN),
                ("Known limits and biases", UNKNOWN),
            ]
        ),
        "## Classes\n",
        _classes(bundle.classes),
    ]
    return "\n".join(parts)


def inline(value: Any) -> str:
    """Escapes any text so that Markdown and HTML show it literally."""
    line = html.escape(printable(" ".join(str(value).split())), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~:@])", r"\\\1", line)


def _front_matter(
    bundle: Bundle, evaluation: dict[str, Any] | None, task: Task, timm: str | None
) -> str:
    # JSON is valid YAML, and quotes all strings.
    kind = getattr(task, "hub_task", None)
    tags = ["timm"] if timm else []
    metrics = getattr(task, "hub_metrics", ()) if evaluation else ()
    fields = {
        "license": _license(bundle) or "unknown",
        "library_name": "timm" if timm else "noisy-student-jax",
        "pipeline_tag": kind,
        "tags": [*tags, kind or task.name, "noisy-student", "jax"],
        "datasets": [],
        "metrics": list(metrics),
    }
    lines = [
        f"{key}: {json.dumps(value)}"
        for key, value in fields.items()
        if value is not None
    ]
    return "\n".join(["---", *lines, "---", ""])


def _license(bundle: Bundle) -> str:
    """Returns the license in the bundle's origin, or ""."""
    found = bundle.origin.get("license")
    return found if isinstance(found, str) else ""


def _what(bundle: Bundle) -> str:
    seen = bundle.preprocessing
    mean, std = (
        ", ".join(f"{value:.4g}" for value in values)
        for values in (seen.mean, seen.std)
    )
    how = f"Pillow ({seen.interpolation})"
    if seen.interpolation == BICUBIC_TF1:
        how = "TensorFlow 1's `resize_bicubic`"
    several = ""
    if bundle.views > 1:
        names = views.names(agreement.make_module(bundle))[: bundle.views]
        several = (
            f" It predicts from the mean over {bundle.views} views of them:"
            f" {', '.join(names)}."
        )
    part = (
        "the middle"
        f" {seen.resolution}/{seen.resolution + seen.crop_padding} of the shorter side,"
    )
    if seen.framing == LETTERBOX:
        part = "whole images at the top left of a gray square,"
    return (
        f"A model for {inline(bundle.task)} with {len(bundle.classes):,} classes. It"
        f" reads RGB images of {seen.resolution} × {seen.resolution} pixels: {part}"
        f" resized with {how}, on the 0–1 scale less"
        f" ({mean}), divided by ({std}).{several}\n"
    )


def _use(bundle: Bundle, task: Task, timm: str | None, own: str) -> str:
    lines = ["## How to use it\n", "```", "hf download USER/NAME --local-dir=model"]
    where = "model" if own == "." else f"model/{own}"
    flags = [""]
    if hasattr(task, "described"):
        form = task.prediction_formats[0]
        flags += ["--json ", "--draw=DIR ", f"--format={form} --output=DIR "]
    lines += [f"noisy-student predict --model={where} {flag}IMAGE" for flag in flags]
    lines += ["```", ""]
    if timm:
        less = " and sees one view, so that other metrics hold" * (bundle.views > 1)
        lines += [
            f"or in PyTorch, where it is `{timm}`{less}:\n",
            "```python",
            "import timm",
            'model = timm.create_model("hf-hub:USER/NAME", pretrained=True).eval()',
            "```",
            "",
        ]
    return "\n".join(lines)


def _lineage(bundle: Bundle) -> list[tuple[str, Any]]:
    origin = bundle.origin
    rows: list[tuple[str, Any]] = [("Architecture", bundle.architecture)]
    rows += [
        (
            f"Member {inline(one['name'])}",
            f"weights {one['sha256']}, mean {one['mean']}, std {one['std']}",
        )
        for one in bundles.card(bundle).get("members", [])
    ]
    for key, what in ORIGIN.items():
        if key in origin:
            value = origin[key]
            rows.append((what, "none" if value is None else value))
        else:
            rows.append((what, "not recorded"))
    rows += [
        (inline(key), value if isinstance(value, str) else json.dumps(value))
        for key, value in origin.items()
        if key not in (*ORIGIN, "license")
    ]
    rows.append(("SHA-256 of the bundle's weights", bundle.sha256))
    seen = len(bundle.trained_on)
    rows.append(
        (
            "Images that it or its teachers learned from",
            f"{seen:,} (hashes in trained_on.npy)" if seen else "not recorded",
        )
    )
    return rows


def _metrics(evaluation: dict[str, Any] | None, primary_metric: str) -> str:
    if evaluation is None:
        return (
            "Unknown: no evaluation of these weights stood beside them when this card"
            " was written.\n"
        )
    rows = ["| split | images | metric | value |", "|---|---:|---|---:|"]
    for split, found in evaluation["splits"].items():
        crossed = " (labeled images left out in turn)" * ("left_out_in_turn" in found)
        name_of_split = inline(split + crossed)
        for name, value in found["ema"].items():
            if not isinstance(value, int | float):
                continue  # such as a table of numbers, which is in evaluation.json
            shown = f"{value:.4f}"
            ends = found.get("intervals") or {primary_metric: found.get("interval")}
            if (interval := ends.get(name)) and None not in interval:
                low, high = interval
                shown += f" ({low:.4f} to {high:.4f})"
            rows.append(
                f"| {name_of_split} | {found['images']:,} | {inline(name)} | {shown} |"
            )
    return "\n".join(rows) + "\n\nOf EMA weights; fractions, where they are shares.\n"


def _table(rows: list[tuple[str, Any]]) -> str:
    """Returns a Markdown table of names and escaped values."""
    lines = ["| | |", "|---|---|"]
    lines += [f"| {key} | {inline(value)} |" for key, value in rows]
    return "\n".join(lines) + "\n"


def _classes(classes: tuple[str, ...]) -> str:
    lines = [
        f"{number}. {inline(name)}"
        for number, name in enumerate(classes[:MOST_CLASSES])
    ]
    if len(classes) > MOST_CLASSES:
        lines.append(
            f"\nand {len(classes) - MOST_CLASSES:,} more, in the order of"
            " `label_names` in `config.json`"
        )
    return "\n".join(lines) + "\n"

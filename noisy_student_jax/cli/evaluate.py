"""``noisy-student evaluate --model=BUNDLE --images=DIR``: any labeled images."""

import argparse
import math
import pathlib
from typing import Any

from noisy_student_jax import tasks
from noisy_student_jax.core import console, files, unusable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.protocols import Source, Task
from noisy_student_jax.evaluation import resampling
from noisy_student_jax.evaluation.predictor import Predicted, Predictor, predict_source
from noisy_student_jax.evaluation.statistics import without_nan
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.report import formatting
from noisy_student_jax.report.text_table import aligned
from noisy_student_jax.robustness import datasets as folders

FLAGS = ("model", "images", "json", "output", "batch", "trust")
"""Flags of robustness suites that this evaluation has as well."""
SCHEMA = 1
BATCH = 64
CONFIDENCE = 0.95
SAMPLES = 1000
"""Number of bootstrap samples behind intervals."""


def of_bundle(options: argparse.Namespace, interruption: Interruption) -> int:
    """Evaluates a bundle on labeled images, and prints its metrics with intervals.

    Raises:
      UserError: the flags are incomplete or contradictory, or the images unusable.
    """
    if not options.images:
        raise UserError("`noisy-student evaluate --model` needs --images=DIR")
    given = (options.config, options.workdir, options.generation, options.again)
    if any(given) or options.overrides:
        raise UserError(
            "`noisy-student evaluate` takes either --model and --images, or --config,"
            " --workdir and --generation"
        )
    batch = BATCH if options.batch is None else options.batch
    if batch < 1:
        raise UserError(f"--batch is {options.batch}, but must be at least 1")
    output = options.output and pathlib.Path(options.output)
    if output and files.exists(output):
        raise UserError(f"--output='{output}' exists: give another, or remove it")
    bundle = bundles.read(options.model)
    if not options.trust:
        bundles.refuse_foreign_code(bundle, options.model)
    task = tasks.create(bundle.task, bundle.classes)
    source = _source(task, bundle, pathlib.Path(options.images))
    if len(bundle.trained_on):
        console.warn(
            "whether this model was trained on these images is not checked: it knows"
            " its training images by the keys of its run, which files in a folder do"
            " not have"
        )
    predictor = Predictor.from_bundle(bundle, task, batch=batch)
    progress = console.Progress()
    progress.begin("evaluating", work=0.0)
    progress.start(len(source), "images")

    def before_batch(done: int) -> None:
        interruption.check()
        progress.update(done)

    predicted = predict_source(
        predictor, {"": bundle.variables}, source, before_batch=before_batch
    )
    # No share is too large: an evaluation without a usable record is refused.
    bad = predicted.unusable
    unusable.tell(bad.items(), len(source), "images to be judged on", most=1.0)
    found = {
        "schema": SCHEMA,
        "model": bundle.architecture,
        "sha256": bundle.sha256,
        "images": len(predicted.records),
        "unusable": bad,
        **_measured(task, predicted),
    }
    if output:
        files.write_json(output, found)
    if options.json:
        console.print_json(found)
        return 0
    console.say(f"{found['images']:,} images; {CONFIDENCE:.0%} intervals over images")
    console.say(_table(task, found))
    if output:
        console.say(f"written to '{output}'")
    return 0


def _source(task: Task, bundle: Bundle, place: pathlib.Path) -> Source:
    """Opens labeled images: as the task does, or else a folder for each class."""
    if hasattr(task, "labeled_source"):
        side = bundle.preprocessing.resolution
        return task.labeled_source(place, side=side, decoding=bundle.decoding)
    source, matched, left_out = folders.open_classes(
        place, bundle.classes, place.name, decoding=bundle.decoding
    )
    if unknown := matched.unknown:
        first = console.printable(unknown[0])
        console.warn(
            f"left out: {len(unknown):,} folders of no class of the model, such as"
            f" '{first}'"
        )
    for why, count in left_out.items():
        console.warn(f"left out: {count:,} {why}")
    return source


def _measured(task: Task, predicted: Predicted) -> dict[str, Any]:
    """Returns metrics, and the intervals of those that can be resampled."""
    predictions, labels = predicted.predictions[""], predicted.labels
    statistics = task.statistics(predictions, labels)
    if hasattr(task, "resampled"):
        intervals = resampling.intervals(
            statistics, task.resampled, confidence=CONFIDENCE, samples=SAMPLES
        )
    else:
        ends = resampling.interval(
            statistics, task.primary, confidence=CONFIDENCE, samples=SAMPLES
        )
        intervals = {task.primary_metric: ends}
    metrics = task.metrics(predictions, labels)
    if math.isnan(metrics[task.primary_metric]):
        console.warn(
            f"the images have nothing by which to measure {task.primary_metric}"
        )
    return without_nan({"metrics": metrics, "intervals": intervals})


def _table(task: Task, found: dict[str, Any]) -> str:
    primary = task.primary_metric
    rows = [
        (
            console.printable(name),
            formatting.metric(name, value, primary=primary),
            formatting.interval(found["intervals"].get(name)),
        )
        for name, value in found["metrics"].items()
    ]
    return aligned(rows, left=1)

"""Evaluates a trained model on validation and test images.

Where the dataset is cross-fitted, the predictions for validation are those of heads for
labeled images that were left out.
"""

import math
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa

from noisy_student_jax.core import console, files, unusable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Source
from noisy_student_jax.data.sources import key_hashes
from noisy_student_jax.evaluation import resampling
from noisy_student_jax.evaluation.predictor import Predicted, predict_source
from noisy_student_jax.evaluation.statistics import without_nan
from noisy_student_jax.generation.left_out import NAMED, cross_fitted
from noisy_student_jax.generation.trainable import part, predictor
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.pseudo_labels import plan
from noisy_student_jax.runs.run import Generation, Run


def evaluate(student: Generation) -> dict[str, Any]:
    """Evaluates a student's EMA and raw weights on validation and test images.

    Returns:
      The primary metric of the EMA weights on each part.

    Raises:
      UserError: the student or one of its teachers was trained on a test image.
    """
    run, batch = student.run, student.run.config.evaluation.batch
    ema = bundles.read(student.paths.model)
    # An adopted teacher has one set of weights.
    adopted = student.spec.adopted
    raw = ema if adopted else bundles.read(student.final.paths.raw_model)
    refuse_overlap(ema, run.dataset.test)
    trained = part(student.final)
    made = predictor(trained, batch=batch)
    splits: dict[str, dict[str, Any]] = {}
    parts = run.dataset.predicted()
    sources = {
        name: trained.source(part, name, bundle=ema) for name, part in parts.items()
    }
    if run.dataset.cross_fitted:
        found = _left_out(student)
        measured = _measured(run, found, "labeled")
        splits["validation"] = measured | {"left_out_in_turn": True}
        labeled = run.dataset.labeled
        _write_predictions(student, labeled, found, student.paths.validation)
    run.progress.start(sum(map(len, sources.values())), "images")

    def before_batch(done: int) -> None:
        run.interruption.check()
        earlier = sum(splits[name]["images"] for name in sources if name in splits)
        run.progress.update(earlier + done)

    for name, source in sources.items():
        found = predict_source(
            made,
            {"ema": trained.of(ema.variables), "raw": trained.of(raw.variables)},
            source,
            before_batch=before_batch,
        )
        unusable.tell(
            found.unusable.items(),
            len(source),
            f"{name} images",
            most=run.config.data.max_quarantined,
        )
        splits[name] = _measured(run, found, name)
        path = student.paths.validation
        if name == "test":
            path = student.paths.predictions
        _write_predictions(student, parts[name], found, path)
    files.write_json(
        student.paths.evaluation,
        {
            "schema": 1,
            "generation": student.spec.generation,
            "model": ema.architecture,
            "sha256": ema.sha256,
            "splits": splits,
        },
    )
    metric = run.task.primary_metric
    return {f"{name}_{metric}": split["ema"][metric] for name, split in splits.items()}


def refuse_overlap(bundle: Bundle, test: Source) -> None:
    """Raises UserError if a model, or one of its teachers, learned from a test image.

    Args:
      bundle: the model.
      test: the test images.
    """
    shared = int(np.isin(key_hashes(test), bundle.trained_on).sum())
    if shared:
        raise UserError(
            f"{shared} of {len(test)} test images are among those that this model or"
            " its teachers learned from, so the result would mean nothing: give a test"
            " set of other images"
        )


def _left_out(student: Generation) -> Predicted:
    """Returns the predictions for labeled images by heads that they were left out of.

    They stand for those of the EMA and of the raw weights, which are the same.
    """
    found, labeled = cross_fitted(student), student.run.dataset.labeled
    record = {labeled.key(index): index for index in range(len(labeled))}
    return Predicted(
        np.array([record[key] for key in found.keys]),
        found.truth,
        {weights: found.predictions for weights in ("ema", "raw")},
        unusable={},
    )


def _measured(run: Run, found: Predicted, part: str) -> dict[str, Any]:
    """Returns the evaluation's entry for one part of the dataset."""
    task, labels, predictions = run.task, found.labels, found.predictions["ema"]
    options = run.config.evaluation
    scores, metrics = task.score(predictions), task.metrics(predictions, labels)
    if bare := [name for name, value in metrics.items() if math.isnan(value)]:
        more = f" and {len(bare) - NAMED:,} more" if len(bare) > NAMED else ""
        console.warn(
            f"the {len(labels):,} {part} images hold nothing by which to measure"
            f" {', '.join(map(console.printable, bare[:NAMED]))}{more}"
        )
    drawn = {
        "confidence": options.confidence,
        "samples": options.bootstrap,
        "seed": run.config.seed,
    }
    statistics, several = task.statistics(predictions, labels), {}
    if hasattr(task, "resampled"):
        found_ends = resampling.intervals(statistics, task.resampled, **drawn)
        several = {"intervals": without_nan(found_ends)}
        interval = found_ends[task.primary_metric]
    else:
        interval = resampling.interval(statistics, task.primary, **drawn)
    return {
        "images": len(labels),
        "unusable": found.unusable,
        "ema": without_nan(metrics),
        "raw": without_nan(task.metrics(found.predictions["raw"], labels)),
        "interval": without_nan(interval),
        **several,
        "scores": {
            "mean": plan.mean(plan.fixed_point(scores, 1), len(scores)),
            "histogram": plan.histogram(scores).tolist(),
        },
    }


def _write_predictions(
    student: Generation, source: Source, found: Predicted, path: pathlib.Path
) -> None:
    """Writes the prediction for each image of a part, for paired comparisons."""
    task, predictions = student.run.task, found.predictions["ema"]
    columns = {
        "key": pa.array([source.key(index) for index in found.records.tolist()]),
        "truth": _lists(found.labels),
        "label": pa.array(task.bucket(predictions)),
        "score": pa.array(task.score(predictions)),
        # Of a metric that is a mean, the metric of each image.
        "primary": task.statistics(predictions, found.labels),
        **task.columns(predictions, top_k=student.spec.config.labels.top_k),
    }
    files.write_parquet(path, pa.table(columns))


def _lists(labels: np.ndarray) -> pa.Array:
    """Returns labels ``[images, …]`` as one number or nested list for each image."""
    if labels.ndim == 1:
        return pa.array(labels.tolist())
    # Without Python's numbers, of which a thousand boxes an image would be many.
    array = pa.array(labels.reshape(-1))
    for size in labels.shape[:0:-1]:
        starts = np.arange(0, len(array) + 1, size, dtype=np.int32)
        array = pa.ListArray.from_arrays(pa.array(starts), array)
    return array

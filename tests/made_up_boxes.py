"""A finished run of a detector, made up for the report, without any training."""

import numpy as np
import pyarrow as pa
from made_up_run import entry, make_run, summary_of, write_manifest, write_metrics

from noisy_student_jax.core import files
from noisy_student_jax.data.sources import ArraySource, Dataset
from noisy_student_jax.pseudo_labels import selection, sidecar
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.tasks.detection import average_precision, report
from noisy_student_jax.tasks.detection import sidecar as columns
from noisy_student_jax.tasks.detection.selection import BoxChooser

CLASSES = ("cell", "platelet")
MOST = 4
PLACES = 100


class Boxes:
    """The part of a detector's task that the report needs."""

    name = "boxes"
    primary_metric = "AP"

    def __init__(self, classes=CLASSES):
        self.classes = tuple(classes)
        self.outputs = len(classes)

    def report_sections(self, context):
        return report.sections(context, self.classes)


def drawn(rng, count, *, height=48, width=64):
    """Returns images with bright rectangles, and labels ``[count, MOST, 6]``."""
    images = rng.integers(0, 90, (count, height, width, 3)).astype(np.uint8)
    labels = np.zeros((count, MOST, 6), np.float32)
    for image, label in zip(images, labels, strict=True):
        for number in range(rng.integers(0, MOST + 1)):
            kind = int(rng.integers(len(CLASSES)))
            side = int(rng.integers(*((6, 10), (14, 22))[1 - kind]))
            left, top = rng.integers(0, width - side), rng.integers(0, height - side)
            image[top : top + side, left : left + side] = (230, 90, 60 + 150 * kind)
            box = np.array([left, top, left + side, top + side], np.float32) / width
            label[number] = (*box, kind, 1)
    return list(images), labels


def predicted(rng, labels, *, noise=0.01):
    """Returns predictions near true boxes, some missing, and some false alarms."""
    count = len(labels)
    found = {
        "boxes": np.zeros((count, PLACES, 4), np.float32),
        "scores": np.zeros((count, PLACES), np.float32),
        "classes": np.zeros((count, PLACES), np.int32),
        "reliabilities": np.zeros((count, PLACES), np.float32),
    }
    for image, label in enumerate(labels):
        rows = []
        for one in label[label[:, 5] == 1]:
            if rng.uniform() < 0.85:
                box = one[:4] + rng.normal(0, noise, 4)
                rows.append((box, rng.uniform(0.4, 0.95), int(one[4])))
        for _ in range(rng.integers(0, 2)):
            left, top = rng.uniform(0, 0.5, 2)
            box = np.array([left, top, left + 0.2, top + 0.2])
            rows.append((box, rng.uniform(0.06, 0.6), int(rng.integers(2))))
        rows.sort(key=lambda row: -row[1])
        for place, (box, score, kind) in enumerate(rows):
            found["boxes"][image, place] = box.clip(0, 1)
            found["scores"][image, place] = score
            found["classes"][image, place] = kind
            found["reliabilities"][image, place] = rng.uniform(0.5, 1)
    return found


def write_predictions(path, source, labels, predictions):
    """Writes what an evaluation keeps of a part."""
    table = {
        "key": pa.array([source.key(index) for index in range(len(source))]),
        "truth": pa.array(labels.tolist()),
        "label": pa.array(columns.bucket(predictions)),
        "score": pa.array(columns.score(predictions)),
        "primary": average_precision.statistics(
            predictions, labels, classes=len(CLASSES)
        ),
        **columns.columns(predictions, top_k=None),
    }
    files.write_parquet(path, pa.table(table))


def boxes_run(workdir, *, generations=2, parts=None, found=True, names=CLASSES):
    """Returns a finished run and its summary.

    Args:
      parts: images and labels by part of the dataset; None for rectangles.
      found: whether the detectors find anything in test images.
      names: class names.
    """
    rng = np.random.default_rng(5)
    sizes = {"labeled": 20, "pool": 30, "validation": 16, "test": 24}
    parts = parts or {name: drawn(rng, size) for name, size in sizes.items()}
    run = make_run(workdir, generations=generations)
    sources = {
        name: ArraySource(
            [f"{name}/{k}" for k in range(len(images))],
            images,
            None if name == "pool" else labels,
        )
        for name, (images, labels) in parts.items()
    }
    run.dataset = Dataset(name="made up boxes", classes=names, **sources)
    run.__dict__["task"] = Boxes(names)
    students = [run.student(k) for k in range(generations)]
    for number, student in enumerate([*students, run.student("control")]):
        folder = student.paths.folder
        write_metrics(folder)
        write_manifest(run, student.spec.name)
        for name in ("test", "validation"):
            labels = parts[name][1]
            path = student.paths.predictions if name == "test" else None
            predictions = predicted(rng, labels, noise=0.02 / (1 + number))
            if not found:
                predictions["scores"][:] = 0
            path = path or student.paths.validation
            write_predictions(path, sources[name], labels, predictions)
    for student in students[:-1]:
        pseudo_label(student, sources, parts, rng, names)
    summary = summary_of(run) | {"task": "detection", "primary_metric": "AP"}
    for one in (*summary["generations"], summary["control"]):
        metrics = {"AP": 0.5, "AP50": 0.7, "AP75": 0.6, "AR100": 0.6}
        metrics |= {f"AP/{name}": 0.5 for name in names}
        one |= entry(0.5) | {"metrics": metrics, "raw": metrics, "validation": metrics}
    return run, summary


def pseudo_label(student, sources, parts, rng, names):
    """Writes a teacher's sidecars, and what its student learns from."""
    found = predicted(rng, parts["pool"][1])
    folder, pool = student.paths.labels, sources["pool"]
    sidecar.write_shard(
        folder / "shard_000000.parquet",
        keys=[pool.key(k) for k in range(len(pool))],
        status=["ok"] * len(pool),
        label=columns.bucket(found),
        score=columns.score(found),
        columns=columns.columns(found, top_k=None),
        metadata={
            "task": "detection",
            "classes": str(len(CLASSES)),
            "model": "m",
            "model_sha256": "c" * 64,
        },
    )
    sidecar.write_quarantine(folder)
    options = SelectionOptions(method="all", share=1.0, min_score=0.0)
    labels = parts["labeled"][1]
    selection.select(
        folder,
        student.paths.selection,
        options,
        targets=columns.stored_targets,
        choose=lambda batches: BoxChooser(batches, labels, options, classes=names),
    )

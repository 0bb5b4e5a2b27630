"""``noisy-student predict``: class and probability of images, of files or folders."""

import argparse
import contextlib
import csv
import glob
import io
import json
import math
import pathlib
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from noisy_student_jax import tasks
from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.prefetch import Prefetcher
from noisy_student_jax.core.protocols import Task
from noisy_student_jax.data.cache.listing import list_images
from noisy_student_jax.data.cache.walk import safe_text
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.images.decode import (
    Decoding,
    TooLargeError,
    UndecodableImageError,
    decode,
    header,
    read,
)
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import bundle as bundles

FORMATS = (".csv", ".parquet", ".json")
"""File suffixes of ``--output``."""
AT_A_TIME = 2
"""Number of images that are decoded at a time, each of them whole."""
LARGE = 8_000_000
"""Number of pixels above which an image is decoded alone."""
_ENOUGH = 4
"""Sides of the model's input that a huge JPEG keeps when it is decoded reduced."""
SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("class", pa.string()),
        ("index", pa.int32()),
        ("probability", pa.float64()),
        ("logits", pa.list_(pa.float32())),
        ("error", pa.string()),
    ]
)


def predict(options: argparse.Namespace, interruption: Interruption) -> int:
    """Predicts images, and prints a line for each or writes a table.

    Returns:
      1 if an image could not be decoded, otherwise 0.
    """
    output = _check(options)
    bundle = bundles.read(options.model)
    if not options.trust:
        bundles.refuse_foreign_code(bundle, options.model)
    bundle = bundle.in_views(options.views)
    images = _images(options.images)
    task = tasks.create(bundle.task, bundle.classes)
    predictor = Predictor.from_bundle(bundle, task, batch=options.batch)
    variables = predictor.place(bundle.variables)
    progress = console.Progress()
    progress.begin("predicting", work=0.0)
    progress.start(len(images), "images")
    watched = options.json or output or sys.stderr.isatty()
    rows: list[dict[str, Any]] = []
    failed = done = 0
    for batch in _read(images, bundle, options.batch):
        interruption.check()
        good = [image for image in batch if isinstance(image, np.ndarray)]
        predictions: Iterator[dict[str, Any]] = iter(())
        if good:
            predictions = iter(_rows(task, predictor(variables, np.stack(good))))
        for image, path in zip(batch, images[done:], strict=False):
            row: dict[str, Any] = {"image": path}
            row |= {"error": image} if isinstance(image, str) else next(predictions)
            if not options.logits:
                row.pop("logits", None)
            failed += "error" in row
            if output:
                rows.append(row)
            else:
                _print(row, as_json=options.json)
        done += len(batch)
        if watched:
            progress.update(done)
    if output:
        _write(output, rows)
        console.say(f"{done - failed:,} predictions are in '{output}'")
    if failed:
        console.say(f"{failed:,} of {done:,} images could not be read", error=True)
    return 1 if failed else 0


def _check(options: argparse.Namespace) -> pathlib.Path | None:
    """Checks the options before anything is read; returns the output."""
    if not options.model:
        raise UserError("`noisy-student predict` needs --model=BUNDLE")
    if not options.images:
        raise UserError("`noisy-student predict` needs at least one image or folder")
    if options.batch < 1:
        raise UserError(f"--batch is {options.batch}, but must be at least 1")
    if options.output is None:
        return None
    output = pathlib.Path(options.output)
    if output.suffix.lower() not in FORMATS:
        raise UserError(
            f"--output='{output}' has to end with one of {', '.join(FORMATS)}"
        )
    if options.json:
        raise UserError("`noisy-student predict` takes either --json or --output")
    if files.exists(output):
        raise UserError(f"--output='{output}' exists: give another, or remove it")
    return output


def _images(given: Sequence[str]) -> list[str]:
    """Returns paths of images: a folder stands for those below it, ``*`` for names."""
    found: list[str] = []
    for name in given:
        path = pathlib.Path(name)
        matching = [name]
        if glob.has_magic(name) and not files.exists(path):
            # An unquoted one is expanded by the shell, which has a limit.
            matching = sorted(glob.glob(name, recursive=True))  # noqa: PTH207
            if not matching:
                raise UserError(f"no file matches '{name}': correct the pattern")
        for one in matching:
            found += _below(pathlib.Path(one)) or [one]
    return found


def _below(folder: pathlib.Path) -> list[str]:
    """Returns the images below a folder; none if it is no folder, or has none."""
    if not files.is_folder(folder):
        return []
    try:
        listing = list_images(folder)
    except UserError:
        return []  # reading it gives the reason
    if listing.left_out:
        told = ", ".join(f"{n:,} {why}" for why, n in listing.left_out.items())
        console.say(f"left out of '{folder}': {told}", error=True)
    return [str(folder / path) for path in listing.paths]


def _read(
    paths: Sequence[str], bundle: bundles.Bundle, batch: int
) -> Iterator[list[np.ndarray | str]]:
    """Yields batches of preprocessed images; reasons of those that cannot be read."""
    preprocessing, decoding = bundle.preprocessing, bundle.decoding
    alone = threading.Lock()

    def one(number: int) -> np.ndarray | str:
        try:
            data = read(paths[number])
            with alone if math.prod(header(data)) > LARGE else contextlib.nullcontext():
                return preprocessing.apply(_decoded(data, preprocessing, decoding))
        except UndecodableImageError as error:
            if files.is_folder(pathlib.Path(paths[number])):
                return "Is a directory without images"
            return str(error)

    pool = ThreadPoolExecutor(AT_A_TIME, "decoding")
    images = Prefetcher(one, ahead=batch, stop=len(paths), executor=pool)
    try:
        for start in range(0, len(paths), batch):
            yield [images(n) for n in range(start, min(start + batch, len(paths)))]
    finally:
        images.close()


def _decoded(
    data: bytes, preprocessing: Preprocessing, decoding: Decoding
) -> np.ndarray:
    """Decodes an image, a huge JPEG at a reduced scale."""
    try:
        return decode(data, decoding=decoding)
    except TooLargeError:
        side = preprocessing.resolution + preprocessing.crop_padding
        return decode(data, shorter_side=_ENOUGH * side, decoding=decoding)


def _rows(task: Task, predictions: dict[str, Any]) -> list[dict[str, Any]]:
    """Converts predictions to one JSON-serializable dictionary per image."""
    buckets, scores = task.bucket(predictions), task.score(predictions)
    rows = []
    for number, (index, score) in enumerate(zip(buckets, scores, strict=True)):
        row = {
            "index": int(index),
            "class": task.classes[index],
            "probability": float(score),
        }
        if "logits" in predictions:
            row["logits"] = [float(value) for value in predictions["logits"][number]]
        rows.append(row)
    return rows


def _print(row: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        console.print_json(row)
        return
    image = console.printable(row["image"])
    if "error" in row:
        console.say(f"{image}: cannot be read: {console.printable(row['error'])}")
        return
    name = console.printable(row["class"])
    line = f"{image}: {name} ({100 * row['probability']:.1f} %)"
    if "logits" in row:
        line += " " + " ".join(f"{value:.4f}" for value in row["logits"])
    console.say(line)


def _write(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Writes a row for each image; names are escaped by `safe_text`."""
    rows = [row | {"image": safe_text(row["image"])} for row in rows]
    kind = path.suffix.lower()
    if kind == ".parquet":
        files.write_parquet(path, pa.Table.from_pylist(rows, SCHEMA))
    elif kind == ".json":
        lines = ",\n".join(json.dumps(row) for row in rows)
        files.write_atomically(path, f"[\n{lines}\n]\n")
    else:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, SCHEMA.names)
        table.writeheader()
        for row in rows:
            if "logits" in row:
                row["logits"] = " ".join(f"{value:.6g}" for value in row["logits"])
            table.writerow(row)
        files.write_atomically(path, text.getvalue())

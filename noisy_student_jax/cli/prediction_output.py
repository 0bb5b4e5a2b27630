"""What ``noisy-student predict`` says of images: lines, tables, pictures, boxes."""

import argparse
import csv
import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import UserError, nearest
from noisy_student_jax.core.protocols import Arrays, Task
from noisy_student_jax.data.cache.walk import safe_text

TABLES = (".csv", ".parquet", ".json")
"""File suffixes of ``--output``."""
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
_QUALITY = 92  # of JPEGs that are drawn


def check(options: argparse.Namespace) -> pathlib.Path | None:
    """Checks the options before anything is read; returns the output.

    Raises:
      UserError: they contradict each other, or something is in the way.
    """
    if options.draw and not _is_free(pathlib.Path(options.draw)):
        raise UserError(f"--draw='{options.draw}' exists: give another, or remove it")
    if options.output is None:
        if options.format:
            raise UserError(f"--format={options.format} also needs --output=DIR")
        return None
    output = pathlib.Path(options.output)
    if options.json:
        raise UserError("`noisy-student predict` takes either --json or --output")
    if options.format:
        if _is_free(output):
            return output
    elif output.suffix.lower() not in TABLES:
        raise UserError(
            f"--output='{output}' has to end with one of {', '.join(TABLES)}"
        )
    elif not files.exists(output):
        return output
    raise UserError(f"--output='{output}' exists: give another, or remove it")


def check_task(options: argparse.Namespace, task: Task) -> None:
    """Raises UserError if the options do not suit the task."""
    given = {
        "--draw": options.draw,
        "--format": options.format,
        "--min-score": options.min_score is not None,
    }
    if not hasattr(task, "described"):
        for flag in [flag for flag, is_given in given.items() if is_given]:
            raise UserError(
                f"{flag} is for models that find boxes; task '{task.name}' of this one"
                " has one class an image"
            )
        return
    if options.logits:
        raise UserError(
            "--logits is for models that tell one class of an image; of what task"
            f" '{task.name}' finds in one, --json prints the scores"
        )
    if options.min_score is not None and not 0 <= options.min_score <= 1:
        raise UserError(f"--min-score is {options.min_score:g}, but must be 0 to 1")
    known = tuple(task.prediction_formats)
    if options.format and options.format not in known:
        raise UserError(
            f"--format='{options.format}' is not known{nearest(options.format, known)}"
            f" (known: {', '.join(known)})"
        )
    if options.output and options.output.lower().endswith(".csv"):
        raise UserError(
            "a .csv has one row an image, and an image has several boxes: end --output"
            " with .json or .parquet, or give --format=csv and a folder as --output"
        )


def rows(
    task: Task,
    predictions: Arrays,
    sizes: Sequence[tuple[int, int]],
    *,
    min_score: float | None,
) -> list[dict[str, Any]]:
    """Converts predictions to one JSON-serializable dictionary per image.

    Args:
      task: the task.
      predictions: of the images.
      sizes: width and height of each image.
      min_score: see `Task.described`.
    """
    if hasattr(task, "described"):
        return task.described(predictions, sizes, min_score=min_score)
    buckets, scores = task.bucket(predictions), task.score(predictions)
    found = []
    for number, (index, score) in enumerate(zip(buckets, scores, strict=True)):
        row = {
            "index": int(index),
            "class": task.classes[index],
            "probability": float(score),
        }
        if "logits" in predictions:
            row["logits"] = [float(value) for value in predictions["logits"][number]]
        found.append(row)
    return found


def show(task: Task, row: dict[str, Any], *, as_json: bool) -> None:
    """Prints what is said of an image."""
    if as_json:
        console.print_json(row)
        return
    image = console.printable(row["image"])
    if "error" in row:
        console.say(f"{image}: cannot be read: {console.printable(row['error'])}")
        return
    if hasattr(task, "described"):
        console.say(f"{image}: {console.printable(task.told(row))}")
        return
    name = console.printable(row["class"])
    line = f"{image}: {name} ({100 * row['probability']:.1f} %)"
    if "logits" in row:
        line += " " + " ".join(f"{value:.4f}" for value in row["logits"])
    console.say(line)


def relative(images: Sequence[str]) -> list[str]:
    """Returns paths from the folder that holds all images, with forward slashes."""
    whole = [os.path.abspath(path) for path in images]  # noqa: PTH100
    root = os.path.commonpath([os.path.dirname(path) for path in whole])  # noqa: PTH120
    return [pathlib.PurePath(os.path.relpath(path, root)).as_posix() for path in whole]


def draw(
    image: np.ndarray, row: Mapping[str, Any], task: Task, path: pathlib.Path
) -> None:
    """Writes an image with what was predicted drawn on it.

    Args:
      image: uint8 ``[height, width, 3]``.
      row: what is said of it.
      task: the task.
      path: of the image in the folder of pictures; where it is neither a PNG nor a
        JPEG, ``.png`` is added.
    """
    picture = Image.fromarray(task.pictured(image, row))
    is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    if not is_jpeg and path.suffix.lower() != ".png":
        path = path.with_name(f"{path.name}.png")
    with files.atomic_file(path) as file:
        if is_jpeg:
            picture.save(file, "JPEG", quality=_QUALITY)
        else:
            picture.save(file, "PNG")


def write(path: pathlib.Path, said: list[dict[str, Any]], task: Task) -> None:
    """Writes a row for each image; names are escaped by `safe_text`."""
    said = [row | {"image": safe_text(row["image"])} for row in said]
    kind = path.suffix.lower()
    if kind == ".parquet":
        schema = None if hasattr(task, "described") else SCHEMA
        files.write_parquet(path, pa.Table.from_pylist(said, schema))
    elif kind == ".json":
        lines = ",\n".join(json.dumps(row) for row in said)
        files.write_atomically(path, f"[\n{lines}\n]\n")
    else:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, SCHEMA.names)
        table.writeheader()
        for row in said:
            if "logits" in row:
                row["logits"] = " ".join(f"{value:.6g}" for value in row["logits"])
            table.writerow(row)
        files.write_atomically(path, text.getvalue())


def _is_free(folder: pathlib.Path) -> bool:
    """Returns whether a folder is new or empty."""
    if not files.exists(folder):
        return True
    return files.is_folder(folder) and not list(files.list_folder(folder))

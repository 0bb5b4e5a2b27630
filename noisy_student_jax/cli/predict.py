"""``noisy-student predict``: what a model says of images, of files or folders."""

import argparse
import contextlib
import glob
import pathlib
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from noisy_student_jax import tasks
from noisy_student_jax.cli import prediction_output
from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.prefetch import Prefetcher
from noisy_student_jax.data.cache.listing import list_images
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

AT_A_TIME = 2
"""Number of images that are decoded at a time, each of them whole."""
LARGE = 8_000_000
"""Number of pixels above which an image is decoded alone."""
_ENOUGH = 4
"""Sides of the model's input that a huge JPEG keeps when it is decoded reduced."""


class _Image(NamedTuple):
    """An image as the model takes it, and its width and height as people see it."""

    pixels: np.ndarray
    size: tuple[int, int]


def predict(options: argparse.Namespace, interruption: Interruption) -> int:
    """Predicts images; prints a line for each, writes a table, or draws.

    Returns:
      1 if an image could not be decoded, otherwise 0.
    """
    if not options.model:
        raise UserError("`noisy-student predict` needs --model=BUNDLE")
    if not options.images:
        raise UserError("`noisy-student predict` needs at least one image or folder")
    if options.batch < 1:
        raise UserError(f"--batch is {options.batch}, but must be at least 1")
    output = prediction_output.check(options)
    bundle = bundles.read(options.model)
    if not options.trust:
        bundles.refuse_foreign_code(bundle, options.model)
    bundle = bundle.in_views(options.views)
    task = tasks.create(bundle.task, bundle.classes)
    prediction_output.check_task(options, task)
    images = _images(options.images)
    predictor = Predictor.from_bundle(bundle, task, batch=options.batch)
    variables = predictor.place(bundle.variables)
    progress = console.Progress()
    progress.begin("predicting", work=0.0)
    progress.start(len(images), "images")
    watched = options.json or output or sys.stderr.isatty()
    drawn = pathlib.Path(options.draw) if options.draw else None
    named = prediction_output.relative(images)
    rows: list[dict[str, Any]] = []
    failed = done = 0
    for batch in _read(images, bundle, options.batch):
        interruption.check()
        good = [image for image in batch if isinstance(image, _Image)]
        predictions: Iterator[dict[str, Any]] = iter(())
        if good:
            found = predictor(variables, np.stack([image.pixels for image in good]))
            sizes = [image.size for image in good]
            predictions = iter(
                prediction_output.rows(task, found, sizes, min_score=options.min_score)
            )
        for number, image in enumerate(batch, done):
            path = images[number]
            row: dict[str, Any] = {"image": path}
            row |= {"error": image} if isinstance(image, str) else next(predictions)
            if not options.logits:
                row.pop("logits", None)
            failed += "error" in row
            if drawn and "error" not in row:
                whole = _decoded(read(path), bundle.preprocessing, bundle.decoding)
                place = drawn / named[number]
                prediction_output.draw(whole, row, task, place)
            if output:
                rows.append(row)
            else:
                prediction_output.show(task, row, as_json=options.json)
        done += len(batch)
        if watched:
            progress.update(done)
    if output and options.format:
        there = zip(named, rows, strict=True)
        given = {name: row for name, row in there if "error" not in row}
        task.written(options.format, output, given)
    elif output:
        prediction_output.write(output, rows, task)
    if output:
        console.say(f"{done - failed:,} predictions are in '{output}'")
    if drawn:
        console.say(f"{done - failed:,} pictures are in '{drawn}'")
    if failed:
        console.say(f"{failed:,} of {done:,} images could not be read", error=True)
    return 1 if failed else 0


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
) -> Iterator[list[_Image | str]]:
    """Yields batches of preprocessed images; reasons of those that cannot be read."""
    preprocessing, decoding = bundle.preprocessing, bundle.decoding
    alone = threading.Lock()

    def one(number: int) -> _Image | str:
        try:
            data = read(paths[number])
            height, width = header(data)
            with alone if height * width > LARGE else contextlib.nullcontext():
                image = _decoded(data, preprocessing, decoding)
                return _Image(preprocessing.apply(image), (width, height))
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

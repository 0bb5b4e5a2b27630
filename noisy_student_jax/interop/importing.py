"""The command ``import``: converts other libraries' weights to a bundle."""

import argparse
import dataclasses
import pathlib
from typing import Any

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import UserError, nearest
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop import foreign, published, tf_names
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle

FORMATS = ("timm", "tf", "lite")


def import_weights(options: argparse.Namespace, interruption: Interruption) -> int:
    """Imports weights; writes the bundle only if all of them fit."""
    for flag, example in (("format", "|".join(FORMATS)), ("model", "NAME")):
        if not getattr(options, flag):
            raise UserError(f"`noisy-student import` needs --{flag}={example}")
    if options.format not in FORMATS:
        raise UserError(
            f"--format={options.format} is not known: it is one of"
            f" {', '.join(FORMATS)}{nearest(options.format, FORMATS)}"
        )
    if not options.output:
        raise UserError("`noisy-student import` needs --output=BUNDLE, a new directory")
    if options.source is None and options.format != "lite":
        raise UserError(
            f"`noisy-student import --format={options.format}` needs the file that the"
            " weights are in"
        )
    output = pathlib.Path(options.output)
    files.check_free(output)
    preprocessing = _preprocessing(options)
    classes = _classes(options.classes) if options.classes else None
    read = {"timm": _from_file, "lite": _from_file, "tf": _from_tensorflow}
    bundle = read[options.format](options, preprocessing, classes)
    interruption.check()
    with files.atomic_directory(output) as folder:
        bundle = bundles.write(bundle, folder)
    _say(bundle, output)
    return 0


def _say(bundle: Bundle, output: pathlib.Path) -> None:
    origin, preprocessing = bundle.origin, bundle.preprocessing
    for note in origin["notes"]:
        console.say(note)
    mean, std = (
        "/".join(f"{255 * value:.1f}" for value in values)
        for values in (preprocessing.mean, preprocessing.std)
    )
    console.say(
        f"imported {bundle.architecture} from {origin['imported_from']}, with the names"
        f" of {origin['names']}: {len(bundle.classes)} classes, read at"
        f" {preprocessing.resolution} pixels, {preprocessing.interpolation}, mean"
        f" {mean} and std {std} of 255"
    )
    console.say(
        "which images they were trained on is not known, so evaluating on those cannot"
        " be refused"
    )
    console.say(f"written to '{output}'")


def _from_file(
    options: argparse.Namespace,
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None,
) -> Bundle:
    if options.source is None:
        path = published.lite_file(options.model)
        tensors = published.lite_tensors(options.model)
    else:
        path = pathlib.Path(options.source)
        tensors = foreign.read(path)
    return foreign.from_tensors(
        tensors,
        options.model,
        preprocessing=preprocessing,
        source=path.name,
        layout=options.format,
        classes=classes,
    )


def _from_tensorflow(
    options: argparse.Namespace,
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None,
) -> Bundle:
    from noisy_student_jax.interop.tensorflow import checkpoint

    prefix = checkpoint.find_checkpoint(pathlib.Path(options.source))
    variables = checkpoint.read_checkpoint(prefix)
    arrays, note = tf_names.choose(variables, str(prefix))
    names = tf_names.TENSORFLOW
    return foreign.bind(
        foreign.fit(arrays, names, options.model, source=str(prefix)),
        options.model,
        preprocessing=preprocessing,
        classes=classes,
        source=str(prefix),
        origin={
            "imported_from": prefix.name,
            "format": "tf",
            "names": names.name,
            "sha256": {p.name: files.sha256(p) for p in checkpoint.files_of(prefix)},
            "notes": [note],
        },
    )


def _preprocessing(options: argparse.Namespace) -> Preprocessing:
    """Returns the published preprocessing, with the given flags applied."""
    usual = published.preprocessing(options.model, layout=options.format)
    given: dict[str, Any] = {}
    if options.resolution is not None:
        given["resolution"] = options.resolution
    if options.interpolation:
        given["interpolation"] = options.interpolation
    for name in ("mean", "std"):
        if (text := getattr(options, name)) is not None:
            given[name] = _per_channel(name, text)
    return dataclasses.replace(usual, **given)


def _per_channel(name: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(0 <= value <= 1 for value in values):
        raise UserError(
            f"--{name}={text} should be one number, or three separated by commas, on"
            " the 0-1 scale, such as 0.485,0.456,0.406"
        )
    return values if len(values) == 3 else values * 3


def _classes(file: str) -> tuple[str, ...]:
    """Reads class names, one per line."""
    path = pathlib.Path(file)
    lines = files.read_foreign_text(path).splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(
            f"--classes='{path}' names '{twice[0]}' twice: class names must differ"
        )
    return names

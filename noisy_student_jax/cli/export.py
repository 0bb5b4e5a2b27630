"""``noisy-student export``."""

import argparse
import pathlib
from collections.abc import Callable

from noisy_student_jax import tasks
from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import UserError, nearest
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.protocols import Task
from noisy_student_jax.interop.export import to_hub, to_onnx, to_savedmodel, to_timm
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle

FORMATS = ("timm", "onnx", "savedmodel", "hub")
SUFFIXES = {"timm": ".safetensors", "onnx": ".onnx"}
"""File suffixes of single-file formats; the others write a directory."""


def export(options: argparse.Namespace, interruption: Interruption) -> int:
    """Exports a bundle to a format of other programs."""
    _check(options)
    output = pathlib.Path(options.output)
    bundle = bundles.read(options.bundle)
    if not options.trust:
        bundles.refuse_foreign_code(bundle, options.bundle)
    seen = _writer(options)(bundle.in_views(options.views), output)
    console.say(f"wrote '{output}': {seen}")
    return 0


def _writer(options: argparse.Namespace) -> Callable[[Bundle, pathlib.Path], str]:
    source = pathlib.Path(options.bundle)
    return {
        "timm": to_timm.export,
        "onnx": lambda bundle, output: to_onnx.export(
            bundle,
            output,
            task=_task(bundle),
            preprocess=not options.without_preprocessing,
        ),
        "savedmodel": lambda bundle, output: to_savedmodel.export(
            bundle, output, task=_task(bundle)
        ),
        "hub": lambda bundle, output: to_hub.export(
            bundle, output, task=_task(bundle), source=source
        ),
    }[options.format]


def _task(bundle: Bundle) -> Task:
    return tasks.create(bundle.task, bundle.classes)


def _check(options: argparse.Namespace) -> None:
    """Checks the options before anything is read."""
    if not options.format:
        raise UserError(
            f"`noisy-student export` needs --format=FORMAT, one of {', '.join(FORMATS)}"
        )
    if options.format not in FORMATS:
        raise UserError(
            f"there is no format '{options.format}'{nearest(options.format, FORMATS)}"
            f" (it is one of {', '.join(FORMATS)})"
        )
    if not options.bundle or not options.output:
        raise UserError(
            "`noisy-student export` needs a bundle's directory and what to write:"
            f" noisy-student export --format={options.format} BUNDLE OUTPUT"
        )
    if options.without_preprocessing and options.format != "onnx":
        raise UserError(
            "--without-preprocessing is for --format=onnx alone: a SavedModel has both"
            " signatures, and the others are weights"
        )
    if options.views is not None and options.format in ("timm", "hub"):
        raise UserError(
            f"--views is for programs, and --format={options.format} writes weights:"
            " use --format=onnx or --format=savedmodel"
        )
    output = pathlib.Path(options.output)
    suffix = SUFFIXES.get(options.format)
    if not suffix:
        files.check_free(output)
        return
    if output.suffix != suffix:
        raise UserError(
            f"--format={options.format} writes one file: give it a name that ends in"
            f" {suffix}, not '{output}'"
        )
    if output.exists() or output.is_symlink():
        raise UserError(
            f"'{output}' already exists; nothing is ever overwritten, so move it away"
            " or choose another name"
        )

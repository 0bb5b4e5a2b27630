"""``noisy-student evaluate --suite=…`` for a bundle and a folder, or for a run."""

import argparse
import json
import pathlib
from typing import Any

import numpy as np

from noisy_student_jax import tasks
from noisy_student_jax.core import console, files, unusable
from noisy_student_jax.core.errors import Interrupted, UserError, nearest
from noisy_student_jax.core.preemption import EXIT_STATUS, Interruption
from noisy_student_jax.core.protocols import Source
from noisy_student_jax.data.sources import fingerprint
from noisy_student_jax.generation.evaluate import refuse_overlap
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.robustness import datasets as folders
from noisy_student_jax.robustness import fgsm, results, suites, text
from noisy_student_jax.robustness.accuracy import Subject
from noisy_student_jax.robustness.metrics import PERTURBATIONS
from noisy_student_jax.robustness.resume import Parts
from noisy_student_jax.runs.run import Generation

SUITES = (
    "imagenet_a",
    "imagenet_c",
    "imagenet_p",
    "imagenet_r",
    "fgsm",
    "corruptions",
)
FLAGS = (
    *("model", "images", "json", "output", "batch", "epsilon", "alexnet_flips"),
    "trust",
)
"""Flags of ``noisy-student evaluate`` that require ``--suite``."""
SCHEMA = 1
BATCH = 64


def of_bundle(options: argparse.Namespace, interruption: Interruption) -> int:
    """Evaluates any bundle on a folder of images.

    Raises:
      UserError: the flags are incomplete or contradictory, or the evaluation fails.
    """
    check_suite(options.suite)
    for flag, example in (("model", "BUNDLE"), ("images", "DIR")):
        if not getattr(options, flag):
            raise UserError(
                f"`noisy-student evaluate --suite={options.suite}` needs"
                f" --{flag}={example}"
                + (
                    ", or --config=FILE, --workdir=DIR and --generation=K of a run"
                    if options.suite in results.RUN_SUITES
                    else ""
                )
            )
    if options.overrides or options.generation or options.again:
        raise UserError(
            "`noisy-student evaluate --suite` takes either --model and --images, or"
            " --config, --workdir and --generation"
        )
    output = options.output and pathlib.Path(options.output)
    if output and files.exists(output):
        raise UserError(f"--output='{output}' exists: give another, or remove it")
    bundle = bundles.read(options.model)
    if not options.trust:
        bundles.refuse_foreign_code(bundle, options.model)
    if len(bundle.trained_on):
        console.warn(
            "whether this model was trained on these images is not checked: it knows"
            " its training images by the keys of its run, which files in a folder do"
            " not have"
        )
    place = pathlib.Path(options.images)
    identity = {"images": str(place.resolve())}
    return _evaluate(options, bundle, place, identity, output, interruption)


def of_student(
    options: argparse.Namespace, student: Generation, interruption: Interruption
) -> int:
    """Evaluates a generation or baseline of a run on the run's test images.

    Raises:
      UserError: the suite needs its own images, or the model is not trained yet.
    """
    check_suite(options.suite)
    if options.suite not in results.RUN_SUITES:
        raise UserError(
            f"--suite={options.suite} needs images of its own: give"
            f" --model={student.paths.model} and --images=DIR"
        )
    if options.model or options.images or options.output:
        raise UserError(
            "`noisy-student evaluate --suite` takes either --model and --images (and"
            " --output), or --config, --workdir and --generation"
        )
    if not files.is_file(student.paths.model / bundles.CARD):
        raise UserError(
            f"{student.spec.name} has no model in '{student.run.workdir}' yet: train it"
            " first, or do the whole loop with `noisy-student run`"
        )
    bundle = bundles.read(student.paths.model)
    test = student.run.dataset.test
    refuse_overlap(bundle, test)
    identity = {"images": fingerprint(test)}
    output = results.path_of(student.paths.folder, options.suite)
    with student.run.locked():
        status = _evaluate(options, bundle, test, identity, output, interruption)
    if not status:
        console.say("`noisy-student report` shows it in the report of the run")
    return status


def check_suite(name: str) -> None:
    """Raises UserError if there is no such suite."""
    if name not in SUITES:
        raise UserError(
            f"no suite is called '{name}'{nearest(name, list(SUITES))} (known:"
            f" {', '.join(SUITES)})"
        )


def _evaluate(
    options: argparse.Namespace,
    bundle: Bundle,
    images: pathlib.Path | Source,
    identity: dict[str, str],
    output: pathlib.Path | None,
    interruption: Interruption,
) -> int:
    """Performs a suite, prints its result and writes it; returns the exit status.

    Args:
      options: options of the command.
      bundle: the model.
      images: a folder, or a source of labeled images.
      identity: identity of the images, to match partial results.
      output: path of the result; None only prints it.
      interruption: checked before each batch.
    """
    batch = BATCH if options.batch is None else options.batch
    if batch < 1:
        raise UserError(f"--batch is {options.batch}, but must be at least 1")
    _check_flags(options)
    epsilons, alexnet = _epsilons(options), _alexnet(options)
    task = tasks.create(bundle.task, bundle.classes)
    subject = Subject.of(bundle, task, batch=batch)
    identity = {"model": bundle.sha256, **identity, "epsilons": str(epsilons)}
    parts = Parts(options.suite, identity, output=output, interruption=interruption)
    try:
        found = _perform(options.suite, subject, images, parts, epsilons, alexnet)
    except Interrupted as error:
        kept = (
            "; finished parts are kept, and the same command resumes after them"
            if output
            else "; nothing is kept: with --output=FILE the same command would resume"
        )
        console.say(f"{error}{kept}")
        return EXIT_STATUS
    found = {
        "schema": SCHEMA,
        "suite": options.suite,
        "model": bundle.architecture,
        "sha256": bundle.sha256,
        **found,
    }
    if output:
        # Those of a run are read again, by its report.
        files.write_json(output, found, with_sum=not options.output)
    parts.forget()
    _tell(found, options, output)
    return 0


def _perform(
    suite: str,
    subject: Subject,
    images: pathlib.Path | Source,
    parts: Parts,
    epsilons: tuple[float, ...],
    alexnet: dict[str, float] | None,
) -> dict[str, Any]:
    source: Source
    left_out: dict[str, int] = {}
    if isinstance(images, pathlib.Path):
        if suite in ("imagenet_a", "imagenet_r"):
            return suites.some_classes(subject, images, parts)
        if suite == "imagenet_c":
            return suites.imagenet_c(subject, images, parts)
        if suite == "imagenet_p":
            return suites.imagenet_p(subject, images, parts, alexnet=alexnet)
        source, _, left_out = folders.open_classes(
            images,
            subject.bundle.classes,
            images.name,
            decoding=subject.bundle.decoding,
        )
    else:
        source = images
    if suite == "fgsm":
        found = suites.attacked(subject, source, parts, epsilons=epsilons)
    else:
        found = suites.corrupted(subject, source, parts)
    warnings = [f"left out: {number:,} {why}" for why, number in left_out.items()]
    return {**found, "warnings": found["warnings"] + warnings}


def _tell(
    found: dict[str, Any], options: argparse.Namespace, output: pathlib.Path | None
) -> None:
    for warning in found["warnings"]:
        console.warn(warning)
    what = "clips" if "clips" in found else "images"
    bad = found["unusable"].items()
    # No share is too large: the suite itself refuses if no record is usable.
    unusable.tell(bad, found[what] + len(bad), what, most=1.0)
    if options.json:
        console.print_json(found)
        return
    console.say(text.told(found))
    if output:
        console.say(f"written to '{output}'")


def _check_flags(options: argparse.Namespace) -> None:
    """Raises UserError for flags that the suite does not use."""
    for flag, suite in (("epsilon", "fgsm"), ("alexnet_flips", "imagenet_p")):
        if getattr(options, flag) and options.suite != suite:
            raise UserError(
                f"--{flag.replace('_', '-')} belongs to --suite={suite}, not to"
                f" --suite={options.suite}"
            )


def _epsilons(options: argparse.Namespace) -> tuple[float, ...]:
    if not options.epsilon:
        return fgsm.EPSILONS
    try:
        values = tuple(float(one) for one in options.epsilon.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value <= 255 for value in values):
        raise UserError(
            f"--epsilon={options.epsilon}: give sizes of the step on pixels of 0–255,"
            " above 0 and with commas between them, such as 2,4,8,16"
        )
    return tuple(sorted(set(values)))


def _alexnet(options: argparse.Namespace) -> dict[str, float] | None:
    """Returns AlexNet's flip probabilities, as fractions, by perturbation."""
    if not options.alexnet_flips:
        return None
    path = pathlib.Path(options.alexnet_flips)
    if not files.is_file(path):
        raise UserError(f"--alexnet-flips='{path}' is not there")
    try:
        given = json.loads(files.read_foreign_text(path))
        found = {str(k): float(v) for k, v in dict(given).items()}
    except (TypeError, ValueError, RecursionError):
        raise UserError(
            f"'{path}' is no JSON object of numbers: give AlexNet's flip probability"
            f" for each of {', '.join(PERTURBATIONS)}"
        ) from None
    good = np.array([0 < value <= 1 for value in found.values()])
    if set(found) != set(PERTURBATIONS) or not good.all():
        raise UserError(
            f"'{path}' must give AlexNet's flip probability, a fraction above 0 and up"
            f" to 1, for each of {', '.join(PERTURBATIONS)}, and nothing else"
        )
    return found

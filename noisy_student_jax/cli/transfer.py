"""``noisy-student transfer``: what models are worth on other images."""

import argparse
import pathlib

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.studies.transfer import checkpoints, study, text

SHOTS = "1,5,10,25"


def transfer(options: argparse.Namespace, interruption: Interruption) -> int:
    """Compares models on a target, and prints tables and sentences.

    Raises:
      UserError: the flags are incomplete, or models or target cannot be used.
    """
    for flag, example in (("models", "A,B"), ("target", "DIR")):
        if not getattr(options, flag):
            raise UserError(f"`noisy-student transfer` needs --{flag}={example}")
    shots = _shots(options.shots)
    output = options.output and pathlib.Path(options.output)
    if output and files.exists(output):
        raise UserError(f"--output='{output}' exists: give another, or remove it")
    models = checkpoints.read(options.models, trust=options.trust)
    found = study.compare(
        models,
        options.target,
        shots,
        pathlib.Path(options.workdir).absolute(),
        fine_tuned=options.fine_tune,
        interruption=interruption,
    )
    if output:
        files.write_json(output, found)
    if options.json:
        console.print_json(found)
        return 0
    console.say()
    console.say(text.told(found))
    if output:
        console.say(f"written to '{output}'")
    return 0


def _shots(given: str) -> list[int]:
    """Returns the numbers that ``--shots`` lists, in order.

    Raises:
      UserError: they are no numbers from 1 on.
    """
    try:
        shots = sorted({int(one) for one in given.split(",")})
    except ValueError:
        shots = [0]
    if shots[0] < 1:
        raise UserError(
            f"--shots is '{given}', but must be numbers of images of each class with"
            f" commas between them, such as {SHOTS}"
        )
    return shots

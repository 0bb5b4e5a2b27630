"""``noisy-student study``: many runs, one table."""

import argparse
import pathlib
import shlex

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.planning.speeds import of_machine
from noisy_student_jax.studies import findings, page, study
from noisy_student_jax.studies import plan as planning
from noisy_student_jax.studies.perform import RESULTS, Performed, dealt

FINDINGS = "study.json"
SEEDS = 5
"""Of a plan."""


def perform(options: argparse.Namespace, interruption: Interruption) -> int:
    """Performs a study, and writes its table and page."""
    for flag, example in (("config", "configs/studies/NAME.py"), ("workdir", "DIR")):
        if not getattr(options, flag):
            raise UserError(f"`noisy-student study` needs --{flag}={example}")
    if options.seeds < 1:
        raise UserError(f"--seeds={options.seeds}, but must be 1 or more")
    workdir = pathlib.Path(options.workdir)
    one = opened(options, workdir, interruption)
    results = [one.result(seed) for seed in dealt(range(options.seeds), options.jobs)]
    found = findings.findings(one.study, results)
    files.write_json(workdir / FINDINGS, findings.as_json(found))
    path = page.write(one, found)
    console.say()
    console.say(findings.text(found))
    console.say(f"page: {path}")
    return 0


def plan(options: argparse.Namespace, interruption: Interruption) -> int:
    """Prints what a study will take."""
    for flag in ("model", "resolution", "recipe", "topology", "generation"):
        if getattr(options, flag):
            raise UserError(
                f"`noisy-student plan` of a study takes no --{flag}: it adds up its"
                " runs"
            )
    options.base, options.results, options.seeds = None, None, SEEDS
    one = opened(options, pathlib.Path(options.workdir or "runs/plan"), interruption)
    speeds = of_machine() if options.measure else None
    planned = planning.facts(one, speeds=speeds)
    if options.json:
        console.print_json(planned)
    else:
        console.say(planning.text(planned, seeds=SEEDS))
    return 0


def opened(
    options: argparse.Namespace, workdir: pathlib.Path, interruption: Interruption
) -> Performed:
    """Opens the study that options name; writes nothing."""
    file = pathlib.Path(options.config)
    found = study.load(file)
    command = ["noisy-student", "study", f"--config={options.config}"]
    command += [f"--workdir={options.workdir}", f"--seeds={options.seeds}"]
    command += [f"--base={options.base}"] if options.base else []
    return Performed(
        study=found,
        base=pathlib.Path(options.base or file.parent / found.base),
        workdir=workdir,
        results=pathlib.Path(options.results or workdir / RESULTS),
        overrides=tuple(options.overrides),
        interruption=interruption,
        command=shlex.join([*command, *options.overrides]),
    )

"""The commands: functions from options to an exit status."""

import argparse
import pathlib
import shlex
from typing import Any

from noisy_student_jax import config as configs
from noisy_student_jax.cli import evaluate as evaluating
from noisy_student_jax.cli import study
from noisy_student_jax.config import renamed
from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.generation.preconditions import check
from noisy_student_jax.planning import plan as planning
from noisy_student_jax.planning.load import load
from noisy_student_jax.planning.topology import command as topology
from noisy_student_jax.pseudo_labels import selection
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.report import summary as judgment
from noisy_student_jax.report.contact_sheet import CONTACT_SHEET
from noisy_student_jax.report.text_table import text_table
from noisy_student_jax.robustness import command as robustness
from noisy_student_jax.runs import fixres, scheduler
from noisy_student_jax.runs.paths import DECISIONS, PREPARED
from noisy_student_jax.runs.run import Run
from noisy_student_jax.self_training import noisy_student
from noisy_student_jax.studies.study import is_study

Options = argparse.Namespace

BEFORE_THE_CONFIG = (PREPARED, DECISIONS)
"""Entries that a run directory may hold before its config is written."""


def run(options: Options, interruption: Interruption) -> int:
    """Performs all stages of a run.

    Returns:
      1 if a teacher had no confident pseudo-label, so that its student is missing; the
      other models, the table and the report are there.
    """
    one = _open_run(options, interruption)
    ended = _perform(one, options)
    _conclude(one)
    for why in ended:
        console.say(f"error: {console.printable(why)}", error=True)
    return 1 if ended else 0


def train(options: Options, interruption: Interruption) -> int:
    """Trains one generation or baseline."""
    return _one_stage(options, interruption, "train")


def prepare(options: Options, interruption: Interruption) -> int:
    """Reads and checks the images, splits them into parts, and draws some."""
    one = _open_run(options, interruption)
    _perform(one, options, only={"data", "contact_sheet"})
    counts = {name: len(part) for name, part in one.dataset.parts().items()}
    console.say()
    console.say(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    console.say(f"look at {one.workdir / CONTACT_SHEET} before training")
    return 0


def label(options: Options, interruption: Interruption) -> int:
    """Labels the pool with one generation."""
    return _one_stage(options, interruption, "label")


def evaluate(options: Options, interruption: Interruption) -> int:
    """Evaluates a generation or baseline, or any bundle on labeled images."""
    if options.suite:
        robustness.check_suite(options.suite)
        if not (options.config or options.workdir):
            return robustness.of_bundle(options, interruption)
        one = _open_run(options, interruption)
        name, _, _ = _stage_name(one, options, "evaluate").partition("/")
        student = next(s for s in one.students if s.spec.name == name)
        return robustness.of_student(options, student, interruption)
    known = evaluating.FLAGS if options.model else ()
    for flag in [flag for flag in robustness.FLAGS if flag not in known]:
        if getattr(options, flag) not in (None, False):
            raise UserError(
                f"--{flag.replace('_', '-')} belongs to `noisy-student evaluate"
                " --suite=SUITE`"
            )
    if options.model:
        return evaluating.of_bundle(options, interruption)
    return _one_stage(options, interruption, "evaluate")


def select(options: Options, interruption: Interruption) -> int:
    """Selects pseudo-labels of a run, or of a directory of sidecars."""
    if options.labels is None and options.output is None:
        return _one_stage(options, interruption, "select")
    if options.labels is None or options.output is None:
        missing = "--labels=DIR" if options.labels is None else "--output=DIR"
        raise UserError(f"`noisy-student select` also needs {missing}")
    if options.workdir or options.generation or options.again:
        raise UserError(
            "`noisy-student select` takes either --labels and --output, or --workdir"
            " and --generation (and --again)"
        )
    if options.config:
        config = configs.load(options.config, options.overrides)
    else:
        config = configs.defaults(options.overrides)
    summary = selection.select(
        options.labels,
        options.output,
        SelectionOptions.from_config(config.selection),
    )
    for warning in summary["warnings"]:
        console.warn(warning)
    counts = summary["counts"]
    more = "".join(
        f" + {told} {counts[name]:,}"
        for name, told in (("above_max_score", "surer"), ("not_drawn", "not drawn"))
        if name in counts
    )
    below = "below" if summary["method"] == "reference" else "not above"
    console.say(
        f"read {counts['read']:,} = selected {counts['selected']:,} + quarantined"
        f" {counts['quarantined']:,} + {below} {config.selection.min_score:g}"
        f" {counts['below_threshold']:,} + over capacity {counts['over_capacity']:,}"
        f"{more};"
        f" {counts['draws']:,} draws, written to '{options.output}'"
    )
    return 0


def report(options: Options, interruption: Interruption) -> int:
    """Writes the summary and report of a finished run, or shows what they say."""
    if options.show:
        _conclude(_look(options, interruption))
        return 0
    one = _open_run(options, interruption)
    _perform(one, options, only={"report"})
    _conclude(one)
    return 0


def status(options: Options, interruption: Interruption) -> int:
    """Prints the state of each stage."""
    one = _look(options, interruption)
    workdir = one.workdir
    whole = noisy_student(one)
    found = scheduler.standings(one, whole)
    running = one.is_locked
    rows: list[dict[str, Any]] = []
    for stage in whole:
        manifest = one.ledger.manifest(stage.name)
        standing = found[stage.name]
        going_on = standing.state == "started"
        rows.append(
            {
                "stage": stage.name,
                "state": "running" if going_on and running else standing.state,
                "seconds": manifest["seconds"] if manifest else None,
                "why": list(standing.why),
            }
        )
    if options.json:
        last = ("finished", *scheduler.GONE)
        done = all(row["state"] in last for row in rows)
        console.print_json({"workdir": str(workdir), "finished": done, "stages": rows})
        return 0
    width = max(len(row["stage"]) for row in rows)
    for row in rows:
        told = "; ".join(row["why"])
        if row["state"] == "finished":
            told = console.duration(row["seconds"])
        line = f"{row['stage'].ljust(width)}  {row['state'].ljust(8)}  {told}"
        console.say(line.rstrip())
    return 0


def plan(options: Options, interruption: Interruption) -> int:
    """Prints the predicted cost of a model or a config."""
    if options.config and is_study(options.config):
        return study.plan(options, interruption)
    if bool(options.model) == bool(options.config):
        raise UserError(
            "`noisy-student plan` needs either --config=FILE or --model=NAME"
        )
    if options.json and options.recipe:
        raise UserError("`noisy-student plan` prints either --json or --recipe")
    if options.measure and options.recipe:
        raise UserError("`noisy-student plan` takes either --measure or --recipe")
    if options.measure and options.model:
        raise UserError(
            "`noisy-student plan --measure` needs --config=FILE: how long a model takes"
            " depends on what it is trained on"
        )
    where = topology.asked_for(options)
    if options.resolution < 0:
        raise UserError(f"--resolution is {options.resolution}, but must be above 0")
    if options.model:
        if options.overrides:
            raise UserError(
                f"`noisy-student plan --model` takes no '{options.overrides[0]}': it"
                " reads no config"
            )
        facts = planning.model_facts(options.model, resolution=options.resolution)
        if options.json:
            console.print_json(facts)
        else:
            console.say(planning.model_text(facts))
            console.say(planning.blocks_text([facts]))
        return 0
    workdir = pathlib.Path(options.workdir or "runs/plan")
    config, _ = load(
        options.config, options.overrides, workdir, interruption, fit=False
    )
    if where:
        topology.settle(config, where)
    one = Run(config, workdir, interruption=interruption, look_only=True, believe=True)
    check(one, devices=len(where.devices) if where else config.plan.devices)
    if options.recipe:
        console.say(planning.recipe(one))
        return 0
    if where:
        facts = planning.run_facts(one)
        facts["topology"] = topology.facts(one, where, generation=options.generation)
    elif options.measure or config.budget_hours:
        console.say(
            "speeds of this machine; measuring one takes some ten seconds, and what the"
            " compiler takes"
        )
        facts = planning.measured_facts(one)
    else:
        facts = planning.run_facts(one)
    if options.json:
        console.print_json(facts)
    else:
        console.say(planning.run_text(facts))
        console.say(planning.blocks_text(facts["generations"]))
        if where:
            console.say(topology.text(facts["topology"]))
    return 0


def _look(options: Options, interruption: Interruption) -> Run:
    """Opens a run directory with the config that it holds, to write nothing."""
    if not options.workdir:
        raise UserError(f"`noisy-student {options.command}` needs --workdir=DIR")
    workdir = pathlib.Path(options.workdir)
    if not files.is_file(workdir / "config.json"):
        raise UserError(
            f"'{workdir}' is not a run directory: it has no config.json (it is what"
            " --workdir of `noisy-student run` was)"
        )
    config = configs.from_json(workdir / "config.json")
    return Run(config, workdir, interruption=interruption, look_only=True)


def _open_run(options: Options, interruption: Interruption) -> Run:
    for flag in ("config", "workdir"):
        if not getattr(options, flag):
            example = "FILE" if flag == "config" else "DIR"
            raise UserError(
                f"`noisy-student {options.command}` needs --{flag}={example}"
            )
    workdir = pathlib.Path(options.workdir)
    for place in (workdir, *workdir.parents):
        if files.exists(place) and not files.is_folder(place):
            where = "is" if place == workdir else f"is below '{place}', which is"
            raise UserError(
                f"--workdir='{workdir}' {where} a file: give a directory, a new one or"
                " one of an earlier run"
            )
    # Names that start with a dot belong to interrupted writes.
    foreign = any(
        not path.name.startswith(".") and path.name not in BEFORE_THE_CONFIG
        for path in files.list_folder(workdir)
    )
    if foreign and not files.is_file(workdir / "config.json"):
        raise UserError(
            f"--workdir='{workdir}' has other files in it and no run of ours: give an"
            " empty or a new directory"
        )
    config, decided = load(options.config, options.overrides, workdir, interruption)
    command = ["noisy-student", "run", f"--config={options.config}"]
    command += [f"--workdir={options.workdir}", *options.overrides]
    one = Run(
        config,
        workdir,
        interruption=interruption,
        command=shlex.join(command),
        decisions=decided,
    )
    check(one)
    return one


def _perform(one: Run, options: Options, *, only: set[str] | None = None) -> list[str]:
    with one.locked():
        return scheduler.perform(
            one, noisy_student(one), only=only, again=options.again
        )


def _one_stage(options: Options, interruption: Interruption, kind: str) -> int:
    one = _open_run(options, interruption)
    name = _stage_name(one, options, kind)
    only = {name}
    if kind == "train":
        # Training includes the fine-tuning of FixRes.
        only |= {"data", f"{name.removesuffix('train')}{fixres.STAGE}"}
    _perform(one, options, only=only)
    return 0


def _stage_name(one: Run, options: Options, kind: str) -> str:
    """Returns the name of the stage that ``--generation`` selects."""
    names = [s.name for s in noisy_student(one) if s.name.endswith(f"/{kind}")]
    known = [name.removesuffix(f"/{kind}").split("_")[-1] for name in names]
    if options.generation is None:
        raise UserError(
            f"`noisy-student {kind}` needs --generation=K, one of {', '.join(known)}"
        )
    if options.generation not in known:
        raise UserError(
            f"--generation={options.generation}: this config can {kind} only"
            f" {', '.join(known) or 'nothing'}"
        )
    return names[known.index(options.generation)]


def _use(one: Run, summary: dict[str, Any]) -> list[str]:
    """Returns lines on the model to use."""
    best = one.workdir / "best"
    if "choice" not in summary:  # by an older version
        return [f"validation prefers generation {summary['best']}: {best}"]
    choice = summary["choice"]
    return [choice["says"].replace("best/", str(best), 1), *choice["notes"]]


def _conclude(one: Run) -> None:
    path = one.workdir / judgment.SUMMARY
    if not files.is_file(path):
        raise UserError(
            f"'{one.workdir}' has no {judgment.SUMMARY} to show: `noisy-student report`"
            " writes it once every model is evaluated"
        )
    summary = renamed.respelled(files.read_json(path))
    try:
        said = [
            text_table(one, summary),
            "",
            summary["verdict"]["says"],
            *_use(one, summary),
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"'{path}' is damaged: `noisy-student report` writes it again"
        ) from error
    console.say()
    for line in said:
        console.say(line)
    console.say(f"report: {one.workdir / 'report.html'}")

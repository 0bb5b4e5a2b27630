"""Schedules the stages of a run: skips, resumes or repeats each of them.

A stage declares the config fields that it reads and the stages that it builds on. With
the ledger they determine, before anything starts, which stages are finished, which can
be resumed, and which would have to run again because something changed.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import NothingSelectedError, UserError
from noisy_student_jax.runs import ledger
from noisy_student_jax.runs.ledger import Identity
from noisy_student_jax.runs.run import Run


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
      name: a name such as ``generation_0/train``, unique in the run.
      config: the identity fields that the stage reads, and values that follow from
        them.
      needs: names of the stages whose files it reads.
      outputs: its output files and folders, relative to the run directory; hashed when
        the stage finishes.
      perform: performs the stage and returns counts for the ledger.
      inputs: digests of inputs from outside the run.
      working_files: further files, needed only until the stage has finished.
      work: approximate multiply–adds, from which the remaining time is estimated.
      derived: whether it only summarizes other stages, so that it may be repeated
        without ``--again``.
      elsewhere: for an output, the name that it has with another config (with or
        without FixRes); a finished output is renamed rather than made again.
    """

    name: str
    config: dict[str, Any]
    needs: tuple[str, ...]
    outputs: tuple[str, ...]
    perform: Callable[[], dict[str, Any]]
    inputs: dict[str, str] = dataclasses.field(default_factory=dict)
    working_files: tuple[str, ...] = ()
    work: float = 0.0
    derived: bool = False
    elsewhere: dict[str, str] = dataclasses.field(default_factory=dict)


GONE = ("ended", "dropped")
"""States of stages that will not be performed with these settings."""


@dataclasses.dataclass(frozen=True)
class Standing:
    """The state of a stage.

    Attributes:
      state: ``finished``, ``started``, ``pending`` or ``stale``; ``ended`` if it has
        nothing to give, and ``dropped`` if it builds on such a stage.
      why: reasons for a stale, ended or dropped state, a phrase each.
      unrecorded: whether it is stale only as its files have no record.
      damaged: whether it is stale as its record is damaged.
    """

    state: str
    why: tuple[str, ...] = ()
    unrecorded: bool = False
    damaged: bool = False


def standings(run: Run, stages: list[Stage]) -> dict[str, Standing]:
    """Returns the state of each stage, in order; staleness passes to dependents."""
    found: dict[str, Standing] = {}
    recorded: set[str] = set()
    for stage in stages:
        manifest = run.ledger.manifest(stage.name)
        record = manifest or run.ledger.started(stage.name)
        recorded.update((manifest or {}).get("outputs", ()))
        stale_needs = [n for n in stage.needs if found[n].state == "stale"]
        fault = run.ledger.fault(stage.name)
        if fault and _made_anything(run, stage):
            found[stage.name] = Standing("stale", (fault,), damaged=True)
            continue
        lost = record is None and not stage.derived
        if lost and _made_anything(run, stage, besides=recorded):
            why = ["there is no record of what its files were made with"]
            found[stage.name] = Standing("stale", tuple(why), unrecorded=True)
            continue
        gone = [n for n in stage.needs if found[n].state in GONE]
        if gone and not stage.derived and record is None:
            found[stage.name] = _dropped(found, gone)
            continue
        if record is None:
            found[stage.name] = Standing("pending")
            continue
        why = [f"builds on {name}" for name in stale_needs]
        open_states = ("pending", "started", *(() if stage.derived else GONE))
        unfinished = [n for n in stage.needs if found[n].state in open_states]
        if unfinished:
            why += [f"{name} is missing" for name in unfinished]
        elif not stale_needs:
            why = _identity(run, stage, gone).differences(record)
        if manifest and not why:
            moved = run.ledger.misplaced(stage.name, stage.elsewhere)
            outputs = [moved.get(path, path) for path in stage.outputs]
            changed = run.ledger.changed_outputs(stage.name, outputs)
            why = [f"'{path}' changed" for path in changed]
        if why and not manifest and not _made_anything(run, stage):
            found[stage.name] = Standing("pending")
        elif why:
            found[stage.name] = Standing("stale", tuple(why))
        elif not manifest and (ended := record.get("ended")):
            found[stage.name] = Standing("ended", (ended,))
        else:
            found[stage.name] = Standing("finished" if manifest else "started")
    return found


def _dropped(found: dict[str, Standing], gone: list[str]) -> Standing:
    name = next((n for n in gone if found[n].state == "ended"), None)
    return Standing(
        "dropped", (f"{name} selected nothing",) if name else found[gone[0]].why
    )


def perform(
    run: Run, stages: list[Stage], *, only: set[str] | None = None, again: bool = False
) -> list[str]:
    """Performs the stages that have not finished.

    A selection that finds no confident pseudo-label ends its student, not the run: the
    stages that build on it are dropped, and derived ones use what there is.

    Files of a stage that have no record are moved to ``superseded`` without asking:
    nobody knows what they were made with.

    Args:
      run: the run.
      stages: all stages of the run.
      only: names of the stages to perform; None for all.
      again: whether stale stages are performed again (their files move to
        ``superseded``) rather than refused.

    Returns:
      Why stages had nothing to give, a sentence each.

    Raises:
      UserError: a stage is stale and `again` is false, or a stage to perform needs one
        that has not finished; or a stage of `only` has nothing to give.
    """
    found = standings(run, stages)
    derived = {stage.name for stage in stages if stage.derived}
    stale = {name: s for name, s in found.items() if s.state == "stale"}
    unrecorded = {name for name, standing in stale.items() if standing.unrecorded}
    if stale.keys() - derived - unrecorded and not again:
        raise UserError(_refusal(run, stale))
    chosen = [s for s in stages if only is None or s.name in only]
    _check_needs(run, chosen, found)
    run.write_config()
    for stage in stages:
        if stage.name in stale:
            folder = run.ledger.supersede(
                stage.name, [*stage.outputs, *stage.working_files]
            )
            why = f" ({found[stage.name].why[0]})" if stage.name in unrecorded else ""
            console.say(f"{stage.name}: moved its earlier files to '{folder}'{why}")
        elif found[stage.name].state == "finished":
            for new, old in run.ledger.misplaced(stage.name, stage.elsewhere).items():
                run.ledger.relocate(stage.name, old, new)
    run.progress.total_work = sum(
        s.work for s in chosen if found[s.name].state not in ("finished", *GONE)
    )
    for number, stage in enumerate(chosen, start=1):
        label = f"[{number}/{len(chosen)}] {stage.name}"
        if found[stage.name].state == "finished":
            # The process may have been killed after writing the manifest.
            run.ledger.forget_start(stage.name)
            console.say(f"{label}: finished already, skipped")
            continue
        if found[stage.name].state in GONE:
            if only is not None:
                raise UserError(f"{stage.name}: {'; '.join(found[stage.name].why)}")
            console.say(f"{label}: dropped, {'; '.join(found[stage.name].why)}")
            continue
        run.interruption.check()
        goes_on = found[stage.name].state == "started"
        gone = [n for n in stage.needs if found[n].state in GONE]
        try:
            _perform_one(run, stage, label, goes_on=goes_on, gone=gone)
        except NothingSelectedError as error:
            if only is not None:
                raise
            run.ledger.end(stage.name, str(error))
            console.warn(str(error))
            found[stage.name] = Standing("ended", (str(error),))
            for later in stages:
                gone = [n for n in later.needs if found[n].state in GONE]
                if gone and not later.derived:
                    found[later.name] = _dropped(found, gone)
    run.interruption.check()
    return [s.why[0] for s in found.values() if s.state == "ended"]


def _check_needs(run: Run, chosen: list[Stage], found: dict[str, Standing]) -> None:
    """Raises UserError if a chosen stage needs one neither finished nor chosen."""
    names = {stage.name for stage in chosen}
    for stage in chosen:
        missing = [
            need
            for need in stage.needs
            if need not in names
            and found[need].state not in ("finished", *(GONE if stage.derived else ()))
        ]
        if missing and found[stage.name].state not in ("finished", *GONE):
            raise UserError(
                f"{stage.name} needs {missing[0]}, which has not finished in"
                f" '{run.workdir}': run that stage first, or the whole loop with"
                " `noisy-student run`"
            )


def _perform_one(
    run: Run, stage: Stage, label: str, *, goes_on: bool, gone: Collection[str]
) -> None:
    identity = _identity(run, stage, gone)
    shared = None if stage.derived else run.shared
    if shared and shared.take(run.ledger, stage.name, identity):
        console.say(f"{label}: made already by another run, linked")
        run.progress.total_work -= stage.work
        return
    console.say(f"{label}{': resuming' if goes_on else ''}")
    started = run.ledger.started(stage.name) if goes_on else None
    if started is not None:
        for change in ledger.environment_changes(started["environment"]):
            console.warn(
                f"{stage.name} was started in another environment ({change}): the"
                " result is the same only up to rounding"
            )
    else:
        run.ledger.begin(stage.name, identity)
    for made in (run.workdir / path for path in stage.outputs):
        for folder in (made, made.parent):
            files.remove_unfinished(folder)
    run.progress.begin(label, work=stage.work)
    started_at = time.monotonic()
    try:
        counts = stage.perform()
    except BaseException:
        # A resumed stage has already taken this long. Where that cannot be written, the
        # first error says why.
        with contextlib.suppress(UserError, OSError):
            run.ledger.spend(stage.name, time.monotonic() - started_at)
        raise
    run.progress.finish()
    seconds = time.monotonic() - started_at
    run.ledger.finish(
        stage.name,
        identity,
        outputs=list(stage.outputs),
        counts=counts,
        seconds=seconds,
    )
    if shared:
        shared.keep(run.ledger, stage.name, identity)
    told = ", ".join(
        f"{key.replace('_', ' ')} {_told(value)}"
        for key, value in counts.items()
        if isinstance(value, (int, float))
    )
    console.say(f"  {told or 'done'} ({console.duration(seconds)})")


def _made_anything(run: Run, stage: Stage, *, besides: Iterable[str] = ()) -> bool:
    """Returns whether a stage has files, besides those recorded for other stages."""
    return any(
        files.exists(run.workdir / path)
        and not any(f"{one}/".startswith(f"{path}/") for one in besides)
        for path in [*stage.outputs, *stage.working_files]
    )


def _identity(run: Run, stage: Stage, gone: Collection[str] = ()) -> Identity:
    needed = {n: run.ledger.outputs_digest(n) for n in stage.needs if n not in gone}
    return Identity(stage.config, {**stage.inputs, **needed})


def _refusal(run: Run, stale: dict[str, Standing]) -> str:
    causes = []
    for name, standing in stale.items():
        own = [why for why in standing.why if not why.startswith("builds on")]
        if own:
            causes.append(f"{name} ({'; '.join(own[:4])})")
    damaged = any(standing.damaged for standing in stale.values())
    what = (
        "has damaged records" if damaged else "was made with other settings or inputs"
    )
    restore = "restore the records, " if damaged else ""
    return (
        f"'{run.workdir}' {what}: {', '.join(causes)};"
        f" these stages would have to run again: {', '.join(stale)}; {restore}pass"
        " --again to do so (existing files are moved to superseded/, not deleted), or"
        " give another --workdir"
    )


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"

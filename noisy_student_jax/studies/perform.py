"""Performs a study: a run for each variant and seed, a result for each seed.

All runs share stages (`runs.shared_stages`), so that variants with the same teacher
stand on one. The result of a seed is a JSON file; those that are there are not made
again, so that results of other times and machines add up to one table.
"""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from noisy_student_jax import config as configs
from noisy_student_jax.config import identity, plain
from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.open import FOLDERS
from noisy_student_jax.evaluation import resampling
from noisy_student_jax.generation.preconditions import check
from noisy_student_jax.planning.load import load
from noisy_student_jax.report.summary import paired
from noisy_student_jax.runs import scheduler
from noisy_student_jax.runs.paths import PREPARED
from noisy_student_jax.runs.run import Generation, Run
from noisy_student_jax.runs.shared_stages import SharedStages
from noisy_student_jax.self_training import noisy_student
from noisy_student_jax.studies.study import CONTROL, STUDENT, Study, Variant

STAGES, RESULTS = "stages", "results"


@dataclasses.dataclass(frozen=True)
class Performed:
    """A study that is performed in a directory.

    Attributes:
      study: the study.
      base: the config file of its runs.
      workdir: holds the runs, their shared stages, the table and the page.
      results: folder of the results of seeds.
      overrides: ``--config.key=value`` arguments for all runs.
      interruption: checked by every long loop.
      command: the command line, for the runs' pages.
    """

    study: Study
    base: pathlib.Path
    workdir: pathlib.Path
    results: pathlib.Path
    overrides: tuple[str, ...]
    interruption: Interruption
    command: str = ""

    def folder(self, variant: Variant, seed: int) -> pathlib.Path:
        """Returns the run directory of a variant and seed."""
        return self.workdir / variant.folder / f"seed_{seed}"

    def run(self, variant: Variant, seed: int, *, look_only: bool = False) -> Run:
        """Opens the run of a variant and seed.

        Args:
          variant: the variant.
          seed: the seed.
          look_only: whether the run is only inspected, as for plans.

        Raises:
          UserError: its config is invalid; the message names the variant.
        """
        workdir = self.folder(variant, seed)
        flags = [f"--config.seed={seed}", *self.overrides, *variant.overrides()]
        try:
            config, decided = load(self.base, flags, workdir, self.interruption)
            self._check(config, variant)
            config = self._with_one_cache(config)
            one = Run(
                config,
                workdir,
                interruption=self.interruption,
                command=self.command,
                decisions=decided,
                look_only=look_only,
                believe=look_only,
                shared=SharedStages(self.workdir / STAGES),
            )
            check(one)
        except UserError as error:
            raise UserError(f"variant '{variant.name}': {error}") from error
        return one

    def result(self, seed: int) -> dict[str, Any]:
        """Returns the result of a seed; makes it if it is not there.

        Raises:
          UserError: a result is there, but of other settings or damaged.
        """
        path = self.results / f"seed_{seed}.json"
        runs = {
            variant.name: self.run(variant, seed) for variant in self.study.variants
        }
        asked = files.digest(
            {name: identity(plain(one.config)) for name, one in runs.items()}
        )
        if files.is_file(path):
            found = files.read_json(path)
            if found.get("asked") != asked:
                raise UserError(
                    f"'{path}' is a result of other settings or of another version of"
                    " the study: give another --results=DIR, or move it away to have it"
                    " made again"
                )
            return found
        judged = {}
        for number, variant in enumerate(self.study.variants, 1):
            one = runs[variant.name]
            console.say(
                f"\nseed {seed}, variant {number}/{len(runs)}: {variant.name}"
                f" ('{one.workdir}')"
            )
            with one.locked():
                scheduler.perform(one, noisy_student(one))
            judged[variant.name] = _judged(one, variant)
        found = {
            "schema": 1,
            "study": self.study.name,
            "base": self.base.name,
            "seed": seed,
            "asked": asked,
            **_on_what(runs),
            "variants": {
                name: {
                    "value": _value(runs[name], student),
                    "labeled": len(runs[name].dataset.labeled),
                    "seconds": _seconds(runs[name]),
                }
                for name, student in judged.items()
            },
            "pairs": [
                {"of": ours, "than": theirs, **_gap(judged[ours], judged[theirs])}
                for ours, theirs in self.study.pairs
            ],
        }
        files.write_json(path, found)
        return found

    def _check(self, config: configs.ConfigDict, variant: Variant) -> None:
        if len(config.generations) != variant.generations:
            raise UserError(
                f"it asks for {variant.generations} generations, but '{self.base}'"
                f" decides on {len(config.generations)} here: give a --base whose"
                " settings are fixed"
            )

    def _with_one_cache(self, config: configs.ConfigDict) -> configs.ConfigDict:
        """Returns a config whose images are prepared once for all runs."""
        if config.data.name not in FOLDERS or config.data.cache is not None:
            return config
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.data.cache = str((self.workdir / PREPARED).resolve())
        config.lock()
        return config


def _on_what(runs: dict[str, Run]) -> dict[str, Any]:
    """Returns the metric and the test images, which are the same for all variants.

    Raises:
      UserError: variants are judged on different test images.
    """
    tests = {run.fingerprints["test"] for run in runs.values()}
    if len(tests) > 1:
        raise UserError(
            "the variants are judged on different test images, so they cannot be"
            " compared: change no field of config.data that deals them"
        )
    first = next(iter(runs.values()))
    return {
        "metric": first.task.primary_metric,
        "images": len(first.dataset.test),
        "test": tests.pop(),
        "pool": len(first.dataset.pool),
    }


def _judged(run: Run, variant: Variant) -> Generation | None:
    """Returns the model of a run that is judged; None if it could not be trained."""
    if variant.judged == CONTROL:
        one = run.student(CONTROL)
    else:
        one = run.student(run.last if variant.judged == STUDENT else 0)
    return one if run.ledger.manifest(f"{one.spec.name}/evaluate") else None


def _value(run: Run, student: Generation | None) -> float | None:
    if student is None:
        return None
    found = files.read_json(student.paths.evaluation)["splits"]["test"]["ema"]
    return found[run.task.primary_metric]


def _seconds(run: Run) -> float:
    """Returns the seconds of all stages of a run, those it shares included."""
    stages = (run.ledger.manifest(stage.name) for stage in noisy_student(run))
    return round(sum(one["seconds"] for one in stages if one), 1)


def _gap(ours: Generation | None, theirs: Generation | None) -> dict[str, Any]:
    """Returns the difference of two models, and its variance by test images."""
    if ours is None or theirs is None:
        return {"difference": None, "variance": None}
    run = ours.run
    found = resampling.difference(
        *paired(ours, theirs),
        run.task.primary,
        confidence=0.95,
        samples=run.config.evaluation.bootstrap,
    )
    half = (found.high - found.low) / 2 / statistics.NormalDist().inv_cdf(0.975)
    variance = None if math.isnan(half) else half**2
    return {"difference": found.value, "variance": variance}


def dealt(seeds: Sequence[int], jobs: str | None) -> list[int]:
    """Returns the seeds of one of several jobs.

    Args:
      seeds: all seeds.
      jobs: ``i/n``, the job and their number; None for all seeds.

    Raises:
      UserError: it is written otherwise, or there are more jobs than seeds.
    """
    if jobs is None:
        return list(seeds)
    first, slash, last = jobs.partition("/")
    if not (slash and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise UserError(
            f"--jobs={jobs}, but must be i/n: the job's number from 0, and how many"
            " there are"
        )
    if int(last) > len(seeds):
        raise UserError(
            f"--jobs={jobs}: there are {last} jobs for {len(seeds)} seeds, which are"
            " dealt whole, since the variants of a seed share stages: start no more"
            " jobs than seeds"
        )
    return list(seeds)[int(first) :: int(last)]

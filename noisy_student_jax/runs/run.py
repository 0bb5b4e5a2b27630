"""A run: its config, its directory, its data, and the ledger that it keeps."""

import contextlib
import copy
import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from noisy_student_jax import config as configs
from noisy_student_jax import data, tasks
from noisy_student_jax.core import files
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.protocols import Task
from noisy_student_jax.data import Dataset
from noisy_student_jax.data.sources import fingerprint
from noisy_student_jax.runs import fixres
from noisy_student_jax.runs.costs import Costs, ModelCost
from noisy_student_jax.runs.ledger import Ledger
from noisy_student_jax.runs.paths import DECISIONS, PREPARED, GenerationPaths
from noisy_student_jax.runs.spec import (
    TRAIN,
    DataFacts,
    GenerationSpec,
    changed,
    compared_with,
    largest_side,
    resolve,
)


class Run:
    """One run directory and everything its stages share."""

    def __init__(
        self,
        config: configs.ConfigDict,
        workdir: str | pathlib.Path,
        *,
        interruption: Interruption,
        command: str = "noisy-student run --config=FILE --workdir=DIR",
        look_only: bool = False,
        believe: bool = False,
        decisions: dict[str, Any] | None = None,
    ):
        """Opens a run; writes nothing yet.

        Args:
          config: complete, of `config.load`.
          workdir: the run directory.
          interruption: asked by every long loop.
          command: the line that makes, and resumes, the run; for people to read.
          look_only: whether the run is only looked at: nothing is prepared, and
            images that are not prepared are counted without being read.
          believe: whether data that are not here are taken to be as large as
            ``config.data.expected`` says. For plans; nothing can be read of them.
          decisions: what was decided for the config, to be kept beside it.
        """
        self.command = command
        self.look_only = look_only
        self.believe = believe
        self.costs = Costs()
        self.decisions = decisions
        self.config = config
        self.workdir = pathlib.Path(workdir)
        self.interruption = interruption
        self.ledger = Ledger(self.workdir)
        self.progress = Progress(every_seconds=config.log.every_seconds)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process out of the run directory.

        Raises:
          UserError: another process is at work in it.
        """
        if jax.process_index() > 0:
            yield
            return
        busy = (
            f"another process is at work in '{self.workdir}': wait for it, or give"
            " another --workdir"
        )
        with files.lock(self.workdir, busy=busy):
            yield

    @property
    def is_locked(self) -> bool:
        """Whether a process is at work in the run directory."""
        return files.is_locked(self.workdir)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data, read when first asked for.

        People's images are prepared first, unless this run is only looked at.
        """
        side = self.config.data.side or largest_side(self.config)
        section = with_places(self.config.data, self.workdir, side=side)
        dataset = data.load(
            section,
            seed=self.config.seed,
            interruption=self.interruption,
            progress=self.progress,
            look_only=self.look_only,
            believe=self.believe,
        )
        for name, source in dataset.parts().items():
            if not len(source):
                raise UserError(
                    f"the {name} part of data set '{dataset.name}' is empty: a run"
                    " needs labeled, pool, validation and test images"
                )
        return dataset

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 over the keys and labels of each part of the data."""
        parts = self.dataset.parts()
        return {name: fingerprint(source) for name, source in parts.items()}

    @functools.cached_property
    def facts(self) -> DataFacts:
        """What a plan needs to know of the data."""
        return DataFacts.of(self.dataset)

    @functools.cached_property
    def task(self) -> Task:
        """The task, with the dataset's classes."""
        return tasks.create(self.config.task, self.facts.classes)

    @functools.cached_property
    def specs(self) -> dict[tuple[str, str], GenerationSpec]:
        """What is trained, in order, by name and stage."""
        found = resolve(self.config, self.facts, outputs=self.task.outputs)
        return {(spec.name, spec.stage): spec for spec in found}

    @property
    def drafts(self) -> list["Generation"]:
        """Everything that is trained, as far as the config alone says.

        Made before any data are read: heads and schedules are yet to come.

        Raises:
          UserError: names the generation, and what is wrong with its config.
        """
        found = resolve(self.config, DataFacts.unknown(), outputs=1)
        return [Generation(self, spec) for spec in found]

    @property
    def students(self) -> list["Generation"]:
        """Everything that is trained, in order, before any fine-tuning of FixRes."""
        return [self.named(name) for name, stage in self.specs if stage == TRAIN]

    def student(self, generation: int | str) -> "Generation":
        """Returns a generation by its number, or what they are compared with by name.

        Raises:
          KeyError: there is none.
        """
        rival = generation in self.compared_with
        return self.named(generation if rival else f"generation_{generation}")

    @property
    def last(self) -> int:
        """Number of the last generation."""
        return len(self.config.generations) - 1

    @property
    def compared_with(self) -> list[str]:
        """Names of what is trained on labels only, to compare the generations with."""
        return compared_with(self.config)

    def named(self, name: str, *, stage: str = TRAIN) -> "Generation":
        """Returns what is trained under a name, by a stage."""
        return Generation(self, self.specs[name, stage])

    def reconfigured(self, config: configs.ConfigDict) -> "Run":
        """Returns this run with another config, on the same data; writes nothing."""
        self.task  # noqa: B018 - with the data, which both share
        other = copy.copy(self)
        other.config = config
        other.__dict__.pop("specs", None)
        return other

    def write_config(self) -> None:
        """Keeps the resolved config with the run, and what was decided for it."""
        if self.decisions is not None:
            files.write_json(self.workdir / DECISIONS, self.decisions)
        files.write_atomically(
            self.workdir / "config.json", configs.to_json(self.config)
        )


def with_places(
    data: configs.ConfigDict, workdir: pathlib.Path, *, side: int
) -> configs.ConfigDict:
    """Returns a config's ``data`` section with what it leaves to the run filled in.

    Args:
      data: the section.
      workdir: the run directory, where prepared images are kept unless it says more.
      side: shorter side at which images are kept.
    """
    section = data.copy_and_resolve_references()
    with section.unlocked():
        section.cache = section.cache or str(workdir / PREPARED)
        section.side = side
    return section


@dataclasses.dataclass(frozen=True)
class Generation:
    """A model that a run trains: its spec, where it is kept, and what it costs.

    Attributes:
      run: that it belongs to.
      spec: what is trained, and how.
    """

    run: Run
    spec: GenerationSpec

    @property
    def paths(self) -> GenerationPaths:
        """Where it keeps what."""
        spec = self.spec
        folder = self.run.workdir / spec.name
        return GenerationPaths(folder, spec.stage, spec.refined)

    @property
    def cost(self) -> ModelCost:
        """What its model costs."""
        return self.run.costs.of(self.spec.model)

    @property
    def teacher(self) -> "Generation | None":
        """Whose pseudo-labels it learns from, if from any."""
        name = self.spec.teacher
        return self.run.named(name) if name else None

    @property
    def final(self) -> "Generation":
        """Itself as its last weights are made: fine-tuned by FixRes, if it is."""
        if not self.spec.refined:
            return self
        return self.run.named(self.spec.name, stage=fixres.STAGE)

    @property
    def trained(self) -> "Generation":
        """Itself as it is before the fine-tuning of FixRes."""
        return self.run.named(self.spec.name) if self.spec.fine_tunes else self

    def changed(self, config: configs.ConfigDict) -> "Generation":
        """Returns it with other sections of the config."""
        return Generation(self.run, changed(self.spec, config, self.run.facts))

"""A run: its config, directory, data and ledger."""

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
from noisy_student_jax.core import console, files
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.protocols import Task
from noisy_student_jax.data import Dataset, expected
from noisy_student_jax.data.open import FOLDERS
from noisy_student_jax.data.sources import fingerprint
from noisy_student_jax.images.decode import ANY
from noisy_student_jax.images.samples import Scale
from noisy_student_jax.runs import fixres
from noisy_student_jax.runs.costs import Costs, ModelCost
from noisy_student_jax.runs.ledger import Ledger
from noisy_student_jax.runs.paths import DATASET, DECISIONS, PREPARED, GenerationPaths
from noisy_student_jax.runs.shared_stages import SharedStages
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
    """A run directory and everything that its stages share."""

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
        shared: SharedStages | None = None,
    ):
        """Opens a run; writes nothing yet.

        Args:
          config: a complete config from `config.load`.
          workdir: the run directory.
          interruption: checked by every long loop.
          command: the command line that starts and resumes the run, for the README.
          look_only: whether the run is only inspected: no images are prepared, and
            unprepared images are counted without being read.
          believe: whether missing data are assumed to have the sizes given in
            ``config.data.expected``. For plans only; such data cannot be read.
          decisions: record of the decisions made for the config, stored beside it.
          shared: the stages that it shares with other runs, if any.
        """
        self.command = command
        self.look_only = look_only
        self.believe = believe
        self.costs = Costs()
        self.decisions = decisions
        self.shared = shared
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
        """The dataset, opened on first access.

        A user's own images are prepared first, unless the run is only inspected: then
        what the run has recorded of images that are not in sight is enough.
        """
        record = self.workdir / DATASET
        try:
            return self._open_dataset()
        except UserError as error:
            if self.believe or not (self.look_only and files.is_file(record)):
                raise
            console.say_once(f"told from what the run has recorded, since {error}")
        return expected.recorded(self.config.data, files.read_json(record))

    @property
    def decoding_scales(self) -> dict[str, Scale]:
        """The scales of images of more than 8 bits; see `images.decode.Decoding`."""
        if self.config.data.scale is not None:
            black, white = self.config.data.scale
            return {ANY: (black, white)}
        scales: dict[str, Scale] = {}
        for part in self.dataset.parts().values():
            scales |= getattr(part, "scales", {})
        return scales

    def _open_dataset(self) -> Dataset:
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
                    f"the {name} part of dataset '{dataset.name}' is empty: a run"
                    " needs labeled, pool, validation and test images"
                    f"{_own_images(name) if section.name in FOLDERS else ''}"
                )
        return dataset

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 over the keys and labels of each part of the dataset."""
        parts = self.dataset.parts()
        return {name: fingerprint(source) for name, source in parts.items()}

    @functools.cached_property
    def facts(self) -> DataFacts:
        """Facts about the dataset that plans depend on."""
        return DataFacts.of(self.dataset)

    @functools.cached_property
    def task(self) -> Task:
        """The task with the dataset's classes."""
        return tasks.create(self.config.task, self.facts.classes)

    @functools.cached_property
    def specs(self) -> dict[tuple[str, str], GenerationSpec]:
        """Specs of everything that is trained, in order, by name and stage."""
        found = resolve(self.config, self.facts, outputs=self.task.outputs)
        return {(spec.name, spec.stage): spec for spec in found}

    @property
    def drafts(self) -> list["Generation"]:
        """Everything that is trained, resolved from the config alone.

        No data are read, so heads and schedules are placeholders.

        Raises:
          UserError: a generation's config is invalid; the message names the generation.
        """
        found = resolve(self.config, DataFacts.unknown(), outputs=1)
        return [Generation(self, spec) for spec in found]

    @property
    def students(self) -> list["Generation"]:
        """Everything that is trained, in order, without the fine-tunings of FixRes."""
        return [self.named(name) for name, stage in self.specs if stage == TRAIN]

    def student(self, generation: int | str) -> "Generation":
        """Returns a generation by its number, or a baseline by its name.

        Raises:
          KeyError: there is no such generation or baseline.
        """
        name = str(generation)
        return self.named(name if name in self.compared_with else f"generation_{name}")

    @property
    def last(self) -> int:
        """Number of the last generation."""
        return len(self.config.generations) - 1

    @property
    def compared_with(self) -> list[str]:
        """Names of the baselines: models trained on labels only, for comparison."""
        return compared_with(self.config)

    def named(self, name: str, *, stage: str = TRAIN) -> "Generation":
        """Returns the model that a stage trains under a name."""
        return Generation(self, self.specs[name, stage])

    def reconfigured(self, config: configs.ConfigDict) -> "Run":
        """Returns this run with another config, on the same data; writes nothing."""
        self.task  # noqa: B018 - loads the data, which both share
        other = copy.copy(self)
        other.config = config
        other.__dict__.pop("specs", None)
        return other

    def write_config(self) -> None:
        """Writes the resolved config and its decisions to the run directory."""
        if self.decisions is not None:
            files.write_json(self.workdir / DECISIONS, self.decisions, with_sum=True)
        files.write_atomically(
            self.workdir / "config.json", configs.to_json(self.config)
        )


def _own_images(part: str) -> str:
    """Says how a part of a user's own images that is empty can be filled."""
    flag = "unlabeled" if part == "pool" else part
    return f"; give more of them, or a folder with --config.{flag}=DIR"


def with_places(
    data: configs.ConfigDict, workdir: pathlib.Path, *, side: int
) -> configs.ConfigDict:
    """Returns a config's ``data`` section with the fields that depend on the run.

    Args:
      data: the section.
      workdir: the run directory, which holds prepared images by default, and whose
        images are no data.
      side: shorter side of prepared images, in pixels.
    """
    section = data.copy_and_resolve_references()
    with section.unlocked():
        cache = section.cache or workdir / PREPARED
        section.cache = str(pathlib.Path(cache).expanduser())
        section.workdir = str(workdir)
        section.side = side
    return section


@dataclasses.dataclass(frozen=True)
class Generation:
    """A model that a run trains, with its spec, paths and cost.

    Attributes:
      run: the run that trains it.
      spec: the model and its training.
    """

    run: Run
    spec: GenerationSpec

    @property
    def paths(self) -> GenerationPaths:
        """Paths of its files."""
        spec = self.spec
        folder = self.run.workdir / spec.name
        return GenerationPaths(folder, spec.stage, spec.refined)

    @property
    def cost(self) -> ModelCost:
        """Cost of its model."""
        return self.run.costs.of(self.spec.model)

    @property
    def teacher(self) -> "Generation | None":
        """The generation whose pseudo-labels it learns from, or None."""
        name = self.spec.teacher
        return self.run.named(name) if name else None

    @property
    def start(self) -> "Generation | None":
        """The generation whose weights it starts from, or None."""
        name = self.spec.starts_from
        return self.run.named(name) if name else None

    @property
    def final(self) -> "Generation":
        """The generation with its final weights: fine-tuned, where FixRes is on."""
        if not self.spec.refined:
            return self
        return self.run.named(self.spec.name, stage=fixres.STAGE)

    @property
    def trained(self) -> "Generation":
        """The generation before the fine-tuning of FixRes."""
        return self.run.named(self.spec.name) if self.spec.fine_tunes else self

    def changed(self, config: configs.ConfigDict) -> "Generation":
        """Returns the generation with other config sections."""
        return Generation(self.run, changed(self.spec, config, self.run.facts))

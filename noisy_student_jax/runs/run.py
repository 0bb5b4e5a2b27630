"""A run: its config, its directory, its data, and the ledger that it keeps."""

import contextlib
import dataclasses
import fcntl
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

from noisy_student_jax import config as configs
from noisy_student_jax import data, models, tasks
from noisy_student_jax.core import files
from noisy_student_jax.runs import fixres
from noisy_student_jax.core.console import Progress
from noisy_student_jax.data import Dataset
from noisy_student_jax.data.sources import fingerprint
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.config.schema import LABELS_ONLY
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.runs.ledger import Ledger
from noisy_student_jax.models import cost
from noisy_student_jax.models.initialize import abstract_variables
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.core.protocols import Task
from noisy_student_jax.core.types import PyTree

CONTROL, PROBE, FINE_TUNING = LABELS_ONLY
TITLES = {CONTROL: "control", PROBE: "probe", FINE_TUNING: "fine-tuning"}
DECISIONS = "decisions.json"
PREPARED = "prepared"
"""The folder of a run's prepared images, unless they are kept elsewhere."""
NUMBERS = {name: 65_536 + n for n, name in enumerate(LABELS_ONLY)}
"""Stand for these where a generation's number is asked for: past them all, so that they
draw nothing that a generation draws, however many there are."""


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
        self._costs: dict[tuple, Any] = {}
        self.decisions = decisions
        self.config = config
        self.workdir = pathlib.Path(workdir)
        self.interruption = interruption
        self.ledger = Ledger(self.workdir)
        self.progress = Progress(every_seconds=config.log.every_seconds)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process out of the run directory.

        The system lets go of the lock when a process ends, however it ends.

        Raises:
          UserError: another process is at work in it.
        """
        if jax.process_index() > 0:
            yield
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        with (self.workdir / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is at work in '{self.workdir}': wait for it, or"
                    " give another --workdir"
                ) from None
            yield

    @property
    def is_locked(self) -> bool:
        """Whether a process is at work in the run directory."""
        if not (self.workdir / ".lock").exists():
            return False
        try:
            with self.locked():
                return False
        except UserError:
            return True

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data, read when first asked for.

        People's images are prepared first, unless this run is only looked at.
        """
        side = self.config.data.side or self.largest_side
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

    @property
    def largest_side(self) -> int:
        """Shorter side that an image has to have for every student to see it all."""
        return max(
            one.resolution + one.config.model.crop_padding
            for student in self.students
            for one in (student, student.final)
        )

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 over the keys and labels of each part of the data."""
        parts = self.dataset.parts()
        return {name: fingerprint(source) for name, source in parts.items()}

    @functools.cached_property
    def task(self) -> Task:
        """The task, with the data set's classes."""
        return tasks.create(self.config.task, self.dataset.classes)

    @property
    def last(self) -> int:
        """Number of the last generation."""
        return len(self.config.generations) - 1

    def student(self, generation: int | str) -> "Student":
        """Returns what is trained in a generation, or to compare them with."""
        if generation in LABELS_ONLY:
            return Student(self, generation, self.config[generation])
        return Student(self, generation, self.config.generations[generation])

    @property
    def compared_with(self) -> list[str]:
        """Which of `LABELS_ONLY` are wanted."""
        return [name for name in LABELS_ONLY if self.config[name].enabled]

    @property
    def students(self) -> list["Student"]:
        """Everything that is trained: the generations, and what they compare with."""
        names: list[int | str] = [*range(self.last + 1), *self.compared_with]
        return [self.student(name) for name in names]

    def cost(self, student: "Student", measure: Callable[..., Any]) -> Any:
        """Returns what a function of `models.cost` tells of a student's model.

        Generations often have one architecture, and a large one takes seconds to go
        through: what has been told is remembered.
        """
        key = (
            measure.__name__,
            student.config.model.name,
            repr(sorted(student.arguments.items())),
            student.resolution,
        )
        if key not in self._costs:
            self._costs[key] = measure(student.module, resolution=student.resolution)
        return self._costs[key]

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
class Student:
    """A model to be trained: of a generation, or to compare them with.

    Attributes:
      run: that it belongs to.
      generation: its number, or one of `LABELS_ONLY`.
      config: its sections of the config.
      trained: where this is its fine-tuning by FixRes, itself as it was trained.
    """

    run: Run
    generation: int | str
    config: configs.ConfigDict
    trained: "Student | None" = None

    @property
    def final(self) -> "Student":
        """Itself as its last weights are made: fine-tuned by FixRes, if it is."""
        return fixres.fine_tuned(self) or self

    @property
    def stage(self) -> str:
        """The stage that makes it, which has a folder of its own."""
        return fixres.STAGE if self.trained else "train"

    @property
    def bundle(self) -> pathlib.Path:
        """The folder of its averaged weights: ``model`` for the last there are."""
        return self.folder / ("model" if self.final is self else fixres.BEFORE)

    @property
    def name(self) -> str:
        """Its folder in the run directory."""
        if self.labels_only:
            return self.generation
        return f"generation_{self.generation}"

    @property
    def labels_only(self) -> bool:
        """Whether it is there to compare the generations with."""
        return self.generation in LABELS_ONLY

    @property
    def adopted(self) -> str | None:
        """The bundle that the run was given in place of a trained first teacher."""
        return self.run.config.teacher if self.generation == 0 else None

    @property
    def folder(self) -> pathlib.Path:
        """Its folder."""
        return self.run.workdir / self.name

    @property
    def number(self) -> int:
        """What its random keys and its order are made from, beside the seed."""
        number = NUMBERS.get(self.generation, self.generation)
        return number + (fixres.NUMBERS_FROM if self.trained else 0)

    @property
    def teacher(self) -> "Student | None":
        """Whose pseudo-labels it learns from, if from any."""
        if self.labels_only or self.generation == 0:
            return None
        return self.run.student(self.generation - 1)

    @property
    def kept_selection(self) -> pathlib.Path | None:
        """The selection of its teacher that it keeps, to be labeled anew.

        The paper filters once. Who has no such teacher is selected for afresh.
        """
        if not self.teacher or not self.teacher.teacher:
            return None
        if not self.config.selection.relabel:
            return None
        return self.teacher.teacher.folder / "selection"

    @property
    def taught_on_the_fly(self) -> bool:
        """Whether its teacher labels the images in each step, beside stored labels."""
        if self.trained or not self.teacher:
            return False
        return self.config.labels.mode == "on_the_fly"

    @property
    def resolution(self) -> int:
        """Side of the images that it reads."""
        model = self.config.model
        return model.resolution or models.resolution(model.name)

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to an image before it sees it."""
        model = self.config.model
        mean, std = models.normalization(model.name)
        return Preprocessing(
            resolution=self.resolution,
            crop_padding=model.crop_padding,
            interpolation=model.interpolation,
            mean=tuple(mean if model.mean is None else model.mean),
            std=tuple(std if model.std is None else model.std),
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """What its architecture is created with."""
        model = self.config.model
        wanted = {
            "dropout_rate": model.dropout_rate,
            "stochastic_depth": model.stochastic_depth,
            "batch_norm_momentum": model.batch_norm_momentum,
            "batch_norm_epsilon": model.batch_norm_epsilon,
            "batch_norm_group": model.batch_norm_group or 0,
            "dtype": model.dtype,
            "remat": model.remat,
            "depthwise": model.depthwise,
            "layers": model.layers,
        }
        accepted = models.accepted_arguments(model.name, among=tuple(wanted))
        given = {name: value for name, value in wanted.items() if name in accepted}
        return {"outputs": self.run.task.outputs, **given}

    @property
    def module(self) -> nn.Module:
        """Its model."""
        return models.create(self.config.model.name, **self.arguments)

    @property
    def trainee(self) -> nn.Module:
        """Its model as it is trained: with its shallow blocks frozen, if it has any."""
        frozen = self.config.fixres.frozen_blocks
        if not self.trained or frozen is None:
            return self.module
        arguments = {**self.arguments, "frozen_blocks": frozen}
        return models.create(self.config.model.name, **arguments)

    @property
    def layout(self) -> BatchLayout:
        """Its batch."""
        train = self.config.train
        # The control draws as many images as a student; the first teacher has one
        # stream only.
        ratio = 0.0 if self.generation == 0 else train.ratio
        return BatchLayout.from_ratio(train.batch, ratio)

    @property
    def steps_per_epoch(self) -> float:
        """Steps that draw as many labeled images as there are."""
        return len(self.run.dataset.labeled) / self.config.train.batch

    @property
    def steps(self) -> int:
        """Steps it is trained for."""
        train = self.config.train
        if self.adopted:
            return 0
        return train.steps or max(1, round(train.epochs * self.steps_per_epoch))

    @property
    def schedule_start(self) -> int:
        """The step of its learning rate's schedule that it begins at."""
        return fixres.schedule_start(self) if self.trained else 0

    @property
    def parameters(self) -> int:
        """Number of its parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes["params"]))

    @property
    def flops(self) -> int:
        """Of one forward pass of one image."""
        return self.run.cost(self, cost.forward_flops)

    @property
    def activation_bytes(self) -> int:
        """Memory that one more image takes in training."""
        return self.run.cost(self, cost.activation_bytes)

    @property
    def shapes(self) -> PyTree:
        """Its variables, as shapes and dtypes."""
        return self.run.cost(self, abstract_variables)

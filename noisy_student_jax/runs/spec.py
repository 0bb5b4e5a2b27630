"""What a run trains, as plain values, resolved once and in order.

From the config follows how large the images must be (`largest_side`), from the dataset
its `DataFacts`, from its classes the task, and from all of these one `GenerationSpec`
for each model that is trained: the generations, what they are compared with, and
each of them once more if FixRes fine-tunes it.
"""

import dataclasses
import enum
from collections.abc import Iterator
from typing import Any

import flax.linen as nn

from noisy_student_jax import models
from noisy_student_jax.config import ConfigDict
from noisy_student_jax.config.schema import LABELS_ONLY
from noisy_student_jax.core import types
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.sources import Dataset
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.runs import fixres

TRAIN = "train"
"""The stage that trains a model; `fixres.STAGE` is the other one."""

_NUMBERS = {name: 65_536 + n for n, name in enumerate(LABELS_ONLY)}
"""Random keys of what is trained on labels only: past every generation's, so that it
draws nothing that a generation draws, however many there are."""


class Role(enum.StrEnum):
    """Why a model is trained."""

    TEACHER = "teacher"
    STUDENT = "student"
    CONTROL = "control"
    PROBE = "probe"
    FINE_TUNING = "fine_tuning"

    @property
    def labels_only(self) -> bool:
        """Whether it is trained on labels alone, to compare the generations with."""
        return self in LABELS_ONLY

    @property
    def title(self) -> str:
        """The role as tables name it."""
        return self.replace("_", "-")


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """What a plan needs to know of a dataset.

    Attributes:
      classes: class names in index order.
      labeled: number of labeled training images.
    """

    classes: tuple[str, ...]
    labeled: int

    @classmethod
    def unknown(cls) -> "DataFacts":
        """Returns what stands for them before any data are read."""
        return cls((), 1)

    @classmethod
    def of(cls, dataset: Dataset) -> "DataFacts":
        """Reads them off a dataset, without reading images."""
        return cls(tuple(dataset.classes), len(dataset.labeled))


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model and the images that it reads.

    Attributes:
      name: of the model table, or ``package.module:function``.
      arguments: that it is created with.
      preprocessing: of its images.
    """

    name: str
    arguments: dict[str, Any]
    preprocessing: Preprocessing

    @property
    def resolution(self) -> int:
        """Side of the images, in pixels."""
        return self.preprocessing.resolution

    @property
    def module(self) -> nn.Module:
        """The Flax module."""
        return models.create(self.name, **self.arguments)

    @property
    def key(self) -> tuple[str, str, int]:
        """All that parameters, FLOPs and activations depend on."""
        return self.name, repr(sorted(self.arguments.items())), self.resolution


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a model is trained.

    Attributes:
      steps: optimizer steps.
      steps_per_epoch: steps that draw as many labeled images as there are.
      start: step of the learning rate's schedule that training begins at.
    """

    steps: int
    steps_per_epoch: float
    start: int = 0


@dataclasses.dataclass(frozen=True)
class StepKey:
    """All that the program of a training step depends on."""

    model: tuple
    frozen_blocks: int | None
    taught_by: tuple | None
    layout: BatchLayout
    part: str
    microbatches: int
    optimizer: str
    shard_state: bool


@dataclasses.dataclass(frozen=True)
class CostKey:
    """All that the speed of training and of labeling depends on."""

    step: StepKey
    label_batch: int
    noise: tuple


@dataclasses.dataclass(frozen=True)
class GenerationSpec:
    """A model to be trained, and how.

    Attributes:
      name: its folder in the run directory.
      role: why it is trained.
      generation: its number, or its role's name where it is trained on labels only.
      number: of its random keys and its order, beside the seed.
      stage: that trains it: ``train``, or ``fixres`` for the fine-tuning of FixRes.
      model: that it is.
      layout: of its batches.
      schedule: how long it is trained.
      config: its sections of the config.
      adopted: the bundle given in place of a trained first teacher, or None.
      teacher: name of the generation whose pseudo-labels it learns from, or None.
      relabels: name of the generation whose selection is kept, with new labels; the
        paper filters once. None where its teacher's labels are selected afresh.
      refined: whether FixRes fine-tunes it afterwards.
      taught_by: model of the teacher that labels in each step, beside stored labels;
        None where stored labels are all.
    """

    name: str
    role: Role
    generation: int | str
    number: int
    stage: str
    model: ModelSpec
    layout: BatchLayout
    schedule: Schedule
    config: ConfigDict
    adopted: str | None
    teacher: str | None
    relabels: str | None
    refined: bool
    taught_by: ModelSpec | None

    @property
    def fine_tunes(self) -> bool:
        """Whether this is the fine-tuning of FixRes."""
        return self.stage == fixres.STAGE

    @property
    def owner(self) -> str:
        """The path of its sections in the config."""
        if self.role.labels_only:
            return self.name
        return f"generations[{self.generation}]"

    @property
    def frozen_blocks(self) -> int | None:
        """How many blocks FixRes freezes, with the stem; None where it freezes none."""
        return self.config.fixres.frozen_blocks if self.fine_tunes else None

    @property
    def trainee(self) -> nn.Module:
        """Its model as it is trained: with its shallow blocks frozen, if it has any."""
        if self.frozen_blocks is None:
            return self.model.module
        arguments = {**self.model.arguments, "frozen_blocks": self.frozen_blocks}
        return models.create(self.model.name, **arguments)

    @property
    def step_key(self) -> StepKey:
        """All that its training step depends on."""
        train = self.config.train
        return StepKey(
            self.model.key,
            self.frozen_blocks,
            self.taught_by and self.taught_by.key,
            self.layout,
            train.part,
            train.microbatches,
            train.optimizer,
            train.shard_state,
        )

    @property
    def cost_key(self) -> CostKey:
        """All that its speed depends on."""
        streams = types.STREAMS if self.layout.pseudo else types.STREAMS[:1]
        noise = tuple(
            (
                one.randaugment_layers,
                one.randaugment_form,
                one.flip,
                one.crop_padding > 0,
                one.cutout_size > 0,
            )
            for one in (self.config.noise[stream] for stream in streams)
        )
        return CostKey(self.step_key, self.config.labels.batch, noise)


@dataclasses.dataclass(frozen=True)
class _Owner:
    """Whose sections they are: what of a spec does not depend on them."""

    name: str
    role: Role
    generation: int | str
    number: int
    adopted: str | None
    teacher: str | None
    grandteacher: str | None


def resolve(
    config: ConfigDict, facts: DataFacts, *, outputs: int
) -> tuple[GenerationSpec, ...]:
    """Resolves what a run trains, in order; a fine-tuning follows what it refines.

    Args:
      config: complete.
      facts: of the dataset.
      outputs: width of the models' heads, as the task says.

    Raises:
      UserError: names the generation, and what is wrong with its config.
    """
    found: dict[str, list[GenerationSpec]] = {}
    for owner, sections in _owners(config):
        teacher = found[owner.teacher][-1].model if owner.teacher else None
        try:
            found[owner.name] = list(
                _specs(owner, sections, facts, outputs=outputs, teacher=teacher)
            )
        except UserError as error:
            raise UserError(f"{owner.name}: {error}") from None
    return tuple(spec for specs in found.values() for spec in specs)


def changed(
    spec: GenerationSpec, config: ConfigDict, facts: DataFacts
) -> GenerationSpec:
    """Returns a spec with other sections of the config.

    Args:
      spec: in question. Its schedule starts where it did.
      config: its sections, changed.
      facts: of the dataset.
    """
    return dataclasses.replace(
        spec,
        config=config,
        model=_model(config, outputs=spec.model.arguments["outputs"]),
        layout=_layout(spec.generation, config),
        schedule=dataclasses.replace(
            _schedule(config, facts, adopted=spec.adopted), start=spec.schedule.start
        ),
    )


def largest_side(config: ConfigDict) -> int:
    """Returns the shorter side that an image needs for every model to see it all.

    Args:
      config: complete.
    """
    trained = [sections for _, sections in _owners(config)]
    refined = filter(None, map(fixres.fine_tuning_config, trained))
    return max(
        _resolution(sections) + sections.model.crop_padding
        for sections in (*trained, *refined)
    )


def compared_with(config: ConfigDict) -> list[str]:
    """Returns which of `LABELS_ONLY` a run trains."""
    return [name for name in LABELS_ONLY if config[name].enabled]


def _owners(config: ConfigDict) -> Iterator[tuple[_Owner, ConfigDict]]:
    for number, sections in enumerate(config.generations):
        names = [
            f"generation_{k}" if k >= 0 else None for k in (number - 1, number - 2)
        ]
        adopted = None if number else config.teacher
        role = Role.STUDENT if number else Role.TEACHER
        name = f"generation_{number}"
        yield _Owner(name, role, number, number, adopted, *names), sections
    for name in compared_with(config):
        number = _NUMBERS[name]
        yield _Owner(name, Role(name), name, number, None, None, None), config[name]


def _specs(
    owner: _Owner,
    config: ConfigDict,
    facts: DataFacts,
    *,
    outputs: int,
    teacher: ModelSpec | None,
) -> Iterator[GenerationSpec]:
    refined = None if owner.adopted else fixres.fine_tuning_config(config)
    on_the_fly = owner.teacher and config.labels.mode == "on_the_fly"
    keeps = owner.grandteacher and config.selection.relabel
    spec = GenerationSpec(
        name=owner.name,
        role=owner.role,
        generation=owner.generation,
        number=owner.number,
        stage=TRAIN,
        model=_model(config, outputs=outputs),
        layout=_layout(owner.generation, config),
        schedule=_schedule(config, facts, adopted=owner.adopted),
        config=config,
        adopted=owner.adopted,
        teacher=owner.teacher,
        relabels=owner.grandteacher if keeps else None,
        refined=refined is not None,
        taught_by=teacher if on_the_fly else None,
    )
    yield spec
    if refined is None:
        return
    schedule = _schedule(refined, facts, adopted=None)
    start = fixres.schedule_start(
        steps=schedule.steps,
        steps_per_epoch=schedule.steps_per_epoch,
        epochs=spec.schedule.steps / spec.schedule.steps_per_epoch,
    )
    yield dataclasses.replace(
        spec,
        number=owner.number + fixres.NUMBERS_FROM,
        stage=fixres.STAGE,
        model=_model(refined, outputs=outputs),
        layout=_layout(owner.generation, refined),
        schedule=dataclasses.replace(schedule, start=start),
        config=refined,
        refined=False,
        taught_by=None,
    )


def _layout(generation: int | str, config: ConfigDict) -> BatchLayout:
    # The control draws as many images as a student; the first teacher has one stream.
    ratio = 0.0 if generation == 0 else config.train.ratio
    return BatchLayout.from_ratio(config.train.batch, ratio)


def _schedule(config: ConfigDict, facts: DataFacts, *, adopted: str | None) -> Schedule:
    train = config.train
    an_epoch = facts.labeled / train.batch
    if adopted:
        return Schedule(0, an_epoch)
    if train.steps is not None:
        return Schedule(train.steps, an_epoch)
    return Schedule(max(1, round((train.epochs or 0) * an_epoch)), an_epoch)


def _resolution(config: ConfigDict) -> int:
    return config.model.resolution or models.resolution(config.model.name)


def _model(config: ConfigDict, *, outputs: int) -> ModelSpec:
    model = config.model
    mean, std = models.normalization(model.name)
    preprocessing = Preprocessing(
        resolution=_resolution(config),
        crop_padding=model.crop_padding,
        interpolation=model.interpolation,
        mean=tuple(mean if model.mean is None else model.mean),
        std=tuple(std if model.std is None else model.std),
    )
    arguments = models.arguments_of(model, outputs=outputs)
    return ModelSpec(model.name, arguments, preprocessing)

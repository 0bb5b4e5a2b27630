"""The models that a study of transfer compares, from what names them."""

import dataclasses
import functools
import pathlib
import re
from typing import Any

import jax
import numpy as np

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.generation.init_weights import PRETRAINED, RANDOM
from noisy_student_jax.interop import published
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.models.initialize import abstract_outputs, initialize
from noisy_student_jax.models.parts import parts, within
from noisy_student_jax.robustness import results
from noisy_student_jax.runs.paths import EVALUATION, MODEL
from noisy_student_jax.runs.spec import ModelSpec

TEACHER, STUDENT, CONTROL = "teacher", "student", "control"
WITHOUT_NOISE = "without_noise"
"""The name of a student that was trained without noise."""
_NAMED = re.compile(r"([\w.-]+)=(.+)")
_GENERATION = re.compile(r"generation_(\d+)")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model to be compared.

    Attributes:
      name: its name in the tables, of which roles are read.
      bundle: the model.
      init: what ``model.init`` of a run that starts from it says.
      folder: the folder of its generation in a run; None for none.
    """

    name: str
    bundle: Bundle
    init: str
    folder: pathlib.Path | None = None

    @property
    def model(self) -> ModelSpec:
        """The model that its features come from."""
        own = self.bundle
        return ModelSpec(own.architecture, dict(own.arguments), own.preprocessing)

    @functools.cached_property
    def head(self) -> tuple[str, ...]:
        """Names of the parameters that belong to its classes."""
        return parts(self.model.module).classes

    @functools.cached_property
    def parameters(self) -> int:
        """Number of parameters of its backbone, without those of its classes."""
        found, _ = jax.tree_util.tree_flatten_with_path(self.bundle.variables["params"])
        return sum(
            leaf.size
            for path, leaf in found
            if not within("/".join(["params", *(key.key for key in path)]), self.head)
        )

    @property
    def side(self) -> int:
        """Shorter side of the images that it needs, in pixels."""
        seen = self.bundle.preprocessing
        return seen.resolution + seen.crop_padding

    def source(self) -> dict[str, float]:
        """Returns what its run has measured on the run's own test images.

        These are the metrics of its evaluation, such as ``top1`` and ``ece``, and
        ``corrupted``, the accuracy on corrupted images. What was not measured, or with
        other weights, is missing.
        """
        if self.folder is None:
            return {}
        found: dict[str, float] = {}
        if files.is_file(self.folder / EVALUATION):
            evaluation = files.read_json(self.folder / EVALUATION)
            if evaluation["sha256"] == self.bundle.sha256:
                measured = evaluation["splits"]["test"]["ema"]
                found |= {k: v for k, v in measured.items() if v is not None}
        if worn := results.read(self.folder, "corruptions"):
            found["corrupted"] = 1 - worn["mean_error"]
        return found


def read(given: str, *, trust: bool) -> list[Checkpoint]:
    """Reads the models that ``--models`` names, in its order.

    Args:
      given: names with commas between them. Each is a bundle's folder or ``NAME=`` one,
        a run directory, whose models are named by their roles, ``random`` for the first
        bundle's architecture, freshly drawn, or ``pretrained:MODEL``.
      trust: whether code that a bundle names may be used.

    Raises:
      UserError: a name is none of these, or given twice; a bundle is damaged, or its
        model has no features for a probe.
    """
    asked = [one for one in map(str.strip, given.split(",")) if one]
    found: list[Checkpoint | None] = []
    for one in asked:
        # Drawn once it is known which bundle is the first.
        found += [None] if one == RANDOM else _read(one, trust=trust)
    first = next((one for one in found if one is not None), None)
    if first is None:
        raise UserError(
            f"--models='{given}' names no bundle: give some, or a run directory, with"
            f" commas between them ('{RANDOM}' has the architecture of the first)"
        )
    whole = [one or _drawn(first) for one in found]
    names = [one.name for one in whole]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"--models='{given}' names {names.count(twice[0])} models '{twice[0]}':"
            " tell them apart, as NAME=BUNDLE"
        )
    for model in whole:
        _check(model)
    return whole


def _read(one: str, *, trust: bool) -> list[Checkpoint]:
    kind, colon, model = one.partition(":")
    if colon and kind == PRETRAINED:
        return [Checkpoint(model, published.bundle(model), PRETRAINED)]
    named = None if files.exists(pathlib.Path(one)) else _NAMED.fullmatch(one)
    name, place = named.groups() if named else (None, one)
    folder = pathlib.Path(place).expanduser().absolute()
    if not files.is_folder(folder):
        raise UserError(
            f"--models names '{one}', which is no folder: give a bundle, NAME=BUNDLE, a"
            f" run directory, '{RANDOM}' or '{PRETRAINED}:MODEL'"
        )
    if name is None and files.is_file(folder / "config.json"):
        return _of_run(folder, trust=trust)
    if name is None:
        # Each bundle of a run is called so.
        name = folder.parent.name if folder.name == MODEL else folder.name
    return [_of_bundle(name, folder, trust=trust)]


def _of_run(run: pathlib.Path, *, trust: bool) -> list[Checkpoint]:
    """Reads the teacher, students and control of a run, as far as they are trained."""
    trained = {
        int(match[1]): path / MODEL
        for path in files.list_folder(run, pattern="generation_*")
        if (match := _GENERATION.fullmatch(path.name)) and files.exists(path / MODEL)
    }
    several = max(trained, default=0) > 1
    places = {
        (f"{STUDENT}_{k}" if several else STUDENT) if k else TEACHER: place
        for k, place in sorted(trained.items())
    }
    if files.exists(run / CONTROL / MODEL):
        places[CONTROL] = run / CONTROL / MODEL
    if not places:
        raise UserError(
            f"--models names the run '{run}', which has no trained model yet: finish it"
            " with `noisy-student run`, or give bundles"
        )
    return [_of_bundle(name, place, trust=trust) for name, place in places.items()]


def _of_bundle(name: str, place: pathlib.Path, *, trust: bool) -> Checkpoint:
    bundle = bundles.read(place)
    if not trust:
        bundles.refuse_foreign_code(bundle, place)
    return Checkpoint(name, bundle, str(place), place.parent)


def _drawn(first: Checkpoint) -> Checkpoint:
    """Returns a model's architecture with the weights that a run's seed 0 draws."""
    model = first.model
    drawn = initialize(model.module, resolution=model.resolution, seed=0)
    nothing = np.zeros(0, np.uint64)
    bundle = dataclasses.replace(
        first.bundle, variables=drawn, origin={}, trained_on=nothing, sha256=""
    )
    return Checkpoint(RANDOM, bundle, RANDOM)


def _check(one: Checkpoint) -> None:
    outputs: Any = abstract_outputs(one.model.module, resolution=one.model.resolution)
    if "pooled" not in outputs:
        raise UserError(
            f"'{one.name}' is a model '{one.bundle.architecture}' for"
            f" {one.bundle.task}, which has no pooled features to probe: give"
            " classifiers"
        )

"""A study: one question, asked of several variants of a run.

A file in ``configs/studies`` defines ``get_study()``. The first variant is the base
that the others are compared with.
"""

import dataclasses
import importlib.util
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError, nearest, one_line

STUDENT, TEACHER, CONTROL = "student", "teacher", "control"
JUDGED = (STUDENT, TEACHER, CONTROL)
"""Models of a run that a variant may be judged by: the last student, the first teacher,
the control."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A variant of the base config.

    Attributes:
      name: a short name, unique in the study.
      changes: values by field, as in ``--config.key=value``. Fields that begin with
        ``teacher.`` are the first teacher's, those with ``students.`` all students'.
      generations: number of generations, teacher and students.
      judged: the model of the run that is judged, one of `JUDGED`.
      paper: what the paper reports for it.
    """

    name: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    generations: int = 2
    judged: str = STUDENT
    paper: str = ""

    @property
    def folder(self) -> str:
        """Name of the folder of its runs."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")

    def overrides(self) -> list[str]:
        """Returns the changes as arguments of a command line."""
        flags = [f"--config.generations={self.generations}"]
        if self.judged != CONTROL:
            flags.append("--config.control.enabled=false")
        for field, value in self.changes.items():
            owner, _, rest = field.partition(".")
            owners = {
                "teacher": ["generations[0]."],
                "students": [
                    f"generations[{number}]." for number in range(1, self.generations)
                ],
            }.get(owner)
            paths = [f"{one}{rest}" for one in owners] if owners else [field]
            flags += [f"--config.{path}={written(value)}" for path in paths]
        return flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim that one variant is better than another.

    Attributes:
      says: the claim, a sentence without its full stop.
      better: name of the variant that is better if it holds.
      than: name of the other.
      paper: the figures that the paper gives for it.
    """

    says: str
    better: str
    than: str
    paper: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A question, the variants that answer it, and the paper's claims.

    Attributes:
      name: name of its file.
      question: the question, a sentence.
      base: config file, relative to the folder of the study's file.
      variants: the base first.
      claims: claims about pairs of variants.
      margin: a difference within this of zero, from 0 to 1, is none.
    """

    name: str
    question: str
    base: str
    variants: tuple[Variant, ...]
    claims: tuple[Claim, ...]
    margin: float = 0.005

    def __post_init__(self):
        names = [one.name for one in self.variants]
        folders = [one.folder for one in self.variants]
        if not names:
            raise UserError(f"study '{self.name}' has no variants: give the base one")
        for kind, found in (("variants", names), ("variants' folders", folders)):
            if doubled := [one for one in found if found.count(one) > 1]:
                raise UserError(
                    f"study '{self.name}' has two {kind} named '{doubled[0]}': name"
                    " each differently"
                )
        for variant in self.variants:
            if variant.judged not in JUDGED:
                raise UserError(
                    f"variant '{variant.name}' is judged by '{variant.judged}', which"
                    f" may only be one of {', '.join(JUDGED)}"
                )
        for claim in self.claims:
            for name in (claim.better, claim.than):
                if name not in names:
                    raise UserError(
                        f"study '{self.name}' has no variant '{name}', which the claim"
                        f" '{claim.says}' is about{nearest(name, names)}"
                    )

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of variants that are compared: all with the base, and the claims'."""
        base, *others = [one.name for one in self.variants]
        pairs = [(other, base) for other in others]
        pairs += [(claim.better, claim.than) for claim in self.claims]
        return list(dict.fromkeys(pairs))


def is_study(path: str | pathlib.Path) -> bool:
    """Whether a Python file defines a study, and not a config."""
    try:
        return "def get_study(" in files.read_text(pathlib.Path(path))
    except (OSError, UserError):
        return False


def load(path: str | pathlib.Path) -> Study:
    """Reads a study. Its file is executed, so review that of others first.

    Raises:
      UserError: the file is missing, fails, or defines no study.
    """
    path = pathlib.Path(path)
    if not files.is_file(path) or path.suffix != ".py":
        raise UserError(
            f"no study at '{path}': give a Python file, for example"
            " --config=configs/studies/noise.py"
        )
    if not is_study(path):
        raise UserError(
            f"'{path}' defines no get_study(), so it is no study: see configs/studies,"
            " or use `noisy-student run` for a config"
        )
    spec = importlib.util.spec_from_file_location(f"study_{path.stem}", path)
    assert spec and spec.loader, "the name ends in .py"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        study = module.get_study()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"study '{path}' failed: {one_line(error)}") from error
    if not isinstance(study, Study):
        raise UserError(
            f"get_study() of '{path}' returned {type(study).__name__}, not a Study: see"
            " noisy_student_jax.studies.study"
        )
    return study


def written(value: Any) -> str:
    """Formats a value in command-line syntax."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return (
        str(value).lower() if value is None or isinstance(value, bool) else f"{value}"
    )

"""The models in a report, with their folders, titles and colors."""

import dataclasses
import pathlib
from typing import Any

from noisy_student_jax.runs.spec import Role

# Generations, a sequence, share one hue from pale to strong. The control has another
# hue, distinguishable by color-blind readers.
_LIGHT = ((0x74, 0xA5, 0xD6), (0x12, 0x3F, 0x78))
_DARK = ((0x4C, 0x7A, 0xAD), (0xB5, 0xD8, 0xFF))


@dataclasses.dataclass(frozen=True)
class Shown:
    """A trained model in the report.

    Attributes:
      title: ``generation 2``, or the name of a baseline such as ``control``.
      css: CSS class that gives its color.
      folder: its folder in the run directory.
      entry: its entry in the summary.
      generation: its number; None for a baseline.
    """

    title: str
    css: str
    folder: pathlib.Path
    entry: dict[str, Any]
    generation: int | None

    @property
    def name(self) -> int | str:
        """Its name in the summary."""
        return self.folder.name if self.generation is None else self.generation

    @property
    def is_control(self) -> bool:
        """Whether the model is the control."""
        return self.css == Role.CONTROL


def students_of(workdir: pathlib.Path, summary: dict[str, Any]) -> list[Shown]:
    """Returns the generations in order, followed by the baselines."""
    shown = []
    for entry in summary["generations"]:
        number = int(entry["generation"])
        folder = workdir / f"generation_{number}"
        shown.append(Shown(f"generation {number}", f"s{number}", folder, entry, number))
    if summary.get("control"):
        folder = workdir / Role.CONTROL
        shown.append(
            Shown(Role.CONTROL, Role.CONTROL, folder, summary["control"], None)
        )
    for entry in summary["baselines"]:
        name = entry["name"]
        shown.append(
            Shown(Role(name).display_name, "baseline", workdir / name, entry, None)
        )
    return shown


def generations(students: list[Shown]) -> list[Shown]:
    """Returns the models that are generations."""
    return [one for one in students if one.generation is not None]


def control(students: list[Shown]) -> Shown | None:
    """Returns the control, if there is one."""
    return next((one for one in students if one.is_control), None)


def colors(students: list[Shown]) -> str:
    """Returns the CSS rules that give each generation its color."""
    own = generations(students)

    def rules(ramp: tuple) -> str:
        return "".join(
            f".{one.css}{{--c:{_between(*ramp, at=place)}}}"
            for one, place in zip(own, _places(len(own)), strict=True)
        )

    light, dark = rules(_LIGHT), rules(_DARK)
    # The dark colors apply to screens only: paper is white.
    return f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}"


def _places(number: int) -> list[float]:
    return [k / (number - 1) for k in range(number)] if number > 1 else [0.6] * number


def _between(start: tuple, end: tuple, *, at: float) -> str:
    mixed = (round(a + (b - a) * at) for a, b in zip(start, end, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)

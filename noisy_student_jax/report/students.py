"""The models that a report tells of, each with its place, name and color."""

import dataclasses
import pathlib
from typing import Any

from noisy_student_jax.runs.spec import Role

# One hue for the generations, pale to strong: they are a sequence. The control is
# what they are compared with: another hue, told apart by the color-blind as well.
_LIGHT = ((0x74, 0xA5, 0xD6), (0x12, 0x3F, 0x78))
_DARK = ((0x4C, 0x7A, 0xAD), (0xB5, 0xD8, 0xFF))


@dataclasses.dataclass(frozen=True)
class Shown:
    """A trained model, as the report shows it.

    Attributes:
      title: ``generation 2``, ``control`` or what else it is compared with.
      css: class that gives its color.
      folder: its folder in the run directory.
      entry: what the summary says of it.
      generation: its number; None for what generations are compared with.
    """

    title: str
    css: str
    folder: pathlib.Path
    entry: dict[str, Any]
    generation: int | None

    @property
    def is_control(self) -> bool:
        """Whether it is the student's architecture on labels alone."""
        return self.css == Role.CONTROL


def students_of(workdir: pathlib.Path, summary: dict[str, Any]) -> list[Shown]:
    """Returns the generations in order, then what they are compared with."""
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
    """Returns those that are generations."""
    return [one for one in students if one.generation is not None]


def control(students: list[Shown]) -> Shown | None:
    """Returns the control, if there is one."""
    return next((one for one in students if one.is_control), None)


def colors(students: list[Shown]) -> str:
    """Returns the style rules that give each generation its color."""
    own = generations(students)

    def rules(ramp: tuple) -> str:
        return "".join(
            f".{one.css}{{--c:{_between(*ramp, at=place)}}}"
            for one, place in zip(own, _places(len(own)), strict=True)
        )

    light, dark = rules(_LIGHT), rules(_DARK)
    # Paper is white whatever the screen is.
    return f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}"


def _places(number: int) -> list[float]:
    return [k / (number - 1) for k in range(number)] if number > 1 else [0.6] * number


def _between(start: tuple, end: tuple, *, at: float) -> str:
    mixed = (round(a + (b - a) * at) for a, b in zip(start, end, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)

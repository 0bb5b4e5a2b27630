"""Speeds of this machine: measured once, told, and within a share of a time budget."""

import dataclasses
import math
import pathlib
import time
from typing import Any

from noisy_student_jax import __version__
from noisy_student_jax.core import console, devices, files
from noisy_student_jax.core.errors import DamagedFileError, UserError
from noisy_student_jax.planning import throughput
from noisy_student_jax.planning.memory import StepMemory
from noisy_student_jax.planning.throughput import Speed, Speeds
from noisy_student_jax.runs import ledger
from noisy_student_jax.runs.run import Generation

NAME = "speeds.json"
"""File of the speeds that were measured on this kind of processor."""
SHARE = 0.1
"""Share of a time budget after which no further model is measured."""
MOST = 1000
"""Number of speeds that are kept."""


def of_machine(*, hours: float | None = None) -> Speeds:
    """Returns a function from a student to this machine's speed with it.

    Each speed is kept in the user's cache directory, for all that it depends on, and
    taken from there the next time.

    Args:
      hours: a time budget, of which measuring takes at most `SHARE` once one model is
        measured. A model is estimated by its FLOPs if no time is left for as long as
        the model most like it took. None for no limit.
    """
    limit = math.inf if hours is None else 3600 * SHARE * hours
    return throughput.remembered(_Measuring(limit))


def place() -> pathlib.Path | None:
    """Returns the path of the kept speeds, or None where nothing can be kept."""
    folder = devices.cache_folder()
    return folder / NAME if folder else None


def limit(hours: float) -> str:
    """Returns how long measuring for a budget takes at most, as a phrase."""
    return (
        f"at most {console.duration(3600 * SHARE * hours)}, a tenth of that, once one"
        " model is measured"
    )


@dataclasses.dataclass(frozen=True)
class _Measured:
    """A measured speed, and the seconds that measuring it took."""

    student: Generation
    speed: Speed
    seconds: float


class _Measuring:
    """Measures speeds, or takes kept ones, or estimates them: see `of_machine`."""

    def __init__(self, limit: float):
        """Measures nothing yet; `limit` is in seconds."""
        self._left = limit
        self._measured: list[_Measured] = []

    def __call__(self, student: Generation) -> Speed:
        path, key = place(), _key(student)
        stored = {} if path is None else _stored(path)
        if known := _speed(stored.get(key)):
            console.say(
                f"  {_name(student)}: {_told(student, known)}, as measured on"
                f" {stored[key]['at']} (remove '{path}' to measure anew)"
            )
            self._measured.append(_Measured(student, known, stored[key]["seconds"]))
            return known
        if estimate := self._estimated(student):
            return estimate
        console.say(f"  measuring {_name(student)}")
        started = time.monotonic()
        found = throughput.measure(student)
        seconds = time.monotonic() - started
        console.say(f"    {_told(student, found)} ({console.duration(seconds)})")
        # The first may take as long as it does.
        self._left -= seconds
        self._measured.append(_Measured(student, found, seconds))
        if path is not None:
            at = time.strftime("%Y-%m-%d")
            row = {**dataclasses.asdict(found), "seconds": seconds, "at": at}
            rows = [*stored.items(), (key, row)][-MOST:]
            try:
                files.write_json(path, dict(rows), with_sum=True)
            except UserError as error:
                console.warn(f"the speed is not kept: {error}")
        return found

    def _estimated(self, student: Generation) -> Speed | None:
        """Returns an estimate where there is no time to measure, or None."""
        part = student.spec.config.train.part
        alike = [
            one for one in self._measured if one.student.spec.config.train.part == part
        ]
        if not alike or math.isinf(self._left):
            return None
        flops = student.cost.flops
        nearest = min(
            alike, key=lambda one: abs(math.log(flops / one.student.cost.flops))
        )
        if nearest.seconds <= self._left:
            return None
        other = nearest.student
        if flops != other.cost.flops:
            console.say(
                f"  {_name(student)}: estimated by its FLOPs from {_name(other)}"
            )
        return nearest.speed.scaled(other.cost.flops / flops)


def _name(student: Generation) -> str:
    model = student.spec.model
    return f"{model.name} at {model.resolution} px"


def _told(student: Generation, speed: Speed) -> str:
    if student.spec.solves:
        return f"features of {speed.label_images_per_second:,.0f} images/s"
    return (
        f"{speed.train_images_per_second:,.0f} images/s trained on,"
        f" {speed.label_images_per_second:,.0f} labeled"
    )


def _key(student: Generation) -> str:
    """Returns a digest of all that a student's speed depends on."""
    task, cost = student.run.config.task, repr(student.spec.cost_key)
    return files.digest([cost, task, __version__, ledger.environment()])


def _stored(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = files.read_json(path)
    except (DamagedFileError, OSError):
        return {}  # not there, or damaged: measured again
    return found if isinstance(found, dict) else {}


def _speed(row: Any) -> Speed | None:
    """Returns the speed in a stored row, or None."""
    try:
        memory = row["memory"] and StepMemory(**row["memory"])
        found = Speed(
            float(row["train_images_per_second"]),
            float(row["label_images_per_second"]),
            memory,
        )
        row["at"].split("-")
        row["seconds"] + 0.0
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return found

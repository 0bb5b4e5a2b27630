"""Boxes as a format has them, as they are checked, and what is said about them."""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from noisy_student_jax.core import console
from noisy_student_jax.core.console import printable

NAMED = 3
"""Number of places that a note names."""


class RawBox(NamedTuple):
    """A box as it is written; opposite corners may be out of order.

    Attributes:
      corners: left, top, right and bottom.
      label: name of its class.
      ignored: whether it is neither to be found nor a false alarm.
      where: its place in the annotation file, such as ``line 3``.
    """

    corners: tuple[float, float, float, float]
    label: str
    ignored: bool
    where: str


@dataclasses.dataclass
class RawImage:
    """An image as a format has it.

    Attributes:
      path: of the image, relative to the folder.
      file: the annotation file, relative to the folder; "" without one.
      boxes: its boxes.
      size: width and height by the annotation file, if it has them.
      split: the part of the dataset that the format says it is for, if any.
      annotated: whether it was looked at; an image without boxes may be.
    """

    path: str
    file: str
    boxes: list[RawBox] = dataclasses.field(default_factory=list)
    size: tuple[int, int] | None = None
    split: str | None = None
    annotated: bool = True


class Notes:
    """What is counted about annotations, with the first few places of each."""

    def __init__(self) -> None:
        """Counts nothing yet."""
        self.counts: dict[str, int] = {}
        self._places: dict[str, list[str]] = {}

    def add(self, what: str, where: str, *, count: int = 1) -> None:
        """Counts what was found at a place, as in "3 WHAT: 'place', …"."""
        self.counts[what] = self.counts.get(what, 0) + count
        places = self._places.setdefault(what, [])
        if where and len(places) < NAMED:
            places.append(where)

    def lines(self) -> list[str]:
        """Returns a sentence for each thing that was counted."""
        return [
            f"{count:,} {what}" + self._named(what, count)
            for what, count in self.counts.items()
        ]

    def _named(self, what: str, count: int) -> str:
        places = self._places[what]
        more = " and more" if places and count > len(places) else ""
        return f": {printable(', '.join(places))}{more}" if places else ""

    def tell(self, name: str) -> None:
        """Prints the sentences about a source, each once in a command."""
        for line in self.lines():
            console.say_once(f"  {name}: {line}")


@dataclasses.dataclass(frozen=True)
class Raw:
    """A folder's annotations before they are checked.

    Attributes:
      form: name of the format.
      images: the images.
      names: class names in index order, if the format lists them.
      normalized: whether coordinates are fractions of the width and height.
      extents: whether the format stores widths and heights rather than two corners.
      notes: what is counted.
      told: how it was read, as a phrase; may be empty.
    """

    form: str
    images: list[RawImage]
    names: tuple[str, ...] | None
    normalized: bool
    extents: bool
    notes: Notes
    told: str = ""


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """An image with its boxes, in pixels of the picture that people see.

    Attributes:
      path: relative to the folder.
      size: width and height as seen (after EXIF); None if the file cannot be read.
      boxes: float64 ``[boxes, 4]``: left, top, right, bottom.
      classes: int64 ``[boxes]``.
      kinds: int64 ``[boxes]``, `labels.OBJECT` or `labels.IGNORE`.
      split: the part of the dataset that it is for, if the format says so.
      annotated: whether its boxes are known; without boxes, it then has no objects.
      scores: float64 ``[boxes]`` of predictions; None for boxes that people drew.
    """

    path: str
    size: tuple[int, int] | None
    boxes: np.ndarray
    classes: np.ndarray
    kinds: np.ndarray
    split: str | None = None
    annotated: bool = True
    scores: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Annotated:
    """A folder's checked annotations.

    Attributes:
      root: folder that the paths are relative to.
      form: name of the format.
      images: the images, sorted by path.
      names: class names in index order.
      notes: what is counted.
      told: how it was read, as a phrase.
    """

    root: pathlib.Path
    form: str
    images: tuple[AnnotatedImage, ...]
    names: tuple[str, ...]
    notes: Notes
    told: str = ""

"""What a task adds to the report: plain data, which the report escapes and draws.

Cells and texts are never markup. A number is shown by its type: an int as a count, a
float as a fraction in percent, two floats as an interval of fractions, None as a dash.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

Cell = str | int | float | tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    says: str


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
      says: its sentences.
      missing: whether it says that something is not there.
    """

    says: str
    missing: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
      name: its name, for screen readers.
      caption: a sentence without its full stop.
      columns: names of the columns.
      rows: cells of each row.
      texts: number of leading columns that are texts; numbers are to the right.
    """

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    texts: int = 1


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A matrix of counts by true and predicted class.

    Attributes:
      caption: a sentence without its full stop.
      names: names of the classes.
      counts: int ``[true, predicted]``.
    """

    caption: str
    names: Sequence[str]
    counts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Beside:
    """Blocks side by side, where there is room."""

    blocks: Sequence["Block"]


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image.

    Attributes:
      pixels: uint8 ``[height, width, 3]``; None if the record cannot be read.
      tells: what it shows, for those who do not see it.
      caption: a few words below.
      key: key of the record.
    """

    pixels: np.ndarray | None
    tells: str
    caption: str
    key: str


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A row of images under a heading.

    Attributes:
      title: the heading.
      pictures: the images.
      says: a sentence below the heading.
    """

    title: str
    pictures: Sequence[Picture]
    says: str = ""


@dataclasses.dataclass(frozen=True)
class Legend:
    """Colors and what they mean.

    Attributes:
      colors: red, green and blue from 0 to 255, by meaning.
    """

    colors: dict[str, tuple[int, int, int]]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line through points.

    Attributes:
      name: its name in the legend.
      points: float ``[points, 2]``: x and y, each from 0 to 1.
      dashed: whether the line is dashed.
      kind: curves of one kind have one color.
    """

    name: str
    points: np.ndarray
    dashed: bool = False
    kind: int = 0


@dataclasses.dataclass(frozen=True)
class Curves:
    """A chart of curves, both axes from 0 to 1.

    Attributes:
      title: heading of the chart.
      across: name of the horizontal axis.
      up: name of the vertical axis.
      curves: the curves.
    """

    title: str
    across: str
    up: str
    curves: Sequence[Curve]


@dataclasses.dataclass(frozen=True)
class Histogram:
    """A chart of one or two histograms over the same bins.

    Attributes:
      title: heading of the chart.
      across: name of the horizontal axis.
      edges: names of the edges of the bins, ``[bins + 1]``; empty ones are not written.
      shares: of each bin, ``[bins]``, by name; the first is drawn as bars, the second
        as a line of steps.
      mark: where a line is drawn, in bins from the left, and its name.
    """

    title: str
    across: str
    edges: Sequence[str]
    shares: dict[str, np.ndarray]
    mark: tuple[float, str] | None = None


Block = (
    Heading | Text | Table | Confusion | Beside | Pictures | Legend | Curves | Histogram
)


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
      anchor: its address within the page, of small letters and dashes. A section with
        that of a section that all tasks have (``images``) stands in its place.
      name: one word, for the table of contents.
      title: its heading.
      blocks: its contents.
    """

    anchor: str
    name: str
    title: str
    blocks: Sequence[Block]


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model in a report.

    Attributes:
      title: such as ``generation 2`` or ``control``.
      is_generation: whether it is a generation, rather than a baseline.
      predictions: file of its predictions for test images, with columns ``key``,
        ``truth``, ``label``, ``score``, ``primary`` and those of `Task.columns`.
      validation: the same for validation images.
      selection: folder of the pseudo-labels that the next generation learns from.
      labels: folder of all its pseudo-labels.
    """

    title: str
    is_generation: bool
    predictions: pathlib.Path
    validation: pathlib.Path
    selection: pathlib.Path
    labels: pathlib.Path

"""SVG elements for the charts, with all text escaped.

Widths are fractions of the page's width and heights are pixels, so that text has one
size on desktops and phones. Axis labels lie in the padding of the chart.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup, escape

from noisy_student_jax.core import console


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """Makes an element; text and attributes are escaped.

    Args:
      name: name of the element.
      *children: markup, or text.
      **attributes: its attributes: ``class_`` stands for class, ``stroke_width`` for
        stroke-width; None is omitted.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(
            Markup(key.rstrip("_").replace("_", "-")), _text(value)
        )
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(_text(child)) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inner)


def across(fraction: float) -> str:
    """Formats a horizontal position from left (0) to right (1) as a percentage."""
    return f"{_short(100 * fraction)}%"


def chart(
    title: str, *marks: Any, height: float, css: str = "", style: str | None = None
) -> Markup:
    """Wraps marks in an image with an accessible title."""
    return tag(
        "svg",
        tag("title", title),
        *marks,
        role="img",
        class_=f"chart {css}".strip(),
        height=height,
        width="100%",
        style=style,
    )


def text(x: float, y: float, *words: Any, anchor: str = "start", **more: Any) -> Markup:
    """Draws text at a fraction of the width and a height in pixels."""
    shown = None if anchor == "start" else anchor
    return tag("text", *words, x=across(x), y=y, text_anchor=shown, **more)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """Draws a straight line."""
    ends = {"x1": across(x1), "y1": y1, "x2": across(x2), "y2": y2}
    return tag("line", **ends, class_=css)


def rectangle(
    x: float, y: float, width: float, height: float, css: str, **more: Any
) -> Markup:
    """Draws a rectangle: x and width are fractions, y and height pixels."""
    shape = {"x": across(x), "y": y, "width": across(width), "height": height}
    return tag("rect", **shape, class_=css, **more)


def circle(x: float, y: float, radius: float, css: str, *children: Any) -> Markup:
    """Draws a dot."""
    return tag("circle", *children, cx=across(x), cy=y, r=radius, class_=css)


def path(points: Iterable[tuple[float, float]], *, height: float, css: str) -> Markup:
    """Draws a line through points: x fractions of the width, y pixels."""
    # Paths allow no percentages, so a path has its own stretched viewport, in which
    # strokes keep their width (see the style sheet).
    places = " ".join(f"{_short(1000 * x)},{_short(y)}" for x, y in points)
    room = {"viewBox": f"0 0 1000 {_short(height)}", "preserveAspectRatio": "none"}
    curve = tag("polyline", points=places, class_=css)
    return tag("svg", curve, **room, width="100%", height=height)


class Scale:
    """A linear scale with round ticks.

    Attributes:
      ticks: values of the ticks.
      step: distance between ticks.
    """

    def __init__(self, low: float, high: float, *, ticks: int = 4, tight: bool = False):
        """Covers `low` to `high`, extended to round numbers unless `tight`."""
        if high <= low:
            margin = abs(low) * 0.1 or 1.0
            low, high = low - margin, high + margin
        self.step = _round_step((high - low) / ticks)
        if not tight:
            low = math.floor(low / self.step + 1e-9) * self.step
            high = math.ceil(high / self.step - 1e-9) * self.step
        self.low, self.high = low, high
        first = math.ceil(low / self.step - 1e-9)
        last = math.floor(high / self.step + 1e-9)
        self.ticks = [number * self.step for number in range(first, last + 1)]

    def __call__(self, value: float) -> float:
        """Returns the position of a value, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def name(self, value: float) -> str:
        """Formats a tick, with as many decimals as the step needs."""
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        if abs(self.step * 10**decimals % 1 - 0.5) < 1e-6:
            decimals += 1  # a step of 2.5
        written = f"{value:,.{decimals}f}"
        if float(written.replace(",", "")) == 0:
            written = written.removeprefix("-")
        return written.replace("-", "−")


def spread(places: Sequence[float], *, gap: float, low: float, high: float) -> list:
    """Moves overlapping labels apart by the smallest distances.

    Args:
      places: desired positions.
      gap: minimum distance between two labels.
      low: minimum position.
      high: maximum position.
    """
    order = sorted(range(len(places)), key=lambda n: places[n])
    moved = list(places)
    floor = low
    for n in order:
        moved[n] = floor = max(moved[n], floor)
        floor += gap
    ceiling = high
    for n in reversed(order):
        moved[n] = ceiling = min(moved[n], ceiling)
        ceiling -= gap
    return moved


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)


def _text(value: Any) -> Any:
    if isinstance(value, Markup):
        return value
    if isinstance(value, float):
        return _short(value)
    return console.printable(str(value))


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")

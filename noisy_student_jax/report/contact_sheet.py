"""A contact sheet: some images as in evaluation and, beside them, with noise.

A mirrored 2 is no longer a 2, and an inverted cat may not be a cat: the sheet shows
noise that destroys a class at a glance, before hours are spent on training.
"""

import dataclasses
import functools
import operator
import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from noisy_student_jax.augment.crops import crop_boxes
from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.moved import augment_moved
from noisy_student_jax.augment.noise import (
    augment_batch,
    example_keys,
    split_positions,
    stream_key,
)
from noisy_student_jax.core import files
from noisy_student_jax.core.protocols import Source, Task
from noisy_student_jax.core.types import STREAMS, PyTree
from noisy_student_jax.data.sources import labels_of
from noisy_student_jax.generation import streams
from noisy_student_jax.images.lettering import font, in_font, shortened
from noisy_student_jax.images.preprocessing import to_uint8
from noisy_student_jax.models import views
from noisy_student_jax.runs.run import Generation

CONTACT_SHEET = "contact_sheet.png"

GROUPS_SHOWN = {"labeled": 10, "pseudo": 1}
"""Groups shown of each stream; the sheet gives the number of the others."""

IMAGES_SHOWN = {"labeled": 2, "pseudo": 6}
"""Images shown of each group, by stream."""

VERSIONS = 4
"""Noised versions beside each image."""

_ABREAST = 2  # images per row, each with its noised versions
_TILE = 96  # maximum side of a tile in pixels; smaller images are enlarged towards it
_LARGE = 200  # the same where targets are drawn, of which a row then has one image
_ENLARGED = 64  # maximum side of images that are enlarged, in pixels
_MARGIN, _GAP, _WIDE_GAP = 28, 6, 18
_NAMES = 150  # width of the groups' names in pixels
_NARROWEST = 760  # minimum width in pixels, for the lines of text

_PAPER, _INK, _FAINT, _RULE = "#fbfbf9", "#1d1d1b", "#6f6f6a", "#dcdcd6"


_TITLE, _TEXT, _SMALL = font(22), font(15), font(13)


@dataclasses.dataclass(frozen=True)
class Group:
    """Images of one class, or of the pool.

    Attributes:
      name: name of the class or group.
      images: uint8 ``[side, side, 3]`` each, preprocessed as for evaluation; may be
        empty.
      stream: stream whose noise is applied: ``labeled`` or ``pseudo``.
      crops: `VERSIONS` random crops of each image, which are noised in its place; None
        without random crops.
      targets: the task's targets ``[images, …]``, to be drawn by `Task.drawn`; None to
        draw none.
    """

    name: str
    images: Sequence[np.ndarray]
    stream: str = "labeled"
    crops: Sequence[Sequence[np.ndarray]] | None = None
    targets: PyTree | None = None


def contact_sheet(
    groups: Sequence[Group],
    *,
    noise: Mapping[str, InputNoise],
    title: str,
    seed: int = 0,
    says: str = "",
    task: Task | None = None,
) -> Image.Image:
    """Draws each image as in evaluation and, beside it, several noised versions.

    The first `GROUPS_SHOWN` groups of each stream appear, and the first `IMAGES_SHOWN`
    images of each group; images of further groups are not accessed. The noise is that
    of `augment_batch`, drawn with the stream's own keys at generation 0.

    Args:
      groups: the classes in their order, then images of the pool.
      noise: a student's input noise by stream, for the streams that occur.
      title: first line of the sheet.
      seed: seed of the run; the same seed gives the same sheet.
      says: what is beside the images, where it is not the noise.
      task: the task; None, or one without `Task.moved`, for targets that stay.

    Returns:
      An RGB image of the required height.

    Raises:
      UserError: the images are too small for the noise, or not uint8.
    """
    shown = {stream: _shown(groups, stream) for stream in STREAMS}
    sections = {
        stream: _Section(
            [
                (_drawn(group, task), versions)
                for group, versions in zip(
                    first,
                    _noised(first, noise[stream], seed, stream, task),
                    strict=True,
                )
            ],
            left_out=left_out,
            says=f"{stream}: {says or _says(noise[stream])}",
        )
        for stream, (first, left_out) in shown.items()
        if first
    }
    draws = any(group.targets is not None for group in groups)
    tile, abreast = (_LARGE, 1) if draws else (_TILE, _ABREAST)
    return _Sheet(title, list(sections.values()), tile=tile, abreast=abreast).drawn()


@dataclasses.dataclass(frozen=True)
class _Section:
    """The shown groups of a stream, with the noised versions of each image."""

    groups: list[tuple[Group, list[np.ndarray]]]
    left_out: int
    says: str


def _shown(groups: Sequence[Group], stream: str) -> tuple[list[Group], int]:
    """Returns the groups to show of a stream, and the number of the others."""
    own = [group for group in groups if group.stream == stream]
    # Labels that are no classes are one group.
    most = IMAGES_SHOWN[stream if len(own) > 1 else "pseudo"]
    first = [
        dataclasses.replace(
            group,
            images=group.images[:most],
            crops=None if group.crops is None else group.crops[:most],
            targets=jax.tree.map(operator.itemgetter(slice(most)), group.targets),
        )
        for group in own[: GROUPS_SHOWN[stream]]
    ]
    return first, len(own) - len(first)


def _noised(
    groups: list[Group],
    noise: InputNoise,
    seed: int,
    stream: str,
    task: Task | None = None,
) -> list[list[np.ndarray]]:
    """Returns uint8 ``[versions, side, side, 3]`` for each image of each group."""
    base = stream_key(seed, 0, STREAMS.index(stream))
    positions = np.arange(sum(len(group.images) for group in groups) * VERSIONS)
    keys = iter(split_positions(positions.reshape(-1, VERSIONS)))

    def versions(group: Group, number: int) -> np.ndarray:
        shown = [group.images[number]] * VERSIONS
        crops = np.stack(group.crops[number] if group.crops else shown)
        if task is None or not hasattr(task, "moved"):
            return np.asarray(_augmented(base, next(keys), crops, noise))
        images, matrices = _augmented_moved(base, next(keys), crops, noise)
        if group.targets is None:
            return np.asarray(images)
        rows = np.repeat(number, VERSIONS)
        targets = jax.tree.map(lambda one: jnp.asarray(one[rows]), group.targets)
        targets = jax.device_get(task.moved(targets, matrices))
        return task.drawn(np.asarray(images), targets)

    return [
        [versions(group, number) for number in range(len(group.images))]
        for group in groups
    ]


def _drawn(group: Group, task: Task | None) -> Group:
    """Returns a group with the targets drawn on its images."""
    if task is None or group.targets is None or not group.images:
        return group
    images = task.drawn(np.stack(group.images), group.targets)
    return dataclasses.replace(group, images=list(images))


@functools.partial(jax.jit, static_argnames="noise")
def _augmented(
    base_key: jax.Array, positions: jax.Array, crops: jax.Array, noise: InputNoise
) -> jax.Array:
    """Adds noise, with one program for all images and all streams of equal noise."""
    return augment_batch(example_keys(base_key, positions), crops, noise)


@functools.partial(jax.jit, static_argnames="noise")
def _augmented_moved(
    base_key: jax.Array, positions: jax.Array, images: jax.Array, noise: InputNoise
) -> tuple[jax.Array, jax.Array]:
    """Adds noise as `_augmented`, and tells where everything went."""
    return augment_moved(example_keys(base_key, positions), images, noise)


def _says(noise: InputNoise) -> str:
    """Describes the active noise by its config fields."""
    told = {
        field.name: getattr(noise, field.name)
        for field in dataclasses.fields(noise)
        if field.name not in ("constants", "randaugment_behavior", "form")
        and getattr(noise, field.name)
    }
    if noise.randaugment_layers:
        told["randaugment_translate"] = noise.constants.translate
        told["randaugment_cutout"] = noise.constants.cutout
        told["randaugment_behavior"] = noise.randaugment_behavior
    told = {k: v if isinstance(v, bool | str) else f"{v:g}" for k, v in told.items()}
    return ", ".join(f"{k}={v}" for k, v in told.items()) or "no input noise"


class _Sheet:
    """Draws a sheet in two passes, the first of which determines its height."""

    def __init__(
        self, title: str, sections: list[_Section], *, tile: int, abreast: int
    ):
        self._title, self._sections, self._abreast = title, sections, abreast
        sides = [
            len(image)
            for section in sections
            for group, _ in section.groups
            for image in group.images
        ]
        largest = [_tile_side(side, tile) for side in sides]
        self._tile = max(largest, default=_ENLARGED)
        right = self._left(abreast - 1, VERSIONS) + self._tile + _MARGIN
        self._width = max(_NARROWEST, right)

    def drawn(self) -> Image.Image:
        """Returns the picture."""
        height = self._draw(Image.new("RGB", (self._width, 1)))
        sheet = Image.new("RGB", (self._width, height), _PAPER)
        self._draw(sheet)
        return sheet

    def _draw(self, sheet: Image.Image) -> int:
        """Draws on an image, even beyond its end; returns the required height."""
        pen = ImageDraw.Draw(sheet)
        y = self._head(pen, _MARGIN)
        for section in self._sections:
            for group, versions in section.groups:
                pen.line((_MARGIN, y, self._width - _MARGIN, y), _RULE)
                y = self._group(sheet, pen, group, versions, y + _WIDE_GAP // 2)
                y += _WIDE_GAP // 2
            if section.left_out:
                pen.line((_MARGIN, y, self._width - _MARGIN, y), _RULE)
                more = f"and {section.left_out:,} more that are not shown"
                pen.text((_MARGIN, y + _GAP), more, _FAINT, _SMALL)
                y += 2 * _GAP + _line(_SMALL)
        return y + _MARGIN - _WIDE_GAP // 2

    def _head(self, pen: ImageDraw.ImageDraw, y: int) -> int:
        width = self._width - 2 * _MARGIN
        for line in _wrapped(in_font(self._title), _TITLE, width):
            pen.text((_MARGIN, y), line, _INK, _TITLE)
            y += _line(_TITLE)
        y += _GAP
        for section in self._sections:
            for line in _wrapped(f"Noise on {section.says}", _SMALL, width):
                pen.text((_MARGIN, y), line, _FAINT, _SMALL)
                y += _line(_SMALL)
        y += _WIDE_GAP
        for block in range(self._abreast):
            pen.text((self._left(block, 0), y), "evaluated", _INK, _SMALL)
            pen.text((self._left(block, 1), y), "noised, as trained on", _INK, _SMALL)
        return y + _line(_SMALL) + _GAP // 2

    def _group(
        self,
        sheet: Image.Image,
        pen: ImageDraw.ImageDraw,
        group: Group,
        versions: list[np.ndarray],
        y: int,
    ) -> int:
        """Draws a group's name and rows; returns their lower end."""
        name = shortened(in_font(group.name), _TEXT, _NAMES - 2 * _GAP)
        pen.text((_MARGIN, y), name, _INK, _TEXT)
        below = y + _line(_TEXT)
        about = group.stream if len(group.images) else "no images"
        pen.text((_MARGIN, below), about, _FAINT, _SMALL)
        below += _line(_SMALL)
        pairs = zip(group.images, versions, strict=True)
        for number, (image, noised) in enumerate(pairs):
            row, block = divmod(number, self._abreast)
            top = y + row * (self._tile + _GAP)
            for place, pixels in enumerate([image, *noised]):
                left = self._left(block, place)
                tile = _tile(pixels, self._tile)
                sheet.paste(tile, (left, top))
                frame = (left - 1, top - 1, left + tile.width, top + tile.height)
                pen.rectangle(frame, outline=_RULE)
        rows = -(-len(group.images) // self._abreast)
        return max(y + rows * (self._tile + _GAP), below)

    def _left(self, block: int, place: int) -> int:
        """Returns the left edge of a tile; place 0 is the original image."""
        step = self._tile + _GAP
        block_width = (1 + VERSIONS) * step + _GAP + _WIDE_GAP
        start = _MARGIN + _NAMES + block * block_width
        return start + place * step + (_GAP if place else 0)


def _tile_side(side: int, most: int) -> int:
    if side > _ENLARGED:
        return min(side, most)
    return side * max(1, most // side)


def _tile(pixels: np.ndarray, side: int) -> Image.Image:
    """Shrinks large images, and enlarges small ones with visible pixels."""
    picture = Image.fromarray(pixels)
    if len(pixels) > side:
        return picture.resize((side, side), Image.Resampling.LANCZOS)
    wanted = len(pixels) * (side // len(pixels))
    return picture.resize((wanted, wanted), Image.Resampling.NEAREST)


def _line(font: ImageFont.FreeTypeFont) -> int:
    return round(1.35 * font.size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Breaks text into lines at spaces; cuts words longer than a line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [shortened(line, font, width) for line in lines]


def write_contact_sheet(student: Generation, path: pathlib.Path) -> dict[str, int]:
    """Draws the contact sheet of a student's images and noise; returns counts."""
    data = student.run.dataset
    groups = [
        _group(student, name, data.labeled, records, "labeled")
        for name, records in _by_class(data.labeled, data.classes)
    ]
    some = np.linspace(0, len(data.pool) - 1, IMAGES_SHOWN["pseudo"]).astype(int)
    groups.append(_group(student, "pool", data.pool, np.unique(some), "pseudo"))
    picture = contact_sheet(
        groups,
        noise={stream: streams.input_noise(student, stream) for stream in GROUPS_SHOWN},
        title=f"{data.name}, as {student.spec.name.replace('_', ' ')} sees it",
        seed=student.run.config.seed,
        says=_says_views(student) if student.spec.solves else "",
        task=student.run.task,
    )
    with files.atomic_file(path) as file:
        picture.save(file, "PNG", optimize=True)
    return {"images": sum(len(group.images) for group in groups)}


def _says_views(student: Generation) -> str:
    """Describes the views of a head's images."""
    return f"views: {', '.join(views.NAMES[: student.spec.config.model.views])}"


def _by_class(source: Source, classes: tuple[str, ...]) -> list[tuple[str, np.ndarray]]:
    """Returns some records of each class; one group if labels are not classes."""
    labels, most = np.asarray(labels_of(source)), IMAGES_SHOWN["labeled"]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        some = np.linspace(0, len(source) - 1, IMAGES_SHOWN["pseudo"]).astype(int)
        return [("labeled", np.unique(some))]
    return [
        (name, np.flatnonzero(labels == number)[:most])
        for number, name in enumerate(classes)
    ]


def _group(
    student: Generation, name: str, source: Source, records: np.ndarray, stream: str
) -> Group:
    read = source.read(records.tolist()).images
    good = [number for number, image in enumerate(read) if image is not None]
    images = [image for image in read if image is not None]
    whole = to_uint8(student.spec.model.preprocessing.apply_all(images))
    crops: list[list[np.ndarray]] | None = None
    if student.spec.solves:
        crops = [_views(student, image) for image in whole]
    elif area := streams.input_noise(student, stream).crop_area:
        crops = [_crops(student, image, n, area) for n, image in enumerate(images)]
    task, targets = student.run.task, None
    if stream == "labeled" and hasattr(task, "drawn"):
        targets = task.targets(np.asarray(labels_of(source))[records[good]])
    return Group(name, list(whole), stream, crops, targets)


def _views(student: Generation, image: np.ndarray) -> list[np.ndarray]:
    """Returns the views from which a head learns, `VERSIONS` with repetition."""
    count, given = student.spec.config.model.views, jnp.float32(image[None])
    seen = [to_uint8(np.asarray(views.view(given, n)))[0] for n in range(count)]
    return [seen[number % count] for number in range(VERSIONS)]


def _crops(
    student: Generation, image: np.ndarray, number: int, area: float
) -> list[np.ndarray]:
    """Returns `VERSIONS` random crops of an image."""
    boxes = crop_boxes(
        student.run.config.seed,
        0,
        0,
        np.arange(number * VERSIONS, (number + 1) * VERSIONS),
        np.array([image.shape[:2]] * VERSIONS),
        area,
    )
    return [
        student.spec.model.preprocessing.apply_crop(image, box)
        for box in boxes.tolist()
    ]

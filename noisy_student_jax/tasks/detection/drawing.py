"""Draws boxes on images: for the report, the contact sheet and ``predict --draw``."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.data.labels import IGNORE, NONE, OBJECT
from noisy_student_jax.images.lettering import font, in_font

Color = tuple[int, int, int]
Place = tuple[int, int, int, int]
TRUE: Color = (40, 220, 190)
PREDICTED: Color = (255, 160, 40)
PSEUDO: Color = (235, 130, 255)
IGNORED: Color = (190, 190, 190)
LEGEND = {
    "true boxes": TRUE,
    "predicted boxes": PREDICTED,
    "pseudo-labeled boxes": PSEUDO,
    "neither hit nor miss": IGNORED,
}
"""What the colors mean. They differ in lightness too, for color-blind readers."""
_INK: Color = (16, 18, 22)
_FEW = 40
"""Up to this many boxes of a layer are labeled."""
_ROOM = 1.5
"""Labels are at most this many times as wide as their box."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """Boxes of one kind.

    Attributes:
      boxes: ``[boxes, 4]``, in units of the image's longer side.
      classes: int ``[boxes]``.
      color: of all of them.
      scores: ``[boxes]``; None for true boxes.
      strong: bool ``[boxes]``, those that are pointed out; None for none.
      labeled: whether class and score are written.
    """

    boxes: np.ndarray
    classes: np.ndarray
    color: Color
    scores: np.ndarray | None = None
    strong: np.ndarray | None = None
    labeled: bool = True


def drawn(
    image: np.ndarray,
    layers: Sequence[Layer],
    names: Sequence[str],
    *,
    side: int | None = None,
) -> np.ndarray:
    """Draws boxes on an image.

    Args:
      image: uint8 ``[height, width, 3]``.
      layers: the boxes, the uppermost last.
      names: class names.
      side: longer side of the result in pixels; None for that of the image.

    Returns:
      uint8 ``[height, width, 3]``.
    """
    picture = _sized(image, side)
    pen = ImageDraw.Draw(picture)
    longer = max(picture.size)
    width = max(1, round(longer / 160))
    for layer in layers:
        strong = (
            np.zeros(len(layer.boxes), bool) if layer.strong is None else layer.strong
        )
        for box, one in zip(layer.boxes * longer, strong, strict=True):
            _rectangle(pen, box.tolist(), layer.color, 2 * width if one else width)
    # Labels lie above all lines.
    taken: list[Place] = []
    for layer in layers:
        if layer.labeled and len(layer.boxes) <= _FEW:
            _labels(pen, layer, names, picture.size, taken)
    return np.asarray(picture)


def layers_of(
    target: Arrays, *, color: Color = TRUE, labeled: bool = True
) -> list[Layer]:
    """Returns the layers of a target's boxes: regions to ignore, then objects.

    Args:
      target: the arrays of `targets.targets` of one image, ``[boxes, …]``.
      color: of objects.
      labeled: whether class and score are written.
    """
    found = []
    for kind, shade in ((IGNORE, IGNORED), (OBJECT, color)):
        own = target["kinds"] == kind
        found.append(
            Layer(
                boxes=target["boxes"][own],
                classes=target["classes"][own],
                color=shade,
                scores=target["scores"][own] if color == PSEUDO else None,
                labeled=labeled and kind == OBJECT,
            )
        )
    return found


def on_inputs(images: np.ndarray, targets: Arrays, names: Sequence[str]) -> np.ndarray:
    """Draws targets on inputs of a model, for the contact sheet (`Task.drawn`).

    Args:
      images: uint8 ``[images, side, side, 3]``.
      targets: the arrays of `targets.targets`, ``[images, boxes, …]``.
      names: class names.
    """
    pictures = []
    for number, image in enumerate(images):
        own = {name: np.asarray(array[number]) for name, array in targets.items()}
        layers = [
            # Sheets show large inputs smaller than they are.
            dataclasses.replace(one, strong=np.full(len(one.boxes), len(image) > 160))
            for one in layers_of(own, labeled=False)
        ]
        pictures.append(drawn(image, layers, names))
    return np.stack(pictures)


def of_labels(labels: np.ndarray) -> list[Layer]:
    """Returns the layers of true boxes.

    Args:
      labels: float ``[boxes, 6]``, of one image.
    """
    there = labels[labels[:, 5] != NONE]
    return layers_of(
        {
            "boxes": there[:, :4],
            "classes": there[:, 4].astype(np.int64),
            "kinds": there[:, 5].astype(np.int64),
            "scores": np.ones(len(there)),
        }
    )


def of_predictions(predictions: Arrays, lowest: float | np.ndarray) -> Layer:
    """Returns the layer of predicted boxes.

    Args:
      predictions: of one image: ``boxes``, ``scores`` and ``classes`` ``[boxes, …]``.
      lowest: boxes of lower scores are left out; a number, or one for each class.
    """
    classes = predictions["classes"].astype(np.int64)
    least = lowest[classes] if isinstance(lowest, np.ndarray) else lowest
    own = (predictions["scores"] > 0) & (predictions["scores"] >= least)
    return Layer(
        boxes=predictions["boxes"][own],
        classes=classes[own],
        color=PREDICTED,
        scores=predictions["scores"][own],
    )


def _sized(image: np.ndarray, side: int | None) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(image))
    longer = max(picture.size)
    if side is None or longer == side:
        return picture.copy()
    scale = side / longer
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return picture.resize(size, how)


def _rectangle(
    pen: ImageDraw.ImageDraw, box: list[float], color: Color, width: int
) -> None:
    """Draws a box with a dark rim, which is seen on bright and dark images."""
    left, top, right, bottom = map(round, box)
    right, bottom = max(right, left), max(bottom, top)
    rim = (left - 1, top - 1, right + 1, bottom + 1)
    pen.rectangle(rim, outline=_INK, width=width + 2)
    pen.rectangle((left, top, right, bottom), outline=color, width=width)


def _labels(
    pen: ImageDraw.ImageDraw,
    layer: Layer,
    names: Sequence[str],
    size: tuple[int, int],
    taken: list[Place],
) -> None:
    """Writes class and score at each box, away from labels that are there.

    Args:
      pen: draws on the picture.
      layer: the boxes.
      names: class names.
      size: width and height of the picture.
      taken: places of labels, to which these are added.
    """
    width, height = size
    longer = max(size)
    # Large labels of a few boxes hide little.
    few, many = len(layer.boxes) <= 6, len(layer.boxes) > 12
    letters = font(max(9, round(longer / (34 if many else 25))))
    tall = round(letters.size * 1.25)
    least = 8 if few else 3
    for number, box in enumerate(layer.boxes * longer):
        left, top, right, bottom = map(round, box.tolist())
        name = in_font(names[int(layer.classes[number])])
        score = "" if layer.scores is None else f"{float(layer.scores[number]):.2f}"
        room = max(_ROOM * (right - left), least * letters.size)
        texts = [f"{name} {score}".strip(), f"{name[:3]} {score[1:]}".strip()]
        fitting = [text for text in texts if letters.getlength(text) <= room]
        text = fitting[0] if fitting else texts[-1]
        wide = round(letters.getlength(text)) + 4
        x = min(max(0, left), max(0, width - wide))
        rows = [y for y in (top - tall, bottom, top, bottom - tall) if y >= 0]
        places = [(x, y, x + wide, y + tall) for y in rows if y + tall <= height]
        free = [one for one in places if not any(_overlap(one, two) for two in taken)]
        place = (free or places or [(x, 0, x + wide, tall)])[0]
        taken.append(place)
        pen.rectangle(place, fill=layer.color, outline=_INK)
        pen.text((place[0] + 2, place[1] + 1), text, _INK, letters)


def _overlap(one: Place, two: Place) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]

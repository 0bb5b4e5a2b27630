"""Where boxes lie: in pixels of the picture that people see, inside the image.

A single doubtful box is left out, counted and named. A fault of many boxes is one of
the whole export, and refused with its likely cause.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.annotations import orientation
from noisy_student_jax.data.annotations.orientation import Size
from noisy_student_jax.data.annotations.structure import Notes, Raw, RawImage

SYSTEMATIC = 0.1
"""Fraction of boxes or images with one fault from which the export is refused, if they
are `SOME` or more."""
SOME = 3
_LEAST = 1.0
"""Width and height in pixels below which a box is none."""
_SLACK = 0.02
"""Part of a side by which a box may reach beyond the image before it is doubtful."""


@dataclasses.dataclass
class Boxes:
    """All boxes of a folder.

    Attributes:
      corners: float64 ``[boxes, 4]``.
      image: int64 ``[boxes]``, the image of each.
      where: the place of each in its file.
    """

    corners: np.ndarray
    image: np.ndarray
    where: list[str]

    def note(self, which: np.ndarray, what: str, notes: Notes) -> None:
        """Counts boxes; names the first few."""
        for row in np.flatnonzero(which).tolist():
            notes.add(what, self.where[row])


def to_pixels(
    boxes: Boxes,
    raw: Raw,
    images: Sequence[RawImage],
    sizes: Sequence[Size | None],
    notes: Notes,
    place: str,
) -> None:
    """Turns coordinates into pixels of the pictures as seen, in place."""
    corners = boxes.corners
    normalized = raw.normalized
    fractions = (np.abs(corners) <= 1 + _SLACK).all(axis=1)
    if normalized:
        far = (np.abs(corners) > 2).any(axis=1)
        if is_systematic(far):
            row = int(np.flatnonzero(far)[0])
            raise UserError(
                f"{far.sum():,} of {len(far):,} boxes in '{place}' have numbers far"
                f" above 1, the first being {printable(boxes.where[row])}, but YOLO's"
                " are fractions of the image's width and height: they look like"
                " pixels, so divide them, or export again"
            )
    elif fractions.all() and (corners[:, 2:] > 0).any():
        normalized = True
        notes.add(
            f"boxes of {raw.form} are fractions from 0 to 1, and are taken as such",
            "",
            count=len(corners),
        )
    elif is_systematic(fractions):
        row = int(np.flatnonzero(fractions)[0])
        raise UserError(
            f"{fractions.sum():,} of {len(fractions):,} boxes in '{place}' are"
            f" fractions from 0 to 1, the first being {printable(boxes.where[row])},"
            " and the others pixels: write all as pixels"
        )
    of_image = np.searchsorted(boxes.image, np.arange(len(images) + 1))
    odd = []
    for row, (image, size) in enumerate(zip(images, sizes, strict=True)):
        mine = slice(of_image[row], of_image[row + 1])
        if size is None or (mine.start == mine.stop and image.size is None):
            continue
        if normalized:
            corners[mine] *= np.tile(size[:2], 2)
            if size.orientation > 1:
                notes.add(
                    "images are turned by EXIF; their boxes are taken to be of the"
                    " picture as people see it",
                    f"'{image.path}'",
                )
            continue
        fit = _fit(corners[mine], image, size, notes)
        if fit is None:
            odd.append(row)
        else:
            corners[mine] = fit
    _set_aside(odd, images, sizes, boxes, notes, place)


def _fit(
    corners: np.ndarray, image: RawImage, size: Size, notes: Notes
) -> np.ndarray | None:
    """Returns an image's boxes in pixels as seen; None if they are of another image."""
    seen, where = size[:2], f"'{image.path}'"
    stored, given = size.stored, image.size
    if given is None and stored != seen:
        # The boxes tell, if they fit into one of the two alone.
        fits = {
            way: (corners[:, 2:] <= np.array(way) + 1).all() for way in (seen, stored)
        }
        given = stored if fits[stored] and not fits[seen] else seen
    if size.orientation > 1:
        turns = given == stored and given != seen
        way = "as it is stored; they are turned" if turns else "as people see it"
        notes.add(
            f"images are turned by EXIF; their boxes are of the picture {way}", where
        )
        if turns:
            return orientation.as_seen(corners, size)
    if given is None or given == seen:
        return corners
    scale = np.array(seen) / given
    # One pixel more or less comes from rounding when an image was resized.
    if np.abs(np.array(given) * scale.mean() - seen).max() <= max(1, *scale):
        notes.add(
            "images have another size than their annotations say, in the same"
            " proportions; their boxes are scaled",
            f"{where} ({seen[0]}×{seen[1]}, annotated {given[0]}×{given[1]})",
        )
        return corners * np.tile(scale, 2)
    return None


def _set_aside(
    odd: Sequence[int],
    images: Sequence[RawImage],
    sizes: Sequence[Size | None],
    boxes: Boxes,
    notes: Notes,
    place: str,
) -> None:
    """Makes images unlabeled whose annotations are of another size; refuses many."""
    if not odd:
        return
    told = []
    for row in odd:
        size, given = sizes[row], images[row].size
        assert size is not None and given is not None, "both sizes were compared"
        told.append(
            f"'{images[row].path}' ({size.width}×{size.height}, annotated"
            f" {given[0]}×{given[1]} in '{images[row].file}')"
        )
        images[row].annotated = False
        notes.add(
            "images have other proportions than their annotations say, and count as"
            " unlabeled",
            told[-1],
        )
    annotated = sum(bool(image.file) for image in images)
    if len(odd) >= SOME and len(odd) > SYSTEMATIC * annotated:
        raise UserError(
            f"{len(odd):,} of {annotated:,} images in '{place}' have another size than"
            f" their annotations say, the first being {printable(told[0])}: give the"
            " images that the boxes were drawn on"
        )


def check_as_a_whole(
    corners: np.ndarray, extent: np.ndarray, raw: Raw, place: str
) -> None:
    """Raises if many boxes are impossible; says which reading would make them fit."""
    bad = _beyond(corners, extent)
    if not is_systematic(bad):
        return
    left, top, right, bottom = corners.T
    others = {
        "x and y look swapped": np.stack([top, left, bottom, right], 1),
        "their corners look swapped, as right and bottom come before left and top": (
            np.stack([right, bottom, left, top], 1)
        ),
        "they look like left, top, width and height rather than two corners": (
            np.stack([left, top, left + right, top + bottom], 1)
        ),
    }
    if raw.extents:
        del others["they look like left, top, width and height rather than two corners"]
        others["they look like two corners rather than a corner, width and height"] = (
            np.stack([left, top, right - left, bottom - top], 1)
        )
    why, fewest = "they do not fit their images", bad.sum() / 5
    for told, other in others.items():
        if (count := _beyond(other, extent).sum()) < fewest:
            why, fewest = told, count
    raise UserError(
        f"{bad.sum():,} of {len(bad):,} boxes in '{place}' lie outside their images or"
        f" have no area, so {why}: export them again"
    )


def kept_in_image(
    boxes: Boxes,
    extent: np.ndarray,
    measured: np.ndarray,
    notes: Notes,
    place: str,
) -> np.ndarray:
    """Clips boxes to their images, in place; returns which have an area there."""
    corners = boxes.corners
    before = np.asarray((corners[:, 2:] <= corners[:, :2]).any(axis=1))
    inside = corners.copy()
    inside[measured] = np.clip(corners[measured], 0, np.tile(extent[measured], 2))
    sides = inside[:, 2:] - inside[:, :2]
    usable = measured & ~before
    outside = np.asarray(usable & (sides <= 0).any(axis=1))
    tiny = np.asarray(usable & ~outside & (sides < _LEAST).any(axis=1))
    gone = before | outside | tiny
    clipped = np.asarray(~gone & (np.abs(inside - corners) > 1).any(axis=1))
    for which, what in (
        (before, "boxes have no area or a negative one, and are left out"),
        (outside, "boxes lie outside their image, and are left out"),
        (tiny, "boxes are smaller than a pixel, and are left out"),
        (clipped, "boxes reach beyond their image, and are clipped"),
    ):
        boxes.note(which, what, notes)
    if is_systematic(tiny):
        raise UserError(
            f"{tiny.sum():,} of {len(tiny):,} boxes in '{place}' are smaller than a"
            " pixel: export them again"
        )
    boxes.corners = inside
    return ~gone


def is_systematic(which: np.ndarray) -> bool:
    """Whether so many have a fault that the export has it."""
    return bool(which.sum() >= SOME and which.mean() > SYSTEMATIC)


def _beyond(corners: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Returns which boxes are impossible: far outside the image, or without area."""
    slack = np.maximum(_SLACK * extent, 2)
    outside = np.hstack([corners[:, :2] < -slack, corners[:, 2:] > extent + slack])
    bad = np.hstack([outside, corners[:, 2:] <= corners[:, :2]]).any(axis=1)
    return np.asarray(bad)

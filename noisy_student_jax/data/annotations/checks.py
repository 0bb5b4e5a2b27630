"""Checks of annotations: images, class names and boxes, as `Annotated`."""

from collections.abc import Sequence

import numpy as np

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.annotations.folder import Folder
from noisy_student_jax.data.annotations.geometry import (
    Boxes,
    check_as_a_whole,
    is_systematic,
    kept_in_image,
    to_pixels,
)
from noisy_student_jax.data.annotations.orientation import Keep, Size, all_measured
from noisy_student_jax.data.annotations.structure import (
    Annotated,
    AnnotatedImage,
    Notes,
    Raw,
    RawImage,
)
from noisy_student_jax.data.cache.class_names import (
    check_spelling,
    nearest_class,
)
from noisy_student_jax.data.cache.walk import shown
from noisy_student_jax.data.labels import IGNORE, OBJECT

FEW_BOXES = 10
"""Below this number of boxes a class is named as rare."""
MANY_BOXES = 100
"""Above this number of boxes an image is named: no more are predicted for one."""


def checked(
    raw: Raw,
    folder: Folder,
    *,
    classes: Sequence[str] | None = None,
    keep: Keep | None = None,
) -> Annotated:
    """Checks annotations; counts what is changed or left out.

    Args:
      raw: as they were read.
      folder: the folder.
      classes: known class names in index order; None to take the format's, or those
        found, sorted.
      keep: see `orientation.all_measured`.

    Raises:
      UserError: they are unusable as a whole.
    """
    notes = raw.notes
    place = shown(folder.root)
    images = _of_one_entry(raw.images, notes)
    _check_there(images, folder)
    names = _class_names(raw, images, folder, classes)
    sizes = all_measured(folder, [image.path for image in images], keep)
    rows = [row for row, image in enumerate(images) for _ in image.boxes]
    boxes = Boxes(
        corners=np.array(
            [box.corners for image in images for box in image.boxes], np.float64
        ).reshape(-1, 4),
        image=np.array(rows, np.int64),
        where=[
            f"{box.where} of '{image.file}'" for image in images for box in image.boxes
        ],
    )
    if not len(boxes.image):
        raise UserError(
            f"'{place}' has {raw.form} files and not one box in them: give a folder"
            " with labeled objects"
        )
    to_pixels(boxes, raw, images, sizes, notes, place)
    extent = np.array([size[:2] if size else (0, 0) for size in sizes], np.float64)
    extent = extent.reshape(-1, 2)[boxes.image]
    measured = extent.all(axis=1)
    check_as_a_whole(boxes.corners[measured], extent[measured], raw, place)
    index = {name: number for number, name in enumerate(names)}
    labels = [box.label for image in images for box in image.boxes]
    known = np.array([label in index for label in labels])
    _leave_out_unknown(boxes, labels, known, names, notes, place)
    kept = known & kept_in_image(boxes, extent, measured, notes, place)
    ignored = [box.ignored for image in images for box in image.boxes]
    found = _assembled(
        images,
        sizes,
        boxes,
        kept,
        np.array([index.get(label, -1) for label in labels], np.int64),
        np.where(ignored, IGNORE, OBJECT).astype(np.int64),
        notes,
    )
    if classes is None:
        _note_rare(found, names, notes)
    return Annotated(folder.root, raw.form, tuple(found), names, notes, raw.told)


def _of_one_entry(images: Sequence[RawImage], notes: Notes) -> list[RawImage]:
    """Joins entries of the same image; leaves out an image whose entries disagree."""
    by_path: dict[str, list[RawImage]] = {}
    for image in images:
        by_path.setdefault(image.path, []).append(image)
    found = []
    for path, entries in sorted(by_path.items()):
        first = entries[0]
        if len(entries) > 1:
            told = f"'{path}' in '{first.file}'"
            same = {
                (one.split, tuple(sorted((b.corners, b.label) for b in one.boxes)))
                for one in entries
            }
            if len(same) == 1:
                notes.add("images are listed more than once, and count once", told)
            else:
                notes.add(
                    "images are listed more than once with other boxes or in other"
                    " splits, and count as unlabeled",
                    told,
                )
                first = RawImage(path, first.file, annotated=False)
        found.append(first)
    return found


def _check_there(images: Sequence[RawImage], folder: Folder) -> None:
    """Raises if none of the annotated images is there; those missing are counted later.

    They are listed, so that preparing names them like files that cannot be read.
    """
    named = [image for image in images if image.annotated]
    gone = [image for image in named if image.path not in folder.images]
    if named and len(gone) == len(named):
        raise UserError(
            f"none of the {len(named):,} images that the annotation files in"
            f" '{shown(folder.root)}' name is there, the first being"
            f" '{printable(gone[0].path)}' in '{printable(gone[0].file)}': put the"
            " images beside the annotation files, or into a folder 'images'"
        )


def _class_names(
    raw: Raw, images: Sequence[RawImage], folder: Folder, classes: Sequence[str] | None
) -> tuple[str, ...]:
    used = sorted({box.label for image in images for box in image.boxes})
    names = raw.names if raw.names is not None else tuple(used)
    check_spelling(folder.root, names)
    place = shown(folder.root)
    if empty := [number for number, name in enumerate(names) if not name.strip()]:
        raise UserError(f"class {empty[0]} of '{place}' has an empty name: name it")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(
            f"two classes of '{place}' are named '{printable(twice)}': rename one"
        )
    if classes is None:
        return names
    if unknown := [name for name in names if name in used and name not in classes]:
        raise UserError(
            f"'{place}' has boxes of the class '{printable(unknown[0])}', which is not"
            f" among the {len(classes)} known"
            f" classes{nearest_class(unknown[0], list(classes))}"
        )
    return tuple(classes)


def _leave_out_unknown(
    boxes: Boxes,
    labels: Sequence[str],
    known: np.ndarray,
    names: Sequence[str],
    notes: Notes,
    place: str,
) -> None:
    if known.all():
        return
    row = int(np.flatnonzero(~known)[0])
    if is_systematic(~known):
        raise UserError(
            f"{(~known).sum():,} of {len(known):,} boxes in '{place}' are of a class"
            f" that is not among the {len(names)} listed names, the first being"
            f" '{printable(labels[row])}' in {printable(boxes.where[row])}: list all"
            " names, in the order of their numbers"
        )
    boxes.note(
        ~known,
        f"boxes are of a class that is not among the {len(names)} listed names, and"
        " are left out",
        notes,
    )


def _assembled(
    images: Sequence[RawImage],
    sizes: Sequence[Size | None],
    boxes: Boxes,
    kept: np.ndarray,
    classes: np.ndarray,
    kinds: np.ndarray,
    notes: Notes,
) -> list[AnnotatedImage]:
    edges = np.searchsorted(boxes.image, np.arange(len(images) + 1)).tolist()
    found = []
    for row, (image, size) in enumerate(zip(images, sizes, strict=True)):
        mine = np.arange(edges[row], edges[row + 1])
        mine = mine[kept[mine]] if image.annotated else mine[:0]
        rows = np.column_stack([boxes.corners[mine], classes[mine], kinds[mine]])
        _, first = np.unique(rows, axis=0, return_index=True)
        for number in np.setdiff1d(np.arange(len(mine)), first).tolist():
            notes.add(
                "boxes are there twice, and count once", boxes.where[mine[number]]
            )
        mine = mine[np.sort(first)]
        found.append(
            AnnotatedImage(
                path=image.path,
                size=size[:2] if size else None,
                boxes=boxes.corners[mine],
                classes=classes[mine],
                kinds=kinds[mine],
                split=image.split,
                annotated=image.annotated,
            )
        )
    for one in sorted(found, key=lambda each: -len(each.boxes)):
        if (count := len(one.boxes)) <= MANY_BOXES:
            break
        notes.add(
            f"images have more than {MANY_BOXES} boxes, of which at most {MANY_BOXES}"
            " can be predicted; all labels take as much memory as those of the fullest",
            f"'{one.path}' ({count:,})",
        )
    return found


def _note_rare(
    images: Sequence[AnnotatedImage], names: Sequence[str], notes: Notes
) -> None:
    """Names classes of which there are no boxes, or few."""
    counts = np.zeros(len(names), np.int64)
    for image in images:
        np.add.at(counts, image.classes[image.kinds == OBJECT], 1)
    for name, count in zip(names, counts.tolist(), strict=True):
        if not count:
            notes.add("classes have no box, and cannot be learned", f"'{name}'")
        elif count < FEW_BOXES:
            notes.add(
                f"classes have fewer than {FEW_BOXES} boxes", f"'{name}' ({count})"
            )

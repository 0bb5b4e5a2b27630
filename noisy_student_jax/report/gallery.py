"""The most and the least confident pseudo-labeled images of each class."""

import base64
import dataclasses
import io
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import DamagedFileError, UserError
from noisy_student_jax.pseudo_labels import selection
from noisy_student_jax.report.pseudo import class_name
from noisy_student_jax.report.students import Shown, generations
from noisy_student_jax.runs.run import Run

CLASSES_SHOWN = 10
IMAGES_SHOWN = 6
_SIDE = 112  # maximum side of a stored image, in pixels
_SMALL = 56  # images below this side, in pixels, are shown with visible pixels


def gallery(run: Run, summary: dict[str, Any], students: list[Shown]) -> dict[str, Any]:
    """Returns images of the last teacher's selection, or why there are none."""
    teacher = next(
        (
            one
            for one in reversed(generations(students))
            if files.is_file(one.folder / "selection" / selection.PLAN)
        ),
        None,
    )
    if teacher is None:
        return {"missing": "There is no selection of pseudo-labels to show."}
    folder = teacher.folder / "selection"
    try:
        extremes = _extremes(folder / selection.PLAN)
        rows = _with_images(run, folder, extremes, summary["classes"])
    except DamagedFileError:
        return {"missing": f"The images cannot be shown: {selection.PLAN} is damaged."}
    except (UserError, OSError, ValueError, LookupError, RuntimeError) as error:
        # Data may be unavailable by now; the report is written without it.
        return {"missing": f"The images cannot be shown: {one_line(error)}."}
    return {
        "missing": None,
        "teacher": teacher.title,
        "rows": rows,
        "left_out": max(0, len(summary["classes"]) - len(rows)),
    }


@dataclasses.dataclass(frozen=True)
class _Ends:
    """The plan's most and least confident rows of a class, in descending order."""

    rows: np.ndarray
    scores: np.ndarray
    keys: np.ndarray

    def merged(self, other: "_Ends") -> "_Ends":
        """Returns the ends of the union."""
        both = [
            np.concatenate([getattr(self, f.name), getattr(other, f.name)])
            for f in dataclasses.fields(self)
        ]
        order = np.argsort(-both[1], kind="stable")
        if len(order) > 2 * IMAGES_SHOWN:
            order = np.concatenate([order[:IMAGES_SHOWN], order[-IMAGES_SHOWN:]])
        return _Ends(*(values[order] for values in both))


def _extremes(path: pathlib.Path) -> dict[int, _Ends]:
    """Returns the ends of the first classes, in one pass over the plan."""
    kept: dict[int, _Ends] = {}
    nothing = _Ends(np.zeros(0, int), np.zeros(0), np.zeros(0, object))
    first = 0
    with files.open_parquet(path) as file:
        for batch in file.iter_batches(columns=["key", "label", "score"]):
            labels, scores = (batch[n].to_numpy() for n in ("label", "score"))
            there = kept.keys() | set(np.unique(labels).tolist())
            wanted = sorted(there)[:CLASSES_SHOWN]
            for label in wanted:
                here = np.flatnonzero(labels == label)
                order = here[np.argsort(-scores[here], kind="stable")]
                if len(order) > 2 * IMAGES_SHOWN:
                    order = np.r_[order[:IMAGES_SHOWN], order[-IMAGES_SHOWN:]]
                keys = batch["key"].take(pa.array(order)).to_numpy(zero_copy_only=False)
                new = _Ends(first + order, scores[order].astype(float), keys)
                kept[label] = kept.get(label, nothing).merged(new)
            kept = {label: kept[label] for label in wanted}
            first += batch.num_rows
    return kept


def _with_images(
    run: Run, folder: pathlib.Path, extremes: dict[int, _Ends], classes: list[str]
) -> list[dict[str, Any]]:
    picks, _ = selection.load_picks(folder)
    pool = run.dataset.pool
    shown = []
    for label, ends in extremes.items():
        # Picks follow the plan's order, one per copy: take the first of each row.
        records = [
            int(picks[np.searchsorted(picks[:, 1], row), 0]) for row in ends.rows
        ]
        if [pool.key(record) for record in records] != ends.keys.tolist():
            raise ValueError("the pool is not the one that was labeled")
        examples = pool.read(records)
        tiles = []
        for key, score, image, status in zip(
            ends.keys, ends.scores, examples.images, examples.status, strict=True
        ):
            tiles.append(tile(key, image, status) | {"score": f"{score:.2f}"})
        # In a class with few images, none is shown on both sides.
        most = min(IMAGES_SHOWN, -(-len(tiles) // 2))
        name = class_name(classes, label)
        shown.append({"name": name, "most": tiles[:most], "least": tiles[most:]})
    return shown


def tile(key: str, image: np.ndarray | None, status: str) -> dict[str, Any]:
    """Returns a record's picture for the report, without data if it cannot be shown.

    Args:
      key: the record's key.
      image: uint8 ``[height, width, 3]``, or None.
      status: ``ok``, or why the image cannot be shown.
    """
    if image is None or status != "ok":
        return {"key": key, "data": None, "small": False}
    small = max(np.asarray(image).shape[:2]) < _SMALL
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((_SIDE, _SIDE))
    return {"key": key, "data": data_url(picture, "PNG", optimize=True), "small": small}


def data_url(picture: Image.Image, form: str, **options: Any) -> str:
    """Returns a picture as a data URL.

    Args:
      picture: the picture.
      form: ``PNG`` or ``JPEG``.
      **options: of Pillow for the format.
    """
    file = io.BytesIO()
    picture.save(file, form, **options)
    data = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{data}"


def one_line(error: Exception) -> str:
    """Returns an error's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__

"""Where a user's images lie: the sources that a config names."""

import itertools
import pathlib

from ml_collections import ConfigDict

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.open import BOXES, STREAMED


def check_places(data: ConfigDict) -> None:
    """Validates the sources named in the config.

    Raises:
      UserError: a required source is missing, two of them overlap, or one is where the
        run writes. What a run writes below a source is left out of its listing.
    """
    places, with_boxes = data.sources, data.name == BOXES
    if places.labeled is None:
        what = "images and their boxes" if with_boxes else "one sub-folder per class"
        raise UserError(
            "no labeled images are given: say where they are with"
            f" --config.labeled=DIR, a folder with {what}"
        )
    # Among images with boxes there may be some without.
    bare = places.unlabeled is None and data.labels_per_class is None
    if bare and not with_boxes:
        raise no_pool()
    for name, place in places.items():
        if with_boxes and place and place.startswith(STREAMED):
            raise UserError(
                f"config.{name} is '{place}', but images with boxes are read from"
                " folders: give a folder"
            )
    fractions = data.validation_fraction or 0.0, data.test_fraction
    if not (places.validation or places.test) and sum(fractions) >= 1:
        raise UserError(
            "config.data.validation_fraction and .test_fraction are"
            f" {fractions[0]:g} and {fractions[1]:g}, which leaves nothing to learn"
            " from: make them smaller"
        )
    meant: dict[str, pathlib.Path | str] = {
        name: place if place.startswith(STREAMED) else _resolved(place)
        for name, place in places.items()
        if place
    }
    written = {
        flag: _resolved(place)
        for flag, place in (
            ("--workdir", data.get("workdir")),
            ("config.data.cache", data.cache),
        )
        if place
    }
    both = {f"config.{name}": place for name, place in meant.items()} | written
    for name, other in itertools.combinations(both, 2):
        if both[name] == both[other]:
            raise UserError(
                f"{name} and {other} are the same, '{both[name]}': choose another place"
                " for one of them"
            )
    folders = {n: at for n, at in meant.items() if isinstance(at, pathlib.Path)}
    for name, folder in folders.items():
        for other, inside in folders.items():
            if name == "unlabeled" or with_boxes:
                continue
            if folder in inside.parents:
                raise UserError(
                    f"config.{other} '{inside}' lies in config.{name} '{folder}',"
                    " where each sub-folder is a class: move it out"
                )


def no_pool() -> UserError:
    """Returns the error for a run without unlabeled images."""
    return UserError(
        "no unlabeled images are given: say where they are with"
        " --config.unlabeled=DIR, a folder of images (or keep N labels per class"
        " with --config.data.labels_per_class=N, and use the rest as the pool)"
    )


def _resolved(place: str) -> pathlib.Path:
    return pathlib.Path(place).expanduser().resolve()


def name_of(place: str) -> str:
    """Names a dataset by the last two parts of its path, such as ``flowers/train``."""
    path = _resolved(place)
    return "/".join(path.parts[-2:]) if path.exists() else place

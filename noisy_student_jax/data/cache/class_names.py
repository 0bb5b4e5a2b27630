"""Checks that folders and labels are the classes that a person means."""

import itertools
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError, nearest
from noisy_student_jax.data.cache.walk import (
    File,
    Walk,
    safe_text,
    shown,
    skipped,
)

# Folders with such names are splits rather than classes.
_LEARNED = {"train", "training", "labeled", "labelled"}
_JUDGED = {"val", "valid", "validation", "dev", "test", "testing", "eval"}
_POOLS = {"unlabeled", "unlabelled", "pool", "extra"}
_BESIDE = {"set", "data", "dataset", "split", "images", "image", "img", "imgs"}


# Characters without a shape of their own: format characters and variation selectors.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_NUMBER = re.compile(r"\d+(\.0*)?", re.ASCII)
NAMED = 5
"""Number of classes that a sentence names."""


def class_name(folder: str) -> str:
    """Returns the folder's name, escaped if it is not UTF-8."""
    try:
        folder.encode()
    except UnicodeEncodeError:
        return safe_text(folder)
    return folder


def check_apart(place: pathlib.Path, folders: list[str]) -> None:
    """Checks that no class folder equals or contains another through a link."""
    real = sorted(((place / name).resolve().parts, name) for name in folders)
    for (outer, first), (inner, second) in itertools.pairwise(real):
        if inner[: len(outer)] == outer:
            what = "is the same folder as" if inner == outer else "lies in"
            raise UserError(
                f"the class folder '{shown(second)}' of '{shown(place)}' {what}"
                f" '{shown(first)}', so that images would be of two classes: remove"
                " one, or the link"
            )


def check_no_splits(place: pathlib.Path, folders: list[str], files: list[File]) -> None:
    """Checks that the folders are classes and not splits of a dataset."""
    below: dict[str, set[str | None]] = {folder: set() for folder in folders}
    for file in files:
        folder, name, *rest = file.path.split("/", 2)
        below[folder].add(name if rest else None)
    found = list(below.values())
    kinds = {folder: _kind_of_split(folder) for folder in folders}
    named = all(kinds.values()) or {"learned", "judged"} <= set(kinds.values())
    alike = len(found[0]) > 1 and all(names == found[0] for names in found)
    if len(folders) < 2 or not (named or (alike and None not in found[0])):
        return
    some = ", ".join(f"'{shown(folder)}'" for folder in folders[:3])
    why = "" if named else " with the same sub-folders in each"
    inside = [name for name in folders if below[name] - {None}]
    advice = [
        f"--config.{flag}={shown(place / folder)}"
        for flag, kind in (("labeled", "learned"), ("test", "judged"))
        for folder in [name for name in inside if kinds[name] == kind][:1]
    ]
    give = f"give {' and '.join(advice)}" if advice else "give one of them"
    if not inside:
        give = "sort the images in them into one folder per class"
    raise UserError(
        f"'{shown(place)}' looks like a folder of splits ({some}){why}: {give}, or"
        " give a .csv file with the columns path and label if they are classes"
    )


def _kind_of_split(folder: str) -> str | None:
    """Returns what images a folder of this name is for, if it is no class's."""
    words = set(re.findall("[a-z]+", folder.lower())) - _BESIDE
    names = {"learned": _LEARNED, "judged": _JUDGED, "pool": _POOLS}
    found = (kind for kind, known in names.items() if words and words <= known)
    return next(found, None)


def check_spelling(place: pathlib.Path, names: Iterable[str]) -> None:
    """Checks that no two class names differ only in what can hardly be seen."""
    alike: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for name in names:
        other = alike.setdefault(plain(name), name)
        if other != name:
            pairs.append((other, name))
    if not pairs:
        return
    told = [
        f"'{printable(one)}' and '{printable(other)}' of '{shown(place)}' differ only"
        f" in {_difference(one, other)}"
        for one, other in pairs[:NAMED]
    ]
    more = f", and {len(pairs) - NAMED} more pairs" if len(pairs) > NAMED else ""
    raise UserError(f"the classes {', '.join(told)}{more}: merge them, or rename one")


def plain(name: str) -> str:
    """Returns a form that names share which look the same."""
    name = unicodedata.normalize("NFC", name)
    name = " ".join(_INVISIBLE.sub("", name).split()).casefold()
    return str(int(name.split(".")[0])) if _NUMBER.fullmatch(name) else name


def _difference(one: str, other: str) -> str:
    """Says in what two names differ that have the same plain form."""
    forms: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("how an accent is stored", lambda name: unicodedata.normalize("NFC", name)),
        ("upper and lower case", str.casefold),
        ("spaces", lambda name: " ".join(name.split())),
        ("characters that cannot be seen", lambda name: _INVISIBLE.sub("", name)),
    )
    for what, form in forms:
        if form(one) == form(other):
            return what
    numbers = all(_NUMBER.fullmatch(name.strip()) for name in (one, other))
    return "how a number is written" if numbers else "signs that look the same"


def check_filled(place: pathlib.Path, walk: Walk, folders: list[str]) -> None:
    """Checks that each class folder has images."""
    filled = {file.path.partition("/")[0] for file in walk.files}
    if not (empty := [folder for folder in folders if folder not in filled]):
        return
    told = [
        f"'{shown(folder)}'{skipped(walk.counts(first=folder))}"
        for folder in empty[:NAMED]
    ]
    more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
    which, them = "class folder", "it"
    if len(empty) > 1:
        which, them = f"{len(empty)} class folders", "them"
    raise UserError(
        f"no image is in the {which} {', '.join(told)}{more} of '{shown(place)}':"
        f" put some in, or remove {them}"
    )


def check_several(
    place: pathlib.Path, labels: Sequence[str], *, files: Sequence[File] = ()
) -> None:
    """Checks that there are two or more classes."""
    if len(set(labels)) != 1:
        return
    deep = [file.path.split("/") for file in files if file.path.count("/") > 1]
    below = {(first, second) for first, second, *_ in deep}
    inside = ""
    if len(below) > 1:
        (folder,) = {first for first, _ in below}
        inside = (
            f" (if the {len(below)} sub-folders in it are the classes, give"
            f" --config.labeled={shown(place / folder)})"
        )
    raise UserError(
        f"'{shown(place)}' has one class, '{printable(labels[0])}': at least two are"
        f" needed{inside}"
    )


def nearest_class(label: str, classes: list[str]) -> str:
    """Names the known class that is meant, if there is one."""
    for name in classes:
        if plain(name) == plain(label):
            in_what = _difference(name, label)
            return f"; it differs from '{printable(name)}' in {in_what}"
    return nearest(label, classes)

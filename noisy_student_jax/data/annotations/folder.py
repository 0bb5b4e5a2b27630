"""A folder with images and annotation files, and which image a name means."""

import os
import pathlib
import re
from collections.abc import Sequence

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.files import read_foreign_text
from noisy_student_jax.data.annotations.structure import Notes
from noisy_student_jax.data.cache.walk import (
    File,
    Walk,
    is_left_behind,
    shown,
    skipped,
)
from noisy_student_jax.data.splits import LABELED, TEST, VALIDATION

ANNOTATIONS = (".json", ".xml", ".txt", ".yaml", ".yml", ".csv", ".names", ".data")
"""Suffixes of the files that annotations are read from."""
_SPLITS = {
    **dict.fromkeys(("train", "training"), LABELED),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
_BESIDE = {
    "set",
    "data",
    "dataset",
    "split",
    "images",
    "image",
    "img",
    "imgs",
    "labels",
}
_NAME_FILES = ("classes.txt", "predefined_classes.txt", "obj.names", "labelmap.txt")


class Folder:
    """A folder's images and annotation files, by paths relative to it.

    Attributes:
      root: the folder.
      images: the image files.
      files: the annotation files, sorted.
      left_out: number of skipped entries by reason.
    """

    def __init__(self, root: pathlib.Path, apart: Sequence[pathlib.Path] = ()):
        """Lists the files, and opens none.

        Args:
          root: the folder.
          apart: folders that are left out wherever they lie.

        Raises:
          UserError: the folder holds no images.
        """
        self.root = root
        walk = Walk(root, apart, passed_over=ANNOTATIONS)
        files, folders, links = walk.scan("")
        walk.files += files
        walk.through(folders, links)
        self.left_out = walk.counts()
        if not walk.files:
            raise UserError(
                f"'{shown(root)}' holds no images{skipped(self.left_out)}: give a"
                " folder with images and their boxes in it"
            )
        self.images: dict[str, File] = {file.path: file for file in walk.files}
        self.files = _annotation_files(root, {folder.resolve() for folder in apart})
        self._by_name: dict[str, list[str]] = {}
        for path in sorted(self.images):
            name = path.rpartition("/")[2]
            self._by_name.setdefault(name, []).append(path)
            self._by_name.setdefault(name.rpartition(".")[0], []).append(path)

    def ending(self, *suffixes: str) -> list[str]:
        """Returns the annotation files with one of these suffixes."""
        return [path for path in self.files if path.lower().endswith(suffixes)]

    def text(self, path: str) -> str:
        """Reads an annotation file."""
        return read_foreign_text(self.root / path)

    def locate(self, name: str, *, near: str = "", split: str | None = None) -> str:
        """Returns the path of the image that an annotation file means by a name.

        Exporters write a name alone, or a path that led to the image on another
        computer. An image beside the annotation file or in its ``images`` folder is
        taken first; then the one that shares most of the path's end.

        Args:
          name: as it is written, with or without a suffix.
          near: folder of the annotation file.
          split: the part of the dataset; of several images, one in its folders counts.

        Returns:
          The path; one that leads nowhere if there is no such image, or if there are
          several.
        """
        tail = name.replace("\\", "/").removeprefix("file://").lstrip("/")
        while tail.startswith(("./", "../")):
            tail = tail.partition("/")[2]
        places = [f"{near}/{tail}" if near else tail, tail, f"images/{tail}"]
        for path in [os.path.normpath(place) for place in places]:
            if path in self.images:
                return path
        steps = tail.split("/")
        named = self._by_name.get(steps[-1], [])
        alike = [(_shared(path.split("/"), steps), path) for path in named]
        most = max((shared for shared, _ in alike), default=0)
        found = [path for shared, path in alike if shared == most]
        beside = {os.path.normpath(place) for place in (near, f"{near}/images")}
        for is_meant in (
            lambda path: (path.rpartition("/")[0] or ".") in beside,
            lambda path: split is not None and split_of_path(path) == split,
        ):
            if len(found) > 1:
                found = [path for path in found if is_meant(path)] or found
        return found[0] if len(found) == 1 else os.path.normpath(places[0])

    def names(
        self, notes: Notes, *, first: Sequence[str] | None = None
    ) -> tuple[str, ...] | None:
        """Returns the class names that a file lists, one a line.

        Args:
          notes: counts lists that differ from the one that counts.
          first: names that count before those in such files.
        """
        chosen = None if first is None else tuple(first)
        source = "the yaml file"
        for path in self.files:
            if path.rpartition("/")[2].lower() not in _NAME_FILES:
                continue
            lines = [line.strip() for line in self.text(path).splitlines()]
            lines = [line for line in lines if line and not line.startswith("#")]
            if path.lower().endswith("labelmap.txt"):
                lines = [line.partition(":")[0] for line in lines]
                lines = [line for line in lines if line != "background"]
            if not lines:
                continue
            if chosen is None:
                chosen, source = tuple(lines), f"'{path}'"
            elif chosen != tuple(lines):
                order = sorted(chosen) == sorted(lines)
                what = "the same names in another order" if order else "other names"
                one, two = " ".join(chosen), " ".join(lines)
                notes.add(
                    f"lists of class names have {what} than {source} ({one}), which"
                    " counts",
                    f"'{path}' ({two})",
                )
        return chosen


def _annotation_files(root: pathlib.Path, apart: set[pathlib.Path]) -> list[str]:
    found: list[str] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or pathlib.Path(real) in apart:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_left_behind(name))
        for name in names:
            if name.lower().endswith(ANNOTATIONS) and not is_left_behind(name):
                path = pathlib.Path(folder, name).relative_to(root).as_posix()
                found.append(path)
    return sorted(found)


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """Returns how many steps two paths share at their end; file suffixes may differ."""
    count = 1
    for a, b in zip(reversed(one[:-1]), reversed(other[:-1]), strict=False):
        if a != b:
            break
        count += 1
    return count


def split_of(name: str, *, strict: bool = False) -> str | None:
    """Returns the part of a dataset that a file or folder name says, if any.

    Args:
      name: such as ``instances_train2017``.
      strict: whether the name has to say nothing else, as that of a folder.
    """
    words = set(re.findall("[a-z]+", name.lower()))
    kinds = {_SPLITS[word] for word in words if word in _SPLITS}
    other = words - _SPLITS.keys() - _BESIDE
    return None if len(kinds) != 1 or (strict and other) else kinds.pop()


def split_of_path(path: str) -> str | None:
    """Returns the part of a dataset that a file's folders say, if any."""
    found = (split_of(step, strict=True) for step in reversed(path.split("/")[:-1]))
    return next((part for part in found if part), None)

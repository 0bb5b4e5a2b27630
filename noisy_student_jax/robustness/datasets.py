"""Reads the released folders of robustness benchmarks, matched to a model's classes.

- ImageNet-A and -R: ``CLASS/image``, 200 classes named by WordNet id.
- ImageNet-C: ``[GROUP/]CORRUPTION/SEVERITY/CLASS/image``, severities 1–5.
- ImageNet-P: ``[GROUP/]PERTURBATION/CLASS/clip.mp4``, or a folder of frames in place of
  a clip. Folders such as ``gaussian_noise_2`` hold higher difficulties.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

import numpy as np

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError, cause
from noisy_student_jax.data.cache.listing import list_classes
from noisy_student_jax.data.cache.walk import SUFFIXES, is_left_behind
from noisy_student_jax.data.encoded import FolderSource
from noisy_student_jax.images.decode import (
    DEFAULT,
    Decoding,
    UndecodableImageError,
    decode,
)

VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm"}
MAX_FRAMES = 10_000
"""Limit of frames in a clip; those of ImageNet-P have about thirty."""
_WORDNET = re.compile(r"n\d{8}")
_FIRST_WORD = re.compile(r"n\d{8}(?![0-9A-Za-z])")


@dataclasses.dataclass(frozen=True)
class Matched:
    """Class folders matched to a model's classes.

    Attributes:
      index: index of the model's class, by folder name.
      unknown: folders that match no class of the model, sorted.
    """

    index: dict[str, int]
    unknown: tuple[str, ...]

    @property
    def classes(self) -> np.ndarray:
        """Indices of the classes that have a folder, sorted."""
        return np.array(sorted(set(self.index.values())), np.int64)


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip of ImageNet-P.

    Attributes:
      key: class folder and name of the clip.
      label: index of the model's class.
      frames: the video file, or the files of its frames in order.
    """

    key: str
    label: int
    frames: pathlib.Path | tuple[pathlib.Path, ...]


def match(folders: Sequence[str], classes: Sequence[str], place: str) -> Matched:
    """Matches class folders to a model's classes.

    A folder matches the class of the same name or, if it is named by a WordNet id, the
    class whose name begins with that id ("n01440764 tench").

    Args:
      folders: names of class folders.
      classes: names of the model's classes, in index order.
      place: location of the folders, for messages.

    Raises:
      UserError: no folder matches a class, or a folder matches two.
    """
    exact: dict[str, list[int]] = {}
    by_id: dict[str, list[int]] = {}
    for number, name in enumerate(classes):
        exact.setdefault(name, []).append(number)
        if found := _FIRST_WORD.match(name):
            by_id.setdefault(found[0], []).append(number)
    index, unknown = {}, []
    for folder in sorted(folders):
        numbers = exact.get(folder)
        if numbers is None and _WORDNET.fullmatch(folder):
            numbers = by_id.get(folder)
        if numbers is None:
            unknown.append(folder)
        elif len(numbers) > 1:
            raise UserError(
                f"the folder '{printable(folder)}' of '{place}' is of"
                f" {len(numbers)} classes of the model, which have the same name"
            )
        else:
            index[folder] = numbers[0]
    if not index:
        some = ", ".join(f"'{printable(name)}'" for name in unknown[:3])
        raise UserError(
            f"none of the {len(unknown)} folders of '{place}' ({some or 'none'}) is a"
            f" class of the model, whose {len(classes)} are called like"
            f" '{printable(classes[0])}': folders are matched by the whole name, or by"
            " the WordNet id that a class name begins with"
        )
    return Matched(index, tuple(unknown))


def open_classes(
    place: pathlib.Path,
    classes: Sequence[str],
    name: str,
    *,
    decoding: Decoding = DEFAULT,
) -> tuple[FolderSource, Matched, dict[str, int]]:
    """Opens a folder with the structure ``CLASS/image``.

    Args:
      place: the folder of class folders.
      classes: names of the model's classes, in index order.
      name: prefix of the keys.
      decoding: how images are decoded.

    Returns:
      The images of the model's classes, labeled with indices of the model's classes;
      the match of folders and classes; and the number of omitted files by reason.

    Raises:
      UserError: as `match` and `listing.list_classes`.
    """
    folders = folders_in(place)
    matched = match(folders, classes, printable(str(place)))
    listing = list_classes(place, classes=folders)
    assert listing.labels is not None, "a listing of classes is labeled"
    table = np.array([matched.index.get(folder, -1) for folder in folders])
    labels = table[listing.labels]
    left_out = dict(listing.left_out)
    for folder in matched.unknown:
        count = int((listing.labels == folders.index(folder)).sum())
        left_out[f"images of '{printable(folder)}', no class of the model"] = count
    source = FolderSource(
        dataclasses.replace(listing, labels=labels), name, decoding=decoding
    )
    if not (labels >= 0).any():
        raise UserError(
            f"'{printable(str(place))}' holds no images of the model's classes"
        )
    return source.subset(np.flatnonzero(labels >= 0)), matched, left_out


def find_kinds(
    place: pathlib.Path, wanted: Sequence[str]
) -> tuple[dict[str, pathlib.Path], tuple[str, ...]]:
    """Finds the folder of each corruption or perturbation, directly or in a group.

    Args:
      place: the released folder, whole or in part.
      wanted: names of the kinds.

    Returns:
      Folders by kind, in the order of `wanted`; and the sorted names of all other
      folders beside them or in groups without any kind.

    Raises:
      UserError: the folder does not exist, holds none of the kinds, or one twice.
    """
    _must_be_folder(place)
    found: dict[str, pathlib.Path] = {}
    others = []

    def take(folder: pathlib.Path) -> None:
        if folder.name in found:
            raise UserError(
                f"'{printable(str(place))}' holds '{folder.name}' twice, as"
                f" '{printable(str(found[folder.name]))}' and"
                f" '{printable(str(folder))}': give a folder that holds it once"
            )
        found[folder.name] = folder

    for name in folders_in(place):
        if name in wanted:
            take(place / name)
            continue
        inside = folders_in(place / name)
        own = [one for one in inside if one in wanted]
        for one in own:
            take(place / name / one)
        others += [f"{name}/{one}" for one in inside if one not in own] if own else []
        others += [] if own else [name]
    if not found:
        raise UserError(
            f"'{printable(str(place))}' holds none of the {len(wanted)} folders"
            f" {wanted[0]}, {wanted[1]}, …, neither in it nor one folder deeper: give"
            " the folder that the released archives were unpacked into"
        )
    return {kind: found[kind] for kind in wanted if kind in found}, tuple(others)


def list_clips(
    place: pathlib.Path, classes: Sequence[str]
) -> tuple[list[Clip], dict[str, int]]:
    """Lists the clips ``CLASS/clip.mp4`` and ``CLASS/clip/frame.png`` of a folder.

    Returns:
      The clips of the model's classes, sorted by class and name; and the number of
      omitted files by reason.

    Raises:
      UserError: as `match`, or there are no clips.
    """
    folders = folders_in(place)
    matched = match(folders, classes, printable(str(place)))
    clips: list[Clip] = []
    left_out: dict[str, int] = {}
    for folder in matched.unknown:
        count = sum(1 for one in (place / folder).iterdir() if _may_be_clip(one))
        left_out[f"clips of '{printable(folder)}', no class of the model"] = count
    for folder, label in matched.index.items():
        for one in sorted((place / folder).iterdir()):
            if not _may_be_clip(one):
                why = f"files that are no clips ({one.suffix or 'no suffix'})"
                left_out[why] = left_out.get(why, 0) + 1
                continue
            frames = _frames_of(one) if one.is_dir() else one
            clips.append(Clip(f"{folder}/{one.name}", label, frames))
    if not clips:
        raise UserError(
            f"'{printable(str(place))}' holds no clips: they are .mp4 files, or folders"
            " of frames, in class folders"
        )
    return clips, left_out


def read_clip(clip: Clip) -> list[np.ndarray]:
    """Decodes a clip's frames, uint8 ``[height, width, 3]`` each.

    Raises:
      UndecodableImageError: a frame cannot be decoded, or there are fewer than two.
      UserError: PyAV, which reads videos, is not installed.
    """
    if isinstance(clip.frames, pathlib.Path):
        frames = list(_of_video(clip.frames))
    else:
        frames = [decode(path) for path in clip.frames]
    if len(frames) < 2:
        raise UndecodableImageError(f"{len(frames)} frames, at least two are needed")
    return frames


def _of_video(path: pathlib.Path) -> Iterator[np.ndarray]:
    try:
        import av
    except ImportError as error:
        raise UserError(
            "reading the clips of ImageNet-P needs PyAV: pip install"
            " 'noisy-student-jax[robustness]', or give folders of frames"
        ) from error
    try:
        with av.open(str(path)) as video:
            for number, frame in enumerate(video.decode(video=0)):
                if number == MAX_FRAMES:
                    raise UndecodableImageError(f"more than {MAX_FRAMES:,} frames")
                yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise UndecodableImageError(f"broken video: {cause(error)}") from error


def _may_be_clip(path: pathlib.Path) -> bool:
    if path.name.startswith("."):
        return False
    return path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES


def _frames_of(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    frames = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES]
    return tuple(sorted(frames, key=_by_number))


def _by_number(path: pathlib.Path) -> list[tuple[int, int | str]]:
    """Returns a sort key that puts frame 2 before frame 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(p)) if p.isdecimal() else (1, p) for p in parts if p]


def folders_in(place: pathlib.Path) -> list[str]:
    """Returns the sorted names of the subfolders of a folder, without hidden ones.

    Raises:
      UserError: the path is not a folder.
    """
    _must_be_folder(place)
    return sorted(
        path.name
        for path in place.iterdir()
        if path.is_dir() and not is_left_behind(path.name)
    )


def _must_be_folder(place: pathlib.Path) -> None:
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        raise UserError(f"'{printable(str(place))}' {what}: give a folder of images")

"""Opens a user's source: a folder, a CSV list, TFRecord files or a TFDS dataset."""

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from noisy_student_jax.core import console, files
from noisy_student_jax.core.console import Progress, printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.protocols import DivisibleSource, Source
from noisy_student_jax.data import index
from noisy_student_jax.data.annotations.listing import list_boxes
from noisy_student_jax.data.cache.build import PrepareOptions, open_prepared, prepare
from noisy_student_jax.data.cache.listing import Listing, list_classes, list_images
from noisy_student_jax.data.cache.walk import safe_text
from noisy_student_jax.data.encoded import EncodedSource, FolderSource
from noisy_student_jax.data.labels import are_boxes, records_with, totals
from noisy_student_jax.data.sources import Listed
from noisy_student_jax.data.splits import LABELED
from noisy_student_jax.images.decode import (
    ANY,
    Decoding,
    UndecodableImageError,
    read,
)
from noisy_student_jax.images.samples import Scale

STREAMED = ("tfds:", "tfrecord:")
BOXES = "boxes"
"""The dataset whose labeled images have boxes."""
FOLDERS = ("own", BOXES)
"""The datasets of a user's own images."""
_SIDE = "side_"
_NAMED = 12
HASHED_FILES, HASHED_BYTES = 20_000, 1 << 30
"""Files and bytes of a source up to which looking at it reads contents, from which
parts and copies follow."""


def absolute(place: str) -> str:
    """Returns a source's place in a form that does not depend on the current folder."""
    kind, colon, rest = place.partition(":")
    if place.startswith("tfrecord:"):
        return f"{kind}{colon}{pathlib.Path(rest).expanduser().absolute()}"
    if place.startswith(STREAMED):
        return place
    return str(pathlib.Path(place).expanduser().absolute())


@dataclasses.dataclass(frozen=True)
class Opened:
    """A user's source, with the facts that splitting and deduplication need.

    Attributes:
      name: the source's key in the config, such as ``labeled``.
      whole: the source.
      content: per record, a hash that equal images share: the SHA-256 of the file, or
        of its location if files are streamed.
      dealt_by: per record, the hash that assigns it to a split: of its content, or of
        its key if files are streamed.
      labels: ``[records, …]``, see `data.labels`; None without labels.
      classes: class names in index order.
      pixels: per record, a hash that images of equal pixels share; None for images that
        were not read beforehand.
      looks: uint64 ``[records]``, the `perceptual_hash` of each; None likewise.
      side: shorter side of prepared images, in pixels; None likewise.
      left_out: number of entries that are no images, by kind.
      quarantined: key of each unusable record, and why it cannot be used.
      unusable: number of unusable records by class, where their class is known.
      rows: records of `whole` that are included; None for all.
      counted: how records that have not been read beforehand were counted, as a phrase.
      parts: the part of the dataset that each record is for, ``[records]``, if the
        source comes with splits.
      facts: what is counted about the labels.
    """

    name: str
    whole: DivisibleSource
    content: list[str]
    dealt_by: list[str]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    pixels: list[str] | None = None
    looks: np.ndarray | None = None
    side: int | None = None
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    quarantined: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    unusable: dict[int, int] = dataclasses.field(default_factory=dict)
    rows: np.ndarray | None = None
    counted: str | None = None
    parts: np.ndarray | None = None
    facts: dict[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.content)

    @property
    def known_labels(self) -> np.ndarray:
        """The labels of labeled records, ``[records, …]``."""
        assert self.labels is not None, "labeled images are opened with their labels"
        return self.labels

    def key(self, index: int) -> str:
        """Returns a record's key."""
        return self.whole.key(index if self.rows is None else int(self.rows[index]))

    def subset(self, indices: np.ndarray) -> "Opened":
        """Returns a subset of the records."""
        return dataclasses.replace(
            self,
            content=[self.content[index] for index in indices],
            dealt_by=[self.dealt_by[index] for index in indices],
            labels=None if self.labels is None else self.labels[indices],
            pixels=self.pixels and [self.pixels[index] for index in indices],
            looks=None if self.looks is None else self.looks[indices],
            rows=indices if self.rows is None else self.rows[indices],
            parts=None if self.parts is None else self.parts[indices],
        )

    def by_part(self) -> dict[str, "Opened"]:
        """Returns the records of each part that the source has splits for."""
        if self.parts is None:
            return {LABELED: self}
        names = {LABELED, *self.parts.tolist()}
        return {
            name: self.subset(np.flatnonzero(self.parts == name))
            for name in sorted(names)
        }

    def without_labels(self) -> "Opened":
        """Returns the records as unlabeled ones."""
        return dataclasses.replace(self, labels=None, parts=None)

    def alone(self, index: int) -> Source:
        """Returns one record as a source."""
        return self.subset(np.array([index])).source(labeled=False)

    def source(self, *, labeled: bool = True) -> Source:
        """Returns the records as a source, without labels unless `labeled`."""
        rows = np.arange(len(self)) if self.rows is None else self.rows
        return self.whole.subset(rows, labeled=labeled)


class Opener:
    """Opens the sources that a config's ``data`` section names."""

    def __init__(
        self,
        data: ConfigDict,
        interruption: Interruption,
        progress: Progress,
        *,
        look_only: bool,
        announce: bool,
    ):
        """Opens nothing yet.

        Args:
          data: the section.
          interruption: polled while images are prepared.
          progress: updated while images are prepared.
          look_only: whether to count unprepared images without reading them.
          announce: whether to say how many images each source has, of which classes.
        """
        self._data = data
        self._interruption, self._progress = interruption, progress
        self._look_only, self._announces = look_only, announce
        self._decoding = Decoding(max_pixels=data.max_pixels, scales=_given(data))
        learned = (data.sources.labeled, data.sources.unlabeled)
        # All of a batch's images come from the same input pipeline.
        self._streams = data.pipeline == "streamed" or any(
            place and place.startswith(STREAMED) for place in learned
        )

    def open(self, name: str, *, classes: Sequence[str] | None = None) -> Opened:
        """Opens one source.

        Args:
          name: its key in the config.
          classes: class names that its labels must be among; None to infer them.
        """
        place = self._data.sources[name]
        labeled = name != "unlabeled"
        if place.startswith(STREAMED):
            return self._streamed(name, place, classes, labeled=labeled)
        path = pathlib.Path(place).expanduser()
        apart = [pathlib.Path(self._data.cache)]
        if own := self._data.get("workdir"):
            apart.append(pathlib.Path(own))
        if labeled and self._data.name == BOXES:
            # Whatever else is given may lie in the folder.
            others = [one for key, one in self._data.sources.items() if key != name]
            apart += [pathlib.Path(one).expanduser() for one in others if one]
            cache = pathlib.Path(self._data.cache)
            keep = functools.partial(
                index.kept,
                self._index_folder(name),
                writes=not self._look_only and files.is_writable(cache),
            )
            listing = list_boxes(path, classes=classes, apart=apart, keep=keep)
        elif labeled:
            listing = list_classes(path, classes=classes, apart=apart)
        else:
            listing = list_images(path, apart=apart)
        self._announce(name, len(listing), listing.labels, listing.classes)
        for line in listing.told if self._announces else ():
            console.say_once(f"  {name}: {line}")
        if self._streams:
            source = FolderSource(
                listing, name, self._index_folder(name), self._decoding
            )
            return Opened(
                name=name,
                whole=source,
                content=_places(source),
                dealt_by=_keys(source),
                labels=source.labels,
                classes=listing.classes,
                left_out=listing.left_out,
                parts=listing.parts,
                facts=listing.facts,
            )
        return self._prepared(name, listing)

    def _prepared(self, name: str, listing: Listing) -> Opened:
        data = self._data
        # Equal relative paths under another root are other files.
        own = f"{name}-{_hashed(safe_text(str(listing.root.resolve())))[:8]}"
        folder = _cache_folder(pathlib.Path(data.cache), own, data.side)
        options = PrepareOptions(
            side=int(folder.parent.name.removeprefix(_SIDE)),
            max_quarantined=data.max_quarantined,
            workers=data.workers,
            decoding=self._decoding,
        )
        cache = pathlib.Path(data.cache)
        if self._look_only:
            source = open_prepared(listing, folder, options, name=name)
            if source is None:
                return _estimate(name, listing, self._interruption)
        else:
            self._progress.begin(f"preparing {name}", work=0.0)
            with self._locked(cache):
                source = prepare(
                    listing,
                    folder,
                    options,
                    name=name,
                    interruption=self._interruption,
                    progress=self._progress,
                )
        # All sources have the scales of the first one that needs them.
        scales = {**source.scales, **self._decoding.scales}
        self._decoding = dataclasses.replace(self._decoding, scales=scales)
        return Opened(
            name=name,
            whole=source,
            content=source.sha256,
            dealt_by=source.sha256,
            labels=source.labels,
            classes=listing.classes,
            pixels=source.pixel_hashes,
            looks=source.looks,
            side=options.side,
            left_out=listing.left_out,
            quarantined=[(f"{name}/{path}", why) for path, why in source.quarantined],
            unusable=_unusable(listing, source.labels),
            parts=source.parts,
            facts=listing.facts,
        )

    def _locked(self, cache: pathlib.Path) -> contextlib.AbstractContextManager[None]:
        """Locks a cache, and waits while another process prepares images in it.

        A cache that cannot be written is complete, or of no use; it needs no lock.
        """
        if not files.is_writable(cache):
            return contextlib.nullcontext()

        def waiting() -> None:
            console.say_once(
                "waiting for another process, which is preparing images in"
                f" '{printable(str(cache))}' (or give another --config.data.cache)"
            )
            self._interruption.check()

        return files.lock(cache, waiting=waiting)

    def _announce(
        self, name: str, count: int, labels: np.ndarray | None, classes: Sequence[str]
    ) -> None:
        if self._announces:
            console.say_once(f"{name}: {_told_classes(count, labels, classes)}")

    def _index_folder(self, name: str) -> pathlib.Path:
        return pathlib.Path(self._data.cache) / "index" / name

    def _streamed(
        self,
        name: str,
        place: str,
        classes: Sequence[str] | None,
        *,
        labeled: bool,
    ) -> Opened:
        kind, _, rest = place.partition(":")
        index_folder = self._index_folder(name)
        if not files.exists(index_folder):
            what = "their offsets and labels" if labeled else "their offsets"
            console.say(f"looking up the records of {name}, once: {what}")
        features = {
            feature: own
            for feature, own in (
                ("image", self._data.image_feature),
                ("label", self._data.label_feature),
            )
            if own is not None
        }
        # TensorFlow is slow to import and optional.
        if kind == "tfds":
            from noisy_student_jax.data.streaming.tfds import tfds_source

            source = tfds_source(
                rest,
                name=name,
                labeled=labeled,
                classes=classes,
                index_folder=index_folder,
                decoder=self._data.decoder,
                decoding=self._decoding,
                **features,
            )
        else:
            from noisy_student_jax.data.streaming.records import Features
            from noisy_student_jax.data.streaming.tfrecord import TFRecordSource

            layout = Features(**features, first_label=self._data.first_label)
            source = TFRecordSource(
                rest,
                index_folder,
                name=name,
                labeled=labeled,
                classes=classes,
                features=layout,
                decoder=self._data.decoder,
                decoding=self._decoding,
            )
        self._announce(name, len(source), source.labels, source.classes)
        opened = Opened(
            name=name,
            whole=source,
            content=_places(source),
            dealt_by=_keys(source),
            labels=source.labels,
            classes=tuple(source.classes),
        )
        if source.labels is None:
            return opened
        return _without_unreadable(opened, source, source.labels)


def _told_classes(count: int, labels: np.ndarray | None, classes: Sequence[str]) -> str:
    """Describes a source by its size and the sizes of its classes."""
    told = f"{count:,} images"
    if labels is None:
        return told
    sizes = totals(labels, len(classes)).tolist()
    if are_boxes(labels):
        told += f" with {sum(sizes):,} boxes"
    there = [(printable(name), size) for name, size in zip(classes, sizes, strict=True)]
    some = [(name, size) for name, size in there if size]
    named = ", ".join(f"{name} {size:,}" for name, size in some[:_NAMED])
    if len(some) > _NAMED:
        fewest, most = min(size for _, size in some), max(size for _, size in some)
        named += f", … (from {fewest:,} to {most:,} images each)"
    told += f" of {len(some):,} classes: {named}"
    if bare := [name for name, size in there if not size]:
        more = f" and {len(bare) - _NAMED:,} more" if len(bare) > _NAMED else ""
        told += f"; none of {', '.join(bare[:_NAMED])}{more}"
    return told


def _unusable(listing: Listing, usable: np.ndarray | None) -> dict[int, int]:
    """Counts the unusable files of each class that has some."""
    if listing.labels is None or usable is None:
        return {}
    listed, left = (
        records_with(labels, len(listing.classes))
        for labels in (listing.labels, usable)
    )
    lost = (listed - left).tolist()
    return {label: count for label, count in enumerate(lost) if count}


def _given(data: ConfigDict) -> dict[str, Scale]:
    """Returns the scale that the config gives, if any."""
    if data.scale is None:
        return {}
    if len(data.scale) != 2 or not data.scale[0] < data.scale[1]:
        raise UserError(
            f"config.data.scale is {tuple(data.scale)}, but has to be two values, the"
            " first of which becomes black and the second, which is larger, white"
        )
    black, white = data.scale
    return {ANY: (float(black), float(white))}


def _without_unreadable(
    opened: Opened, source: EncodedSource, labels: np.ndarray
) -> Opened:
    """Leaves out labeled records whose label could not be read, and names them."""
    bad = np.flatnonzero(labels < 0)
    if not len(bad):
        return opened
    status = source.read_encoded(bad.tolist()).status
    named = [(opened.key(i), why) for i, why in zip(bad.tolist(), status, strict=True)]
    kept = opened.subset(np.flatnonzero(labels >= 0))
    return dataclasses.replace(kept, quarantined=named)


def _estimate(name: str, listing: Listing, interruption: Interruption) -> Opened:
    """Opens images that have not been prepared, without decoding any."""
    keys = [f"{name}/{path}" for path in listing.paths]
    hashes = [_hashed(safe_text(key)) for key in keys]
    good, quarantined = np.arange(len(listing)), []
    counted = "estimated by the names of files, before images are read"
    if len(listing) <= HASHED_FILES and listing.sizes.sum() <= HASHED_BYTES:
        counted = "counted before images are decoded"
        for row, path in enumerate(listing.paths):
            interruption.check()
            try:
                hashes[row] = hashlib.sha256(read(listing.root / path)).hexdigest()
            except UndecodableImageError as error:
                quarantined.append((row, str(error)))
        good = np.setdiff1d(good, [row for row, _ in quarantined])
    labels = None if listing.labels is None else listing.labels[good]
    content = [hashes[row] for row in good]
    return Opened(
        name=name,
        whole=Listed([keys[row] for row in good], labels),
        content=content,
        dealt_by=content,
        labels=labels,
        classes=listing.classes,
        left_out=listing.left_out,
        quarantined=[(keys[row], why) for row, why in quarantined],
        unusable=_unusable(listing, labels),
        counted=counted,
        parts=None if listing.parts is None else listing.parts[good],
        facts=listing.facts,
    )


def _keys(source: EncodedSource) -> list[str]:
    return [_hashed(source.key(index)) for index in range(len(source))]


def _places(source: EncodedSource) -> list[str]:
    """Hashes each record's location, which does not depend on the source's name."""
    return [_hashed(source.place(index)) for index in range(len(source))]


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _cache_folder(cache: pathlib.Path, name: str, side: int) -> pathlib.Path:
    """Returns the cache of this side, or the smallest existing one of a larger side."""
    made = []
    for folder in files.list_folder(cache, pattern=f"{_SIDE}*"):
        found = folder.name.removeprefix(_SIDE)
        if found.isdigit() and int(found) >= side and files.exists(folder / name):
            made.append(int(found))
    return cache / f"{_SIDE}{min(made, default=side)}" / name

"""Several sources as one."""

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np

from noisy_student_jax.core.protocols import Examples, Source
from noisy_student_jax.data.sources import fingerprint
from noisy_student_jax.images.samples import Scale


class JoinedSource:
    """Unlabeled records of several sources, one source after the other."""

    labels = None

    def __init__(self, sources: Sequence[Source]):
        """Takes the sources; keys have to be unique over all of them."""
        self._sources = list(sources)
        sizes = [len(source) for source in self._sources]
        self._first = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return int(self._first[-1])

    def _place(self, index: int) -> tuple[int, int]:
        """Returns which source a record is in, and its index there."""
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        return number, int(index - self._first[number])

    def key(self, index: int) -> str:
        """See `Source`."""
        number, own = self._place(index)
        return self._sources[number].key(own)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the sources' fingerprints."""
        digest = hashlib.sha256()
        for source in self._sources:
            digest.update(fingerprint(source).encode() + b"\0")
        return digest.hexdigest()

    @property
    def scales(self) -> dict[str, Scale]:
        """The scales of images that were decoded by one, of all sources."""
        scales: dict[str, Scale] = {}
        for source in self._sources:
            scales |= getattr(source, "scales", {})
        return scales

    @property
    def pixel_hashes(self) -> list[str]:
        """The `pixel_hash` of each image; the sources are prepared."""
        each = (source.pixel_hashes for source in self._sources)  # type: ignore[attr-defined]
        return list(itertools.chain.from_iterable(each))

    def read(self, indices: Sequence[int]) -> Examples:
        """See `Source`."""
        places = [self._place(int(index)) for index in indices]
        images: list[np.ndarray | None] = [None] * len(places)
        status = [""] * len(places)
        for number, source in enumerate(self._sources):
            at = [n for n, (which, _) in enumerate(places) if which == number]
            if at:
                found = source.read([places[n][1] for n in at])
                for n, image, how in zip(at, found.images, found.status, strict=True):
                    images[n], status[n] = image, how
        return Examples(images, status, None)

"""Annotated images as a source that decodes its files when they are read."""

import hashlib
from collections.abc import Sequence

import numpy as np

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Examples
from noisy_student_jax.data import labels
from noisy_student_jax.data.annotations.structure import Annotated
from noisy_student_jax.data.cache.walk import safe_text, shown
from noisy_student_jax.images.decode import Decoding, UndecodableImageError, decode


class AnnotatedSource:
    """The images of a folder whose boxes are known."""

    def __init__(self, given: Annotated, name: str, *, side: int, decoding: Decoding):
        """Decodes nothing yet.

        Args:
          given: the annotations.
          name: prefix of all keys.
          side: shorter side that suffices, in pixels; larger images may be reduced.
          decoding: how images are decoded.

        Raises:
          UserError: no image has annotations.
        """
        self._images = [image for image in given.images if image.annotated]
        if not self._images:
            raise UserError(f"'{shown(given.root)}' has no image whose boxes are known")
        self._root, self._name = given.root, name
        self._side, self._decoding = side, decoding
        self.labels = labels.of_boxes(
            [image.boxes for image in self._images],
            [image.classes for image in self._images],
            [image.kinds for image in self._images],
            [image.size for image in self._images],
        )

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        """See `Source`."""
        return f"{self._name}/{safe_text(self._images[index].path)}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over keys and labels."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(self.key(index).encode() + b"\0")
        digest.update(labels.bytes_of(self.labels))
        return digest.hexdigest()

    def read(self, indices: Sequence[int]) -> Examples:
        """See `Source`."""
        images: list[np.ndarray | None] = []
        status = []
        for index in indices:
            path = self._root / self._images[index].path
            try:
                image = decode(path, shorter_side=self._side, decoding=self._decoding)
            except UndecodableImageError as error:
                images.append(None)
                status.append(str(error))
            else:
                images.append(image)
                status.append("ok")
        return Examples(images, status, self.labels[np.asarray(indices, int)])

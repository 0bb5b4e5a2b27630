"""The 15 corruptions at 5 severities for any images, reproducibly.

They come from the package `imagecorruptions-imaug`, a maintained fork of the Bethge
Lab's `imagecorruptions`, which extends the code of ImageNet-C to images of any size of
at least 32 pixels. The results are not comparable with ImageNet-C, whose released JPEG
files are the benchmark: the package blurs motion and stretches pixels differently.
"""

import contextlib
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from noisy_student_jax.core.errors import UserError, one_line
from noisy_student_jax.core.protocols import Examples, Source

PACKAGE = "imagecorruptions-imaug"
SMALLEST, LARGEST = 32, 224
"""Limits of the shorter side in pixels: the package's minimum, ImageNet-C's side."""
_OWN_SEED = ("impulse_noise", "glass_blur")
"""Corruptions that take a seed rather than draw from NumPy's global state."""

Corrupt = Callable[..., np.ndarray]


def load() -> Corrupt:
    """Returns the package's function that corrupts an image.

    Raises:
      UserError: the package is not installed.
    """
    try:
        from imagecorruptions import corrupt
    except ImportError as error:
        raise UserError(
            "--suite=corruptions needs the package that makes them: pip install"
            f" 'noisy-student-jax[robustness]' ({one_line(error)})"
        ) from error
    return corrupt


def version() -> str:
    """Returns the name and version of the package that makes the corruptions."""
    for name in (PACKAGE, "imagecorruptions"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {importlib.metadata.version(name)}"
    return "imagecorruptions, of no known version"


class CorruptedSource:
    """A source of corrupted images.

    The corruption of an image depends only on its key, the corruption and the severity,
    not on the model, the other images of its batch or any config.
    """

    def __init__(self, source: Source, corruption: str, severity: int):
        """Wraps a source; raises UserError if the package is missing."""
        self._source = source
        self._corruption, self._severity = corruption, severity
        self._corrupt = load()

    def __len__(self) -> int:
        return len(self._source)

    def key(self, index: int) -> str:
        """See `Source`."""
        return self._source.key(index)

    def read(self, indices: Sequence[int]) -> Examples:
        """See `Source`."""
        found = self._source.read(indices)
        with _global_state_kept():
            images = [
                None if image is None else self._one(image, self.key(int(index)))
                for index, image in zip(indices, found.images, strict=True)
            ]
        return Examples(images, found.status, found.labels)

    def _one(self, image: np.ndarray, key: str) -> np.ndarray:
        text = f"{self._corruption}\0{self._severity}\0{key}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        # The package draws from NumPy's global state.
        np.random.seed(seed)
        own = {"seed": seed} if self._corruption in _OWN_SEED else {}
        return self._corrupt(
            resized_to_fit(image),
            severity=self._severity,
            corruption_name=self._corruption,
            **own,
        )


def resized_to_fit(image: np.ndarray) -> np.ndarray:
    """Resizes an image so that its shorter side is between 32 and 224 pixels.

    The aspect ratio is kept. Corruptions are defined in pixels: on a photograph of 12
    megapixels they would be invisible, whereas models read images about as large as
    those of ImageNet-C.

    Args:
      image: uint8 ``[height, width, 3]``.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    wanted = min(max(short, SMALLEST), LARGEST)
    if wanted == short:
        return np.ascontiguousarray(image)
    size = (round(width * wanted / short), round(height * wanted / short))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


@contextlib.contextmanager
def _global_state_kept() -> Iterator[None]:
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)

"""The 15 corruptions at 5 severities, made of any image, the same every time.

Made by the package `imagecorruptions-imaug`, a kept fork of the Bethge Lab's
`imagecorruptions`, itself the code of ImageNet-C for images of any size of at least 32
pixels. These are never to be compared with ImageNet-C, whose released JPEG files are
the benchmark: the package blurs motion, and stretches pixels, in other ways.
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
"""Of the shorter side that is corrupted: the package's least, and ImageNet-C's."""
_OWN_SEED = ("impulse_noise", "glass_blur")
"""Corruptions that do not draw from NumPy's global state, but take a seed."""

Corrupt = Callable[..., np.ndarray]


def load() -> Corrupt:
    """Imports the package's function.

    Raises:
      UserError: it is not installed.
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
    """Returns name and version of the package that makes the corruptions."""
    for name in (PACKAGE, "imagecorruptions"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {importlib.metadata.version(name)}"
    return "imagecorruptions, of no known version"


class CorruptedSource:
    """A source whose images are corrupted, each in a way of its own.

    What happens to an image follows from its key, the corruption and the severity
    alone: not from the model, nor from the images beside it, nor from any config.
    """

    def __init__(self, source: Source, corruption: str, severity: int):
        """Corrupts nothing yet; raises UserError if the package is missing."""
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
        # The package knows no other way than NumPy's global state.
        np.random.seed(seed)
        own = {"seed": seed} if self._corruption in _OWN_SEED else {}
        return self._corrupt(
            brought_to_size(image),
            severity=self._severity,
            corruption_name=self._corruption,
            **own,
        )


def brought_to_size(image: np.ndarray) -> np.ndarray:
    """Brings the shorter side to between 32 and 224 pixels; the aspect is kept.

    A corruption's strength is told in pixels: on a photograph of 12 megapixels it
    would not be seen, and what a model sees of one is as large as ImageNet-C's.

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

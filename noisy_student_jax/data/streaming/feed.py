"""A feed of encoded images, decoded and augmented by tf.data.

Randomness depends on positions alone, so order and noise equal those of the other
input pipelines and do not depend on thread timing. The feed starts at any step, and
has no state to save.
"""

import dataclasses

import numpy as np

from noisy_student_jax.augment import host_draws
from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.core.sharding import local_rows
from noisy_student_jax.data.encoded import is_encoded
from noisy_student_jax.data.pipelines.host_fed import CroppingFeed, Fed
from noisy_student_jax.data.streaming.decoding import View
from noisy_student_jax.data.streaming.images import ImageStream, Wanted
from noisy_student_jax.images.preprocessing import Preprocessing


@dataclasses.dataclass(eq=False)
class StreamingFeed(CroppingFeed):
    """Reads images of encoded sources (`EncodedSource`), a few steps ahead.

    Attributes:
      noised: whether to apply the input noise on the host, and not only the crops.
    """

    preprocessing: Preprocessing
    _: dataclasses.KW_ONLY
    noised: bool = True

    def __post_init__(self):
        """Starts nothing before the first call."""
        super().__post_init__()
        self._next: int | None = None
        self._images: list[ImageStream] = []

    def __call__(self, step: int) -> list[Fed]:
        """See `Feed`; steps that are not consecutive are allowed, but slow."""
        try:
            if step != self._next:
                self.close()
                self._images = [self._stream(n, step) for n in range(len(self.streams))]
            fed = [self._fed(number) for number in range(len(self.streams))]
        except BaseException:
            self.close()
            raise
        self._next = step + 1
        return fed

    def close(self) -> None:
        """See `Feed`."""
        self._next = None
        for images in self._images:
            images.close()
        self._images = []

    def _fed(self, number: int) -> Fed:
        images, status = self._images[number].take(self._share(number))
        return Fed(images["image"], status, images.get("teacher_image"))

    def _stream(self, number: int, step: int) -> ImageStream:
        """Starts the images of a stream at a step."""
        stream, share = self.streams[number], self._share(number)
        assert is_encoded(stream.source), "a streaming feed is made for encoded sources"
        views = {"image": View(self.preprocessing, trained_on=True)}
        if stream.teacher:
            views["teacher_image"] = View(stream.teacher, trained_on=True)
        noise = stream.noise.input if self.noised else InputNoise()
        side, size = self.preprocessing.resolution, self._draws.sizes[number]
        noise.check(height=side, width=side)
        first = local_rows(self.mesh, size).start

        def position(numbers: np.ndarray) -> np.ndarray:
            return size * (numbers // share) + first + numbers % share

        def wanted(numbers: np.ndarray) -> Wanted:
            positions = position(numbers)
            draws = host_draws.draw(
                **self._numbers,
                stream=number,
                positions=positions,
                noise=noise,
                height=side,
                width=side,
            )
            return Wanted(self._draws.at(number, positions).records, draws)

        def boxes(
            numbers: np.ndarray, heights: np.ndarray, widths: np.ndarray
        ) -> np.ndarray:
            return self._boxes(number, position(numbers), heights, widths)

        return ImageStream(
            stream.source,
            views,
            wanted,
            batch=share,
            first=step * share,
            boxes=boxes if stream.noise.input.crop_area else None,
            noise=noise,
            decoder=self.decoder,
        )

    def _share(self, number: int) -> int:
        """Returns the number of a stream's images that this host feeds in a step."""
        rows = local_rows(self.mesh, self._draws.sizes[number])
        return rows.stop - rows.start

"""The random numbers of input noise, drawn on the host in NumPy.

They equal those that ``noise.py`` draws on the device for the same example, so a
pipeline that augments on the host produces the same pixels.
"""

import numpy as np

from noisy_student_jax.augment import randaugment_table as table
from noisy_student_jax.augment import threefry
from noisy_student_jax.augment.input_noise import (
    CROP,
    CUTOUT,
    FLIP,
    RANDAUGMENT,
    InputNoise,
)


def draw(
    seed: int,
    generation: int,
    stream: int,
    positions: np.ndarray,
    noise: InputNoise,
    *,
    height: int,
    width: int,
) -> dict[str, np.ndarray]:
    """Draws the random numbers of the enabled sources, for examples of one stream.

    Args:
        seed: the run's seed.
        generation: 0 for the first teacher.
        stream: `LABELED` or `PSEUDO` of ``core/types.py``.
        positions: int64 `[batch]`, positions in the stream's order.
        noise: the noise to draw for.
        height: of the augmented images.
        width: of the augmented images.

    Returns:
        A dictionary of arrays with a leading batch axis:

        - ``flip``: bool `[batch]`, whether to flip.
        - ``randaugment_op``: int32 `[batch, layers]`, the row of the table;
          ``randaugment_negative``: bool, whether a signed argument is negated;
          ``randaugment_row`` and ``randaugment_column``: int32, the center of Cutout.
        - ``cutout``: int32 `[batch, 2]`, row and column of the square's center.
        - ``crop``: int32 `[batch, 2]`, top and left of the crop in the padded image.
    """
    keys = example_keys(seed, generation, stream, positions)

    def place(source: int, rows: int, columns: int) -> np.ndarray:
        words = threefry.bits(threefry.fold_in(keys, source), 2)
        return (words % np.array([rows, columns], np.uint32)).astype(np.int32)

    draws: dict[str, np.ndarray] = {}
    if noise.flip:
        words = threefry.bits(threefry.fold_in(keys, FLIP), 2)
        draws["flip"] = words[:, 0] % 2 == 1
    if noise.randaugment_layers:
        own = threefry.fold_in(keys, RANDAUGMENT)
        layers = np.arange(noise.randaugment_layers)
        words = threefry.bits(threefry.fold_in(own[:, None], layers), 4)
        counts = np.array([len(table.OPS), 2, height, width], np.uint32)
        op, negative, row, column = np.moveaxis((words % counts).astype(np.int32), 2, 0)
        draws["randaugment_op"] = op
        draws["randaugment_negative"] = negative == 1
        draws["randaugment_row"] = row
        draws["randaugment_column"] = column
    if noise.cutout_size:
        draws["cutout"] = place(CUTOUT, height, width)
    if noise.crop_padding:
        offsets = 2 * noise.crop_padding + 1
        draws["crop"] = place(CROP, offsets, offsets)
    return draws


def example_keys(
    seed: int, generation: int, stream: int, positions: np.ndarray
) -> np.ndarray:
    """Returns the keys of a stream's examples, equal to ``noise.example_keys``.

    Args:
        seed: the run's seed.
        generation: 0 for the first teacher.
        stream: `LABELED` or `PSEUDO` of ``core/types.py``.
        positions: int64 `[batch]`, positions in the stream's order.

    Returns:
        uint32 `[batch, 2]`.
    """
    positions = np.asarray(positions, np.int64)
    base = threefry.fold_in(threefry.key(seed), generation)
    base = threefry.fold_in(base, stream)
    keys = threefry.fold_in(base, positions >> 32)
    return threefry.fold_in(keys, positions & 0xFFFFFFFF)

"""Datasets: sources of records, their splits, and pipelines over them.

A dataset is found by name in `DATASETS`, or by ``package.module:function``. The
function takes the config's ``data`` section and the keyword ``seed``, and returns a
`Dataset`. A function that runs for long may also take ``interruption`` and
``progress``, ``look_only`` (count records without reading images) and ``believe``
(assume the sizes in the config for data that are not on this machine).
"""

import inspect
from typing import TYPE_CHECKING, Any

from noisy_student_jax.core.registry import find, make
from noisy_student_jax.data.sources import Dataset

if TYPE_CHECKING:
    # Decoding workers import this package, and no config.
    from ml_collections import ConfigDict

DATASETS = {
    "digits": "noisy_student_jax.data.digits:digits",
    "own": "noisy_student_jax.data.image_folder:own",
    "boxes": "noisy_student_jax.data.image_folder:boxes",
}

__all__ = ["DATASETS", "Dataset", "load"]


def load(data: "ConfigDict", *, seed: int, **helpers: Any) -> Dataset:
    """Loads the dataset that a config's ``data`` section names.

    Args:
      data: the section.
      seed: the run's seed.
      **helpers: further arguments; each is passed on if the function takes it.

    Raises:
      UserError: no dataset has this name, or it cannot be split as requested.
    """
    known = inspect.signature(find(data.name, DATASETS, "dataset")).parameters
    given = {name: value for name, value in helpers.items() if name in known}
    return make(data.name, DATASETS, "dataset", data, seed=seed, **given)

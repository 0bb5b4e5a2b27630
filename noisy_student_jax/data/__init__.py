"""Data sets: sources of records, their splits, and pipelines over them.

A data set is found by name in `DATASETS`, or by ``package.module:function``. The
function takes the config's ``data`` section and the keyword ``seed``, and returns a
`Dataset`. One that takes long to make may also take ``interruption`` and ``progress``
(to be asked and told), ``look_only`` (count, and spend nothing) and ``believe`` (of
what is not here, count what the config expects).
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
}

__all__ = ["DATASETS", "Dataset", "load"]


def load(data: "ConfigDict", *, seed: int, **helpers: Any) -> Dataset:
    """Loads the data set that a config's ``data`` section names.

    Args:
      data: the section.
      seed: of the run.
      **helpers: what it gets if it takes it.

    Raises:
      UserError: no data set of this name, or one that cannot be split as asked.
    """
    known = inspect.signature(find(data.name, DATASETS, "data set")).parameters
    given = {name: value for name, value in helpers.items() if name in known}
    return make(data.name, DATASETS, "data set", data, seed=seed, **given)

"""Data sets: sources of records, their splits, and pipelines over them.

A data set is found by name in `DATASETS`, or by ``package.module:function``. The
function takes the config's ``data`` section and the seed, and returns a `Dataset`.
"""

from typing import Any

from noisy_student_jax.data.sources import Dataset
from noisy_student_jax.lookup import make

DATASETS = {
    "digits": "noisy_student_jax.data.digits:digits",
}

__all__ = ["DATASETS", "Dataset", "load"]


def load(data: Any, *, seed: int) -> Dataset:
    """Loads the data set that a config's ``data`` section names.

    Raises:
      UserError: no data set of this name, or one that cannot be split as asked.
    """
    return make(data.name, DATASETS, "data set", data, seed=seed)

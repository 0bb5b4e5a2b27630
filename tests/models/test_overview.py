"""A model's parameters are shown by block, in a table that a terminal can hold."""

import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax import models
from noisy_student_jax.models import cost, overview
from noisy_student_jax.models.initialize import abstract_variables
from noisy_student_jax.models.overview import Row, rows, table


def test_blocks_of_the_same_shapes_are_one_row():
    kernel = {"conv": {"kernel": np.zeros((3, 3, 1, 8)), "bias": np.zeros(8)}}
    params = {f"blocks_{number}": kernel for number in (9, 10, 11)}
    params["classifier"] = {"kernel": np.zeros((8, 2)), "bias": np.zeros(2)}

    assert rows(params) == [
        Row("blocks_9 … blocks_11", "3×3×8", 3 * (72 + 8)),
        Row("classifier", "8×2", 18),
    ]


def test_a_parameter_outside_of_blocks_has_a_row():
    assert rows({"scale": jnp.zeros((4, 1))}) == [Row("scale", "4", 4)]


def test_more_kernels_than_fit_are_counted():
    many = {f"conv_{number}": np.zeros((2, 3)) for number in range(8)}

    assert rows({"all": many})[0].kernels == "2×3, 2×3, 2×3, 2×3, 2×3 and 3 more"


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_l2"])
def test_a_table_fits_a_terminal_and_counts_every_parameter(name):
    module = models.create(name, outputs=1000)
    found = rows(abstract_variables(module, resolution=32)["params"])
    lines = table(found).splitlines()

    assert max(map(len, lines)) <= 100
    assert len(lines) < 30
    total = sum(row.parameters for row in found)
    assert total == cost.parameter_count(module, resolution=32)
    assert f"{total:,}" in lines[-2]
    assert max(row.kernels.count(",") + 1 for row in found) == overview.KERNELS

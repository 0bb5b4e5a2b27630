"""What a plan for a slice takes in place of what this machine would."""

import types

from support import TINY

from noisy_student_jax import config as configs
from noisy_student_jax.planning.topology import command


def test_a_slice_has_the_layers_of_an_accelerator_where_none_are_asked_for():
    config = configs.load(TINY, ["--config.generations[1].model.layers=own"])
    command.settle(
        config, types.SimpleNamespace(section={"devices": 4, "chip": "tpu_v5e"})
    )

    assert (config.plan.devices, config.plan.chip) == (4, "tpu_v5e")
    assert [one.model.layers for one in config.generations] == ["flax", "own"]
    assert config.control.model.layers == "own"

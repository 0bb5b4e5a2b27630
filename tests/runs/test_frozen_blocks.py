"""Shallow blocks of given weights can stay as they are while the others are trained."""

import pytest
from support import TINY

from noisy_student_jax.cli.main import main
from noisy_student_jax.models import bundle as bundles

FROZEN = ("stem_conv", "stem_bn", "blocks_0")


def line(workdir, *more):
    flags = [f"--config.generations[0].{one}" for one in more]
    return ["run", f"--config={TINY}", f"--workdir={workdir}", *flags]


def test_frozen_blocks_keep_the_weights_that_they_were_given(tiny_run, tmp_path):
    given = tiny_run / "generation_0" / "model"
    flags = f"model.init={given}", "train.frozen_blocks=1"
    assert main(line(tmp_path, *flags)) == 0

    before = bundles.read(given).variables
    after = bundles.read(tmp_path / "generation_0" / "model").variables
    for kind, modules in before.items():
        for name, module in modules.items():
            same = all(
                (one == other).all()
                for one, other in zip(
                    leaves(module), leaves(after[kind][name]), strict=True
                )
            )
            assert same == (name in FROZEN), (kind, name)


def leaves(tree):
    if not isinstance(tree, dict):
        return [tree]
    return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        (1, "no weights to start from"),
        (
            99,
            "frozen_blocks=99 is invalid: The model's frozen_blocks must be 0 (the stem"
            " alone) to 2, the number of its blocks, not 99.\n",
        ),
    ],
)
def test_what_cannot_be_frozen_is_refused(blocks, says, tmp_path, capsys):
    assert main(line(tmp_path, f"train.frozen_blocks={blocks}")) == 2
    assert says in capsys.readouterr().err

"""Random keys are of one implementation, whatever the environment says."""

import ast

import jax
import numpy as np
import pytest
from support import ROOT, TINY, command

from noisy_student_jax.augment import threefry
from noisy_student_jax.core import random_keys
from noisy_student_jax.models import bundle

PACKAGE = ROOT / "noisy_student_jax"
MADE_HERE = PACKAGE / "core" / "random_keys.py"
MAKERS = {"key", "PRNGKey", "wrap_key_data"}


@pytest.fixture
def another_default():
    with jax.default_prng_impl("rbg"):
        yield


def test_keys_are_not_of_the_default(another_default):
    for key in (random_keys.key(7), random_keys.wrap(threefry.key(7))):
        assert str(jax.random.key_impl(key)) == random_keys.IMPLEMENTATION
        np.testing.assert_array_equal(jax.random.key_data(key), threefry.key(7))


def test_no_other_module_makes_keys():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in MAKERS
                and ast.unparse(node.value).endswith("random")
            ):
                found.setdefault(path, []).append(node.lineno)

    assert found.keys() == {MADE_HERE}


def test_a_run_gives_the_same_weights_under_another_default(tiny_run, tmp_path):
    # With programs of its own: one that was kept would hide what it is made with.
    process = command(
        "run",
        f"--config={TINY}",
        f"--workdir={tmp_path / 'run'}",
        env={
            "JAX_DEFAULT_PRNG_IMPL": "rbg",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
    )
    out, err = process.communicate(timeout=300)

    assert process.returncode == 0, out + err
    for owner in ("generation_0", "generation_1", "control"):
        ours, theirs = (
            bundle.read(run / owner / "model").sha256
            for run in (tmp_path / "run", tiny_run)
        )
        assert ours == theirs

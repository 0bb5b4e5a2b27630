"""No variable of the environment changes a result in silence."""

import jax
import pytest

from noisy_student_jax.core import environment
from noisy_student_jax.core.errors import UserError


@pytest.fixture
def with_setting():
    """Sets a value of JAX's, as a variable would have; puts the former ones back."""
    before = {name: jax.config.values[name] for name in environment.PINNED}

    def set_to(name, value):
        jax.config.update(name, value)

    yield set_to
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_threefry_partitionable", False),
        ("jax_default_prng_impl", "rbg"),
        ("jax_default_matmul_precision", "bfloat16"),
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_debug_nans", True),
        ("jax_random_seed_offset", 7),
        ("jax_disable_jit", True),
    ],
)
def test_what_would_change_draws_or_precision_is_not_followed(
    setting, value, with_setting, monkeypatch, capsys
):
    with_setting(setting, value)
    monkeypatch.setenv(setting.upper(), str(value))

    environment.pin()

    assert jax.config.values[setting] == environment.PINNED[setting]
    said = capsys.readouterr().out
    assert said.startswith(f"WARNING: {setting.upper()}={value} is not followed")
    assert said.count("\n") == 1


def test_a_variable_that_changes_nothing_is_not_mentioned(monkeypatch, capsys):
    monkeypatch.setenv("JAX_ENABLE_X64", "0")
    environment.pin()
    assert not capsys.readouterr().out


@pytest.mark.parametrize("setting", environment.PINNED)
def test_every_pinned_setting_is_one_of_jax(setting):
    assert setting in jax.config.values


@pytest.mark.parametrize(
    "flag",
    [
        *("--xla_cpu_enable_fast_math", "--xla_cpu_enable_fast_math=true"),
        *("--xla_cpu_enable_fast_math=1", "--xla_gpu_enable_fast_math=True"),
    ],
)
def test_fast_math_is_refused(flag, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=/tmp {flag}")
    with pytest.raises(UserError, match=f"XLA_FLAGS has {flag}, .*: remove it"):
        environment.pin()


@pytest.mark.parametrize(
    "flag", ["--xla_cpu_enable_fast_math=false", "--xla_cpu_enable_fast_math=0"]
)
def test_fast_math_that_is_off_is_let_be(flag, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flag)
    environment.pin()
    assert environment.recorded()["XLA_FLAGS"] == flag


def test_what_may_change_rounding_is_recorded(monkeypatch):
    for name in list(environment.recorded()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(
        "XLA_FLAGS",
        "--xla_b=2 --xla_force_host_platform_device_count=8 --xla_a=1"
        " --xla_dump_to=/tmp/x",
    )
    monkeypatch.setenv("JAX_OPTIMIZATION_LEVEL", "O0")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/tmp")
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")

    assert environment.recorded() == {
        "JAX_OPTIMIZATION_LEVEL": "O0",
        "NVIDIA_TF32_OVERRIDE": "0",
        "XLA_FLAGS": "--xla_a=1 --xla_b=2",
    }

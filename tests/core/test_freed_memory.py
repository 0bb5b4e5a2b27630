"""What a step frees stays in the process, so that the next need not clear it anew."""

import platform
import subprocess
import sys

import pytest
from support import ROOT, untold_environment

SCRIPT = """
import resource, sys
from noisy_student_jax.core import devices
print(devices.keep_freed_memory())
import jax, jax.numpy as jnp
step = jax.jit(lambda x: jnp.sin(jnp.sin(x) @ jnp.eye(8)) @ jnp.eye(8))
values = jnp.ones((2**20, 8))
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step(values).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
# The heap may still grow in one of them, as buffers fall in another order.
ahead = jax.config.read("jax_cpu_enable_async_dispatch")
print(min(faults() for _ in range(4)), ahead)
"""

COMMAND = """
import sys
from noisy_student_jax.cli.main import main
status = main(sys.argv[1:])
import jax
print(status, jax.config.read("jax_cpu_enable_async_dispatch"))
"""

glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library than glibc"
)


def run(**environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=untold_environment() | {"JAX_PLATFORMS": "cpu"} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults, in_another_thread = done.stdout.split()
    assert in_another_thread == str(kept == "False")
    return kept == "True", int(faults)


@glibc
def test_pages_are_cleared_once_and_not_in_every_step():
    kept, faults = run()
    assert kept
    # A buffer of 32 MB has 8,192 pages.
    assert faults < 8192


@glibc
def test_glibc_stays_as_the_user_set_it():
    kept, faults = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert not kept
    assert faults > 5 * 8000


@glibc
@pytest.mark.parametrize(("command", "steps"), [("run", True), ("status", False)])
def test_commands_that_take_steps_keep_it(command, steps, tmp_path):
    line = [command, f"--workdir={tmp_path / 'nothing here'}"]
    if command == "run":
        line.append(f"--config={tmp_path / 'nothing there'}")
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *line],
        env=untold_environment() | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.stdout.splitlines()[-1] == f"2 {not steps}", done.stderr

"""A signal is noted once; a second one, and one while XLA compiles, stops at once."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from support import ROOT, TINY, command, search_path

from noisy_student_jax.core.errors import Interrupted
from noisy_student_jax.core.preemption import AT_ONCE, EXIT_STATUS, GRACE, Interruption

PATIENCE = 120


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_until_it_is_asked_for(number):
    with Interruption() as interruption:
        interruption.check()
        os.kill(os.getpid(), number)
        assert interruption.requested
        with pytest.raises(Interrupted, match=number.name):
            interruption.check()


@pytest.fixture
def ctrl_c_raises():
    """As in a terminal; a process in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_does_what_it_did_before_us(ctrl_c_raises):
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


BEGINNING = """
import sys, time
from noisy_student_jax.core.errors import Interrupted
from noisy_student_jax.core.preemption import Interruption

def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)

with Interruption(alone=True) as interruption:
"""

COMPILING = """
    import jax, jax.numpy as jnp
    jax.config.update("jax_enable_compilation_cache", False)

    def many(x):
        for number in range(15_000):
            x = jnp.sin(x) * (x + number)
        return x

    interruption.begin()
    lowered = jax.jit(many).lower(jax.ShapeDtypeStruct((64,), "float32"))
    print("ready", flush=True)
    lowered.compile()
    print("compiled", flush=True)
    busy(600)
"""

NEVER_ASKED = """
    interruption.begin()
    print("ready", flush=True)
    busy(600)
"""

NOT_BEGUN = """
    print("ready", flush=True)
    busy(600)
"""

SAVING = f"""
    interruption.begin()
    with interruption.unsaved():
        print("ready", flush=True)
        busy({GRACE + 2})
        print("saved", flush=True)
        interruption.check()
"""

NOTICED = f"""
    interruption.begin()
    print("ready", flush=True)
    while not interruption.requested:
        busy(0.1)
    busy({GRACE + 2})
    print("saved", flush=True)
    sys.exit(75)
"""

ENDED = """
    interruption.begin()
    interruption.end(1)
    print("ready", flush=True)
    busy(600)
"""


ENDING = """
    import ctypes
    interruption.begin()
    interruption.end(0)
    # Called by the C library, after Python's own end.
    libc = ctypes.CDLL(None)
    libc["__cxa_atexit"](libc.usleep, ctypes.c_void_p(900_000), None)
    print("ready", flush=True)
    sys.exit(0)
"""


@pytest.fixture
def start():
    """Starts a program in a process of its own, until it says that it is ready."""
    begun = []

    def start(program: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", BEGINNING + program],
            env={**os.environ, "PYTHONPATH": search_path()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def stopped(process, *numbers: int) -> tuple[str, str]:
    """Sends signals, a moment apart; returns what the process still prints."""
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.2)
    return process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_process_while_xla_compiles(start, number):
    process = start(COMPILING)
    time.sleep(0.5)

    out, err = stopped(process, number)

    assert process.returncode == EXIT_STATUS
    name = signal.Signals(number).name
    assert out == f"stopped by {name}; saved; the same command resumes from here\n"
    assert not err


def test_a_process_that_never_asks_is_given_little_time(start):
    process, started = start(NEVER_ASKED), time.monotonic()

    out, _ = stopped(process, signal.SIGTERM)

    assert process.returncode == EXIT_STATUS
    assert time.monotonic() - started >= GRACE
    assert out.startswith("stopped by SIGTERM; saved")


def test_a_second_signal_stops_at_once(start):
    out, err = stopped(process := start(SAVING), signal.SIGINT, signal.SIGINT)

    assert process.returncode == EXIT_STATUS
    assert (out, err) == (f"{AT_ONCE}\n", "")


def test_nothing_is_stopped_before_its_work_is_saved(start):
    out, err = stopped(process := start(SAVING), signal.SIGINT)

    assert out == "saved\n"
    assert "Interrupted: stopped by SIGINT" in err
    assert process.returncode == 1


def test_a_command_that_has_noticed_a_signal_has_time_to_save(start):
    out, _ = stopped(process := start(NOTICED), signal.SIGTERM)

    assert (process.returncode, out) == (75, "saved\n")


def test_a_signal_before_a_command_begins_is_said_to_lose_nothing(start):
    out, err = stopped(process := start(NOT_BEGUN), signal.SIGTERM)

    assert process.returncode == EXIT_STATUS
    assert (out, err) == ("", "stopped by SIGTERM; nothing was begun\n")


def test_a_command_that_has_ended_keeps_its_status(start):
    out, err = stopped(process := start(ENDED), signal.SIGINT)

    assert (process.returncode, out, err) == (1, "", "")


@pytest.mark.skipif(sys.platform != "linux", reason="uses glibc")
def test_a_command_keeps_its_status_also_in_its_last_moment(start):
    process = start(ENDING)
    time.sleep(0.4)

    out, err = stopped(process, signal.SIGTERM)

    assert (process.returncode, out, err) == (0, "", "")


def until_it_hears(process) -> None:
    """Waits until the handlers of a process are in place."""
    bit = 1 << signal.SIGTERM - 1
    while process.poll() is None:
        text = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        (mask,) = (row.split()[1] for row in text.splitlines() if "SigCgt" in row)
        if int(mask, 16) & bit:
            return
        time.sleep(0.001)
    raise AssertionError(process.communicate())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("seed", range(6))
def test_a_command_is_stopped_at_random_moments_of_its_first_seconds(tmp_path, seed):
    rng = random.Random(seed)
    workdir = tmp_path / "run"
    process = command("run", f"--config={TINY}", f"--workdir={workdir}", cwd=ROOT)
    until_it_hears(process)
    time.sleep(rng.uniform(0, 4) if seed else 0)

    out, err = stopped(process, rng.choice([signal.SIGTERM, signal.SIGINT]))

    assert process.returncode == EXIT_STATUS, out + err
    assert "Traceback" not in out + err
    assert (out + err).splitlines()[-1].startswith("stopped by SIG")

"""Slices by name, and what is said where there is none; with libtpu, a real one."""

import importlib.util
import json
import re
import types

import jax
import pytest
from jax.experimental import topologies
from support import TINY, command

from noisy_student_jax.cli.main import main
from noisy_student_jax.config.accelerators import CHIPS
from noisy_student_jax.core import console
from noisy_student_jax.planning.topology import slices


class Device:
    """As the compiler describes one."""

    def __init__(self, kind, *, host=0, coords=(0, 0, 0)):
        self.device_kind, self.process_index, self.coords = kind, host, coords


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    # What the command sets is undone.
    for name, value in slices.NO_HARDWARE.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def with_libtpu(monkeypatch):
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/nowhere/libtpu.so")


@pytest.fixture
def without_libtpu(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "libtpu" else found(name, *rest),
    )


def mistake(capsys, *arguments):
    capsys.readouterr()
    assert main(["plan", *arguments]) == 2
    out, err = capsys.readouterr()
    (line,) = [line for line in (out + err).splitlines() if line.startswith("error: ")]
    return line


def test_without_libtpu_the_extra_is_named(capsys, without_libtpu):
    told = mistake(capsys, f"--config={TINY}", "--topology=v5e:16x16")
    assert "which is not installed" in told
    assert "pip install 'noisy-student-jax[tpu]'" in told


def test_a_wrong_name_lists_right_ones(capsys, with_libtpu, monkeypatch):
    def refuse(**_):
        raise RuntimeError("INVALID_ARGUMENT: Invalid TPU external name: TPU v55")

    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    told = mistake(capsys, f"--config={TINY}", "--topology=v55:2x2")
    assert "--topology=v55:2x2 is no slice" in told
    assert "Invalid TPU external name: TPU v55" in told
    assert "v5e:16x16" in told


MISTAKES = {
    "--generation=1": "--generation belongs to `plan --topology=SLICE`",
    "--topology=v5e:2x2 --recipe": "neither --recipe nor --measure",
    "--topology=v5e:2x2 --measure": "neither --recipe nor --measure",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_flags_that_do_not_go_together(capsys, with_libtpu, flags):
    told = mistake(capsys, f"--config={TINY}", *flags.split())
    assert MISTAKES[flags] in told


def test_a_model_alone_has_no_steps(capsys, with_libtpu):
    told = mistake(capsys, "--model=efficientnet_b0", "--topology=v5e:2x2")
    assert "needs --config=FILE" in told


def slice_of(*devices):
    found = slices.of_devices(devices, name="made up")
    return found.chip, found.memory


def test_a_slice_knows_its_chips(monkeypatch):
    v5e = Device("TPU v5 lite")
    assert slice_of(v5e) == ("tpu_v5e", CHIPS["tpu_v5e"].memory)
    # Two devices of one chip share its memory.
    halves = [Device("TPU v4"), Device("TPU v4")]
    assert slice_of(*halves) == ("tpu_v4", CHIPS["tpu_v4"].memory / 2)
    # What is told of a v3 is told of each of its cores.
    cores = [Device("TPU v3"), Device("TPU v3")]
    assert slice_of(*cores) == ("tpu_v3_core", CHIPS["tpu_v3_core"].memory)
    assert slice_of(Device("TPU v99")) == (None, 0)


def test_a_plan_reckons_with_whole_chips_only():
    def section(*devices):
        return slices.of_devices(devices, name="made up").section

    v5e = [Device("TPU v5 lite", coords=(x, 0, 0)) for x in range(2)]
    assert section(*v5e) == {"devices": 2, "chip": "tpu_v5e"}
    assert section(*[Device("TPU v4")] * 2) == {"devices": 2, "chip": None}
    assert section(Device("TPU v99")) == {"devices": 1, "chip": None}


def test_labeling_is_a_hosts_own():
    devices = [Device("TPU v5 lite", host=host) for host in (0, 0, 1, 1)]
    assert slices.of_devices(devices, name="made up").host == tuple(devices[:2])


@pytest.mark.parametrize(
    ("name", "host", "of_one_host"),
    [
        ("v5e:16x16", [(x, y, 0) for y in (0, 1) for x in (0, 1)], "v5e:2x2"),
        ("v5p:4x4x8", [(x, y, 0) for y in (0, 1) for x in (0, 1)], "v5p:2x2x1"),
        # Two devices a chip.
        ("v3:8x8", [(x, 0, 0) for x in (0, 1) for _ in (0, 1)], "v3:2x1"),
    ],
)
def test_labeling_is_compiled_for_a_slice_of_one_host(
    with_libtpu, monkeypatch, name, host, of_one_host
):
    asked = []

    def described(platform, topology_name):
        asked.append(topology_name)
        return types.SimpleNamespace(
            devices=[Device("TPU v5", coords=place) for place in host]
        )

    monkeypatch.setattr(topologies, "get_topology_desc", described)
    found = slices.find(name)

    assert asked == [name, of_one_host]
    assert found.name == name and not set(found.host) & set(found.devices)


def test_the_labels_of_many_hosts_can_be_compiled():
    pytest.importorskip("libtpu")
    process = command(
        "plan",
        f"--config={TINY}",
        "--topology=v5e:4x4",
        "--generation=0",
        "--config.train.batch=16",
        "--json",
        env={"JAX_PLATFORMS": "cpu"},
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    facts = json.loads(out)
    assert facts["devices"] == 16
    assert all(program["fits"] for program in facts["topology"]["programs"])


def test_a_batch_that_does_not_divide_is_told_before_compiling(
    capsys, with_libtpu, monkeypatch
):
    whole = slices.of_devices(jax.devices() * 256, name="v5e:16x16")
    monkeypatch.setattr(slices, "find", lambda name: whole)
    told = mistake(capsys, f"--config={TINY}", "--topology=v5e:16x16")
    assert "cannot give each of 256 devices" in told


def test_an_unknown_generation_is_told_before_compiling(
    capsys, with_libtpu, monkeypatch
):
    one = slices.of_devices(jax.devices()[:1], name="v5e:1x1")
    monkeypatch.setattr(slices, "find", lambda name: one)
    told = mistake(capsys, f"--config={TINY}", "--topology=v5e:1x1", "--generation=7")
    assert "this config has only 0, 1, control" in told


def test_programs_are_compiled_for_a_slice_without_any_tpu():
    pytest.importorskip("libtpu")
    process = command(
        "plan",
        f"--config={TINY}",
        "--topology=v5e:2x2",
        "--generation=1",
        "--config.train.shard_state=true",
        "--json",
        env={"JAX_PLATFORMS": "cpu"},
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    # Nothing of what libtpu looks for and does not find.
    assert not re.search(r"WARN|E0000|Failed", err)
    facts = json.loads(out)
    assert facts["devices"] == 4 and facts["chip"]["name"] == "TPU v5e"
    step, label = facts["topology"]["programs"]
    for program in (step, label):
        assert program["fits"]
        assert 0 < program["needed"] < 0.01 * program["limit"]
        flops = program["operations"]["flops"]
        # The grouped depthwise convolution: shifted slices are not counted as one.
        assert 0.7 * program["analytic_flops"] < flops < 1.5 * program["analytic_flops"]


def test_a_name_that_libtpu_does_not_know(capsys):
    pytest.importorskip("libtpu")
    told = mistake(capsys, f"--config={TINY}", "--topology=v5e:3x5")
    assert "is no slice that libtpu can compile for" in told
    console.leave_stdout_to_machines(False)

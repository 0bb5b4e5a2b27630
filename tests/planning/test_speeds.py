"""Speeds are measured once a machine, and within a share of a budget."""

import json

import pytest
from support import TINY

from noisy_student_jax import config
from noisy_student_jax.core import files
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.planning import speeds, throughput
from noisy_student_jax.planning.memory import StepMemory
from noisy_student_jax.planning.throughput import Speed
from noisy_student_jax.runs.run import Run

FAST = Speed(100.0, 300.0, StepMemory(1.0, 2.0, 3, accumulates=False))
SLOW = Speed(10.0, 30.0, None)


@pytest.fixture
def students(tmp_path):
    """Three students whose models cost differently."""

    def student(number, name):
        loaded = config.load(TINY, [f"--config.model.name={name}"])
        run = Run(loaded, tmp_path / "run", interruption=Interruption())
        return run.student(number)

    return [student(0, f"efficientnet_{name}") for name in ("test", "tiny_s", "tiny_m")]


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Keeps speeds in a file of the test; returns the list of what is measured."""
    calls = []

    def measure(student):
        calls.append(student.spec.model.name)
        return FAST if len(calls) == 1 else SLOW

    monkeypatch.setattr(throughput, "measure", measure)
    monkeypatch.setattr(speeds, "place", lambda: tmp_path / "cache" / speeds.NAME)
    return calls


def test_a_speed_is_measured_once_a_machine(students, measured, capsys):
    assert speeds.of_machine()(students[0]) == FAST
    assert "measuring efficientnet_test at 8 px" in capsys.readouterr().out

    again = speeds.of_machine()(students[0])

    assert again == FAST and again.memory == FAST.memory
    assert measured == ["efficientnet_test"]
    assert "100 images/s trained on, 300 labeled, as measured on" in (
        capsys.readouterr().out
    )


def test_heads_that_are_solved_have_one_speed_of_features(
    tmp_path, measured, monkeypatch, capsys
):
    asked = ["--config.train=head", "--config.train.optimizer=lbfgs"]
    run = Run(config.load(TINY, asked), tmp_path / "run", interruption=Interruption())
    speed = speeds.of_machine()

    for one in (run.student(0), run.student("control")):
        assert one.spec.solves
        speed(one)

    assert len(measured) == 1
    assert "    features of 300 images/s" in capsys.readouterr().out


def test_another_machine_measures_for_itself(students, measured, monkeypatch):
    speeds.of_machine()(students[0])
    there = speeds.ledger.environment() | {"cores": 99}
    monkeypatch.setattr(speeds.ledger, "environment", lambda: there)
    speeds.of_machine()(students[0])
    assert len(measured) == 2


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: "{",
        lambda text: "[]",
        lambda text: text.replace("100.0", "900.0"),
        lambda text: json.dumps({key: 5 for key in json.loads(text)}),
        lambda text: json.dumps({key: {} for key in json.loads(text)}),
    ],
)
def test_damaged_speeds_are_measured_again(harm, students, measured):
    speeds.of_machine()(students[0])
    path = speeds.place()
    path.write_text(harm(path.read_text()))

    assert speeds.of_machine()(students[0]) == SLOW
    assert len(files.read_json(path)) >= 1


def test_where_nothing_can_be_kept_all_is_measured(students, measured, monkeypatch):
    monkeypatch.setattr(speeds, "place", lambda: None)
    for _ in range(2):
        speeds.of_machine()(students[0])
    assert len(measured) == 2


def test_a_budget_limits_the_time_of_measuring(students, measured, monkeypatch, capsys):
    now = [0.0]

    def measure(student):
        now[0] += 30.0
        measured.append(student.spec.model.name)
        return FAST

    monkeypatch.setattr(throughput, "measure", measure)
    monkeypatch.setattr(speeds.time, "monotonic", lambda: now[0])
    of_machine = speeds.of_machine(hours=0.2)  # 72 seconds to measure

    found = [of_machine(student) for student in students]

    assert measured == ["efficientnet_test", "efficientnet_tiny_s"]
    ratio = students[1].cost.flops / students[2].cost.flops
    assert found[2].train_images_per_second == pytest.approx(100 * ratio)
    assert "tiny_m at 8 px: estimated by its FLOPs from efficientnet_tiny_s" in (
        capsys.readouterr().out
    )
    assert speeds.limit(0.1).startswith("at most 36 s, a tenth of that")

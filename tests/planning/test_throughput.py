"""Measured speeds: from the real programs, once a kind, on any mix and task."""

import json
import math
import re
import signal

import pytest
from support import ROOT, TINY

from noisy_student_jax import config
from noisy_student_jax.cli.main import main
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.errors import Interrupted
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.evaluation import predictor
from noisy_student_jax.models import views
from noisy_student_jax.planning import plan, throughput
from noisy_student_jax.planning.throughput import Speed
from noisy_student_jax.runs.run import Run
from noisy_student_jax.runs.spec import Role


@pytest.fixture
def tiny(tmp_path):
    def run(*overrides, path=TINY):
        given = [f"--config.{override}" for override in overrides]
        loaded = config.load(path, given)
        return Run(loaded, tmp_path / "run", interruption=Interruption())

    return run


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setitem(throughput.measure.__kwdefaults__, "seconds", 0.05)


def counted(monkeypatch, owner, name):
    calls, function = [], getattr(owner, name)

    def wrapper(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, wrapper)
    return calls


def is_a_speed(speed):
    found = (speed.train_images_per_second, speed.label_images_per_second)
    return all(math.isfinite(value) and value > 0 for value in found)


def test_the_model_is_compiled_once_for_training_and_once_for_labeling(
    tiny, tmp_path, monkeypatch
):
    plain = [f"noise.{name}.randaugment_layers=0" for name in ("labeled", "pseudo")]
    student = tiny(*plain, "noise.pseudo.crop_padding=2").student(1)
    predictor._shared_program.cache_clear()
    trained = counted(monkeypatch, student.run.task, "loss")
    labeled = counted(monkeypatch, student.run.task, "predict")
    noised = counted(monkeypatch, throughput, "augment_spread")

    speed = throughput.measure(student, seconds=0.2)

    assert is_a_speed(speed)
    # Traced once more to know what labeling an image costs; see `Predictor`.
    assert (len(trained), len(labeled)) == (1, 2)
    assert [(images.shape, noise) for *_, images, noise in noised] == [
        ((16, 8, 8, 3), throughput.streams.make_noise(section).input)
        for section in (
            student.spec.config.noise.labeled,
            student.spec.config.noise.pseudo,
        )
    ]
    assert list(tmp_path.iterdir()) == []


def test_images_and_not_steps_are_counted(tiny, monkeypatch):
    student = tiny("train.batch=4", "train.ratio=3", "labels.batch=8").student(1)
    monkeypatch.setattr(throughput, "_steps_per_second", lambda *_: 10.0)

    # Four batches are labeled at a time.
    assert throughput.measure(student) == Speed(160.0, 320.0)


def test_labeling_is_measured_in_one_view_since_views_are_counted(tiny, monkeypatch):
    seen = []

    class Watched(predictor.Predictor):
        def __init__(self, task, module, *more, **options):
            seen.append(views.numbers(module))
            super().__init__(task, module, *more, **options)

    monkeypatch.setattr(throughput, "Predictor", Watched)
    monkeypatch.setattr(throughput, "_steps_per_second", lambda *_: 10.0)
    one, three = tiny().student(1), tiny("model.views=3").student(1)

    throughput.measure(three)

    assert seen == [range(1)]
    assert one.spec.cost_key == three.spec.cost_key


def test_the_clock_starts_after_the_first_step_and_stops_after_a_whole_one(
    tiny, monkeypatch
):
    now, steps = [0.0], []
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])

    def work(number):
        steps.append(number)
        now[0] += 100.0 if number == 0 else 0.5

    rate = throughput._steps_per_second(work, tiny().student(0), 1.25)
    assert (rate, steps) == (2.0, [0, 1, 2, 3])
    assert throughput._steps_per_second(work, tiny().student(0), 0.0) == 2.0


def test_measuring_can_be_stopped(tiny):
    student = tiny().student(0)
    student.run.interruption.signal = signal.SIGTERM
    with pytest.raises(Interrupted):
        throughput._steps_per_second(lambda number: None, student, 1e9)


@pytest.mark.parametrize(
    ("overrides", "small"),
    [
        (["train.batch=16", "train.ratio=3"], BatchLayout(16, 48)),
        (["train.batch=2048", "train.ratio=14"], BatchLayout(2, 28)),
        (["train.batch=2048", "train.ratio=100"], BatchLayout(1, 100)),
        (["train.batch=100", "train.ratio=1.5"], BatchLayout(12, 18)),
        (["train.batch=10", "train.ratio=6.33"], BatchLayout(5, 32)),
        (["train.batch=256", "train.ratio=0"], BatchLayout(32, 0)),
    ],
)
def test_a_large_batch_is_stood_in_for_by_few_groups_of_the_same_mix(
    overrides, small, tiny
):
    student = tiny(*overrides).student(1)
    stand_in = throughput._with_small_batch(student)

    assert stand_in.spec.layout == small
    whole = student.spec.layout
    assert small.labeled * whole.pseudo == small.pseudo * whole.labeled
    small.check(devices=1, microbatches=stand_in.spec.config.train.microbatches)
    assert student.spec.layout == whole, "the student itself is left alone"


def test_every_device_is_given_whole_groups(tiny, monkeypatch):
    monkeypatch.setattr(throughput.jax, "device_count", lambda: 8)
    student = tiny("train.batch=512", "train.ratio=3", "train.microbatches=4")
    small = throughput._with_small_batch(student.student(1)).spec.layout

    assert small == BatchLayout(8 * 8, 8 * 24)
    small.check(devices=8)


def test_what_a_small_batch_may_not_be_divided_by_is_left_out(tiny):
    student = tiny(
        "train.batch=96", "train.microbatches=3", "model.batch_norm_group=6"
    ).student(1)
    small = throughput._with_small_batch(student)

    group = small.spec.model.module.arguments.batch_norm_group
    assert (small.spec.config.train.microbatches, group) == (1, 0)
    group = student.spec.model.module.arguments.batch_norm_group
    assert (student.spec.config.train.microbatches, group) == (
        3,
        6,
    )


def test_images_with_many_activations_are_few(tiny, monkeypatch):
    student = tiny("train.batch=2048", "train.ratio=3").student(1)
    image = student.cost.activation_bytes
    monkeypatch.setattr(throughput, "ACTIVATION_BYTES", 9.5 * image)

    assert throughput._with_small_batch(student).spec.layout == BatchLayout(2, 6)


@pytest.mark.parametrize("name", ["bright_square", "gray"])
def test_another_task_and_other_sources_are_measured_too(name, tiny):
    run = tiny(path=ROOT / "tests" / "configs" / f"{name}.py")
    assert is_a_speed(throughput.measure(run.student(1), seconds=0.05))


def test_students_that_cost_the_same_are_measured_once(tiny):
    run = tiny(
        "generations[1].noise.pseudo.randaugment_magnitude=9.0",
        "control.train.learning_rate=0.01",
    )
    asked = []

    def speeds(student):
        asked.append(student.spec.name)
        return Speed(len(asked), 1.0)

    remembered = throughput.remembered(speeds)
    found = [remembered(run.student(k)) for k in (1, Role.CONTROL, 0, 1)]
    assert asked == ["generation_1", "generation_0"]
    assert [one.train_images_per_second for one in found] == [1, 1, 2, 1]


@pytest.mark.parametrize(
    "override",
    [
        "model.resolution=16",
        "model.dtype=bfloat16",
        "model.remat=true",
        "model.name=efficientnet_tiny_s",
        "train.optimizer=adamw",
        "train.batch=8",
        "noise.pseudo.randaugment_layers=2",
        "noise.labeled.cutout_size=2",
    ],
)
def test_students_that_differ_are_measured_each(override, tiny):
    remembered = throughput.remembered(lambda student: student)
    assert remembered(tiny().student(1)) != remembered(tiny(override).student(1))
    changed = tiny(f"generations[0].{override}")
    found = [remembered(changed.student(k)) for k in (1, Role.CONTROL)]
    assert found[0] == found[1]


def test_hours_are_images_by_speed(tiny):
    run = tiny("train.steps=20")  # a validation every 6
    speed = Speed(train_images_per_second=2.0, label_images_per_second=5.0)
    evaluated = 2 * ((4 + 1) * 50 + 100)

    teacher, student, control = (throughput.hours(one, speed) for one in run.students)
    assert teacher["train"] == pytest.approx(20 * 16 / 2 / 3600)
    assert teacher["label"] == pytest.approx(1617 / 5 / 3600)
    assert student["train"] == pytest.approx(20 * 32 / 2 / 3600)
    assert student["label"] == control["label"] == 0
    for one in (teacher, student, control):
        assert one["evaluate"] == pytest.approx(evaluated / 5 / 3600)
        parts = one["train"] + one["label"] + one["evaluate"]
        assert one["total"] == pytest.approx(parts)
    assert control == student


# ---- plan --measure


def test_plan_measures_for_machines(capsys, hurried, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", f"--config={TINY}", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main(["plan", f"--config={TINY}", "--json", "--measure"]) == 0
    facts = json.loads(capsys.readouterr().out)

    entries = [*facts["generations"], facts["control"]]
    for part, hours in facts["hours"].items():
        assert hours == pytest.approx(sum(one["hours"][part] for one in entries))
    assert list(facts["hours"]) == ["train", "label", "evaluate", "total"]
    assert all(one.pop("hours")["train"] > 0 for one in entries)
    assert facts.pop("hours")["total"] > 0
    assert re.match(r"cpu \(\d+ × ", facts.pop("device"))
    assert (facts.pop("budget_hours"), facts.pop("decisions")) == (None, [])
    for found, memory_from in ((facts, "compiled"), (plain, "estimated")):
        for one in [*found["generations"], found["control"]]:
            assert one.pop("memory_from") == memory_from
            assert one.pop("memory_per_device") > 0
    assert facts == plain, "the rest is as without --measure"
    assert list(tmp_path.iterdir()) == []


def test_plan_measures_for_people(tiny):
    run = tiny("train.steps=3000")
    facts = plan.measured_facts(run, speeds=lambda _: Speed(24.0, 539.0))
    teacher, student, control, whole = plan.run_text(facts).splitlines()[1:]

    # 2,000 s of training, 3 s of labels, 2 × (501 × 50 + 100) / 539 s = 93 s.
    assert teacher.endswith("on disk, about 34 min 56 s here")
    assert student.endswith("on disk, about 1 h 08 min here")
    assert control.endswith("on disk, about 1 h 08 min here")
    assert whole.startswith(
        "the whole run, about 2 h 51 min here (train 2 h 46 min, label 3 s, evaluate"
        " 4 min 40 s), on cpu ("
    )


def test_without_measure_nothing_is_said_of_time(capsys):
    assert main(["plan", f"--config={TINY}"]) == 0
    out = capsys.readouterr().out
    assert "here" not in out
    assert "hours" not in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--measure"], "needs either --config=FILE or --model=NAME"),
        (["--measure", "--model=efficientnet_b0"], "--measure` needs --config=FILE"),
        (["--measure", "--recipe", f"--config={TINY}"], "either --measure or --recipe"),
    ],
)
def test_what_cannot_be_measured(arguments, says, capsys):
    assert main(["plan", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line

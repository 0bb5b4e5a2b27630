"""The choice of the model to use, on made-up results."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from noisy_student_jax.evaluation import resampling
from noisy_student_jax.report import choice
from noisy_student_jax.report.choice import LEFT_OUT, VALIDATION, Row
from noisy_student_jax.runs.spec import Role

LARGE, SMALL = 2_000, 500


def row(name, right, *, parameters=LARGE, left_out="", **more):
    """A model that is right on the images whose letter is 1."""
    role = Role.STUDENT if isinstance(name, int) else Role(name)
    role = Role.TEACHER if name == 0 else role
    keys = [(VALIDATION, str(n)) for n in range(len(right))]
    keys += [(LEFT_OUT, str(n)) for n in range(len(left_out))]
    single = pa.array([float(letter) for letter in right + left_out])
    mean = sum(map(int, right)) / len(right)
    return Row(name, role, parameters, mean, len(right), keys, single, **more)


def choose(rows):
    return choice.choose(rows, resampling.mean)


def test_three_validation_images_move_nothing():
    teacher, control = row(0, "111"), row("control", "111")
    for student in (row(1, "000"), row(1, "001"), row(1, "111")):
        chosen = choose([teacher, student, control])

        assert chosen.best == 1
        assert "3 validation images cannot tell it from the control" in chosen.says


def test_a_control_that_is_clearly_better_is_used_and_said():
    student, control = row(1, "1" * 80 + "0" * 20), row("control", "1" * 100)

    chosen = choose([row(0, "0" * 100), student, control])

    assert (chosen.best, chosen.student, chosen.rival) == ("control", 1, "control")
    assert chosen.says == (
        "use the control (best/), not a student: 100 validation images put it"
        " 20.0 ± 5.3 points (one standard error) ahead of generation 1"
    )


def test_a_teacher_that_is_clearly_better_is_used_where_the_control_is_the_rival():
    # Each is wrong on images of its own; steps of 1.3 points are not sure.
    def wrong(start, end):
        return "1" * start + "0" * (end - start) + "1" * (1000 - end)

    teacher, control = row(0, wrong(0, 100)), row("control", wrong(100, 213))
    student = row(1, wrong(213, 339))

    chosen = choose([teacher, student, control])

    assert (chosen.best, chosen.rival) == (0, "control")
    assert "use generation 0 (best/), not a student" in chosen.says


def test_a_student_that_is_clearly_better_is_said_to_be():
    chosen = choose([row(0, "0" * 100), row(1, "1" * 100), row("control", "01" * 50)])

    assert chosen.best == 1
    assert chosen.says == (
        "use generation 1 (best/): 100 validation images put it 50.0 ± 7.6 points (one"
        " standard error) ahead of the control, the strongest model on labels alone"
    )


def test_among_equals_the_student_is_preferred_and_the_last_of_the_largest():
    rows = [
        row(0, "10" * 30),
        row(1, "10" * 30),
        row(2, "10" * 30),
        row(3, "10" * 30, parameters=SMALL),
        row("control", "10" * 30),
    ]

    chosen = choose(rows)

    assert (chosen.best, chosen.student, chosen.rival) == (2, 2, "control")
    assert chosen.notes == [
        "generation 3 has 25% of the parameters of generation 2 and differs by"
        " 0.0 ± 4.7 points"
    ]


def test_a_student_that_is_clearly_better_than_the_last_is_the_student():
    rows = [row(0, "10" * 30), row(1, "11" * 30), row(2, "10" * 30)]

    chosen = choose(rows)

    assert (chosen.best, chosen.student, chosen.rival) == (1, 1, 0)
    assert chosen.notes == [
        "of the students, 60 validation images put generation 1 50.0 ± 10.3 points (one"
        " standard error) ahead of generation 2, the last of the largest"
    ]


def test_the_strongest_model_on_labels_alone_is_the_rival():
    rows = [
        row(0, "01" * 50),
        row(1, "11" * 50),
        row("control", "00" * 50),
        row("probe", "01" * 50, parameters=SMALL),
        row("fine_tuning", "00" * 50),
    ]

    assert choose(rows).rival == 0  # larger than the probe, and as good
    rows[0] = row(0, "00" * 50)
    assert choose(rows).rival == "probe"
    rows[3] = row("probe", "00" * 50, parameters=SMALL)
    assert choose(rows).rival == "control"


def test_labeled_images_that_were_left_out_count_as_validation_images_do():
    student = row(1, "000", left_out="01" * 50)
    control = row("control", "111", left_out="11" * 50)

    chosen = choose([student, control])

    assert chosen.best == "control"
    assert "3 validation images and 100 labeled images left out in turn" in chosen.says
    assert chosen.leads[-1]["images"] == 103


def test_only_images_of_both_are_compared():
    # The control's 100 images left out say nothing of a student without any.
    student, control = row(1, "10"), row("control", "10", left_out="1" * 100)

    chosen = choose([student, control])

    assert chosen.best == 1
    assert chosen.leads[-1]["images"] == 2


def test_runs_of_before_are_compared_by_their_means():
    def old(one):
        return dataclasses.replace(one, keys=())

    student, control = row(1, "1" * 50 + "0" * 50), row("control", "1" * 58 + "0" * 42)
    assert choose([student, control]).best == "control"  # the very same images

    chosen = choose([old(student), old(control)])

    assert chosen.best == "control"
    (lead,) = chosen.leads
    assert not lead["paired"]
    assert lead["value"] == pytest.approx(0.08)
    # √(50 + 8) / 100: half of all images differ by chance.
    assert lead["error"] == pytest.approx(0.0762, abs=1e-4)
    assert choose([student, old(control)]).leads == chosen.leads


def test_a_teacher_that_was_given_is_no_model_on_labels_alone():
    given = row(0, "01" * 50, given=True)
    student, control = row(1, "01" * 50), row("control", "00" * 50)

    assert choose([given, student, control]).rival == "control"
    alone = choose([given, student])
    assert (alone.best, alone.rival) == (1, 0)
    assert "cannot tell it from the teacher that was given" in alone.says

    better = row(0, "1" * 100, given=True)
    assert choose([better, student, control]).best == 0


def test_without_a_student_the_best_on_labels_alone_is_used():
    chosen = choose([row(0, "01" * 50), row("control", "11" * 50)])

    assert (chosen.best, chosen.student, chosen.rival) == (
        *("control", None),
        "control",
    )
    assert chosen.says == "use the control (best/): there is no student"
    assert choose([row(0, "01")]).best == 0


def test_what_is_better_by_less_than_can_be_shown_is_shown_as_a_number():
    # Thirty thousand images: the lead rounds to nothing and is still one.
    rows = [row(1, "0" * 30_000), row("control", "1" * 9 + "0" * 29_991)]

    chosen = choose(rows)

    assert chosen.best == "control"
    assert "put it 0.0 ± 0.0 points" in chosen.says


def test_models_are_compared_by_the_metric_of_the_task():
    def largest(statistics, draws=None):
        """The largest value of the images drawn: no mean over images."""
        values = statistics.to_numpy()
        return np.array(
            [values.max()] if draws is None else (values * (draws > 0)).max(1)
        )

    student, control = (
        dataclasses.replace(one, statistics=one.statistics.cast(pa.int8()))
        for one in (row(1, "10" * 200), row("control", "01" * 200))
    )
    behind = dataclasses.replace(student, statistics=pa.array([0] * 400, pa.int8()))

    level, ahead = (choice.choose([one, control], largest) for one in (student, behind))

    assert (level.best, ahead.best) == (1, "control")
    assert "cannot tell it from the control (0.0 ± 0.0 points" in level.says
    assert "put it 100.0 ± 5.1 points (one standard error) ahead" in ahead.says


def test_a_metric_without_anything_to_measure_decides_nothing():
    def nothing(statistics, draws=None):
        return np.full(1 if draws is None else len(draws), np.nan)

    rows = [
        dataclasses.replace(one, statistics=one.statistics.cast(pa.int8()))
        for one in (row(1, "1010", parameters=SMALL), row("control", "0101"))
    ]

    chosen = choice.choose(rows, nothing)

    assert chosen.best == 1
    assert chosen.says == (
        "use generation 1 (best/): 4 validation images hold nothing by which to compare"
        " it with the control, and then a student is preferred"
    )

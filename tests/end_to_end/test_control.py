"""The control is the last student, but for its labels."""

import numpy as np
import pytest

from noisy_student_jax.config import plain
from noisy_student_jax.generation import streams, train
from noisy_student_jax.runs.spec import Role


def test_it_makes_as_many_draws_in_as_many_steps_with_the_same_model(tiny_student):
    control, student = tiny_student(Role.CONTROL), tiny_student(1)

    assert control.spec.layout == student.spec.layout
    assert control.spec.schedule.steps == student.spec.schedule.steps
    assert control.cost.parameters == student.cost.parameters
    assert plain(control.spec.config.noise) == plain(student.spec.config.noise)


def test_both_its_streams_draw_labeled_images_and_true_labels(tiny_student):
    control = tiny_student(Role.CONTROL)
    learned = streams.make(control)

    assert learned.second.source is learned.labeled.source
    np.testing.assert_array_equal(learned.second.picks, learned.labeled.picks)
    targets = learned.second.targets
    assert sorted(np.unique(targets)) == [0, 1]
    assert len(learned.trained_on) == len(control.run.dataset.labeled)


@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_all_its_labels_are_smoothed_as_labels_are(tiny_student, targets):
    override = f"--config.train.targets={targets}"

    # The loss smooths the second stream exactly where its targets are hard.
    assert train.loss_options(tiny_student(Role.CONTROL, override)).targets == "hard"
    assert train.loss_options(tiny_student(1, override)).targets == targets


def test_its_random_numbers_do_not_depend_on_how_many_generations_there_are(
    tiny_student,
):
    control = tiny_student(Role.CONTROL)
    numbers = {tiny_student(k).spec.number for k in range(control.run.last + 1)}

    assert control.spec.number not in numbers
    assert control.spec.number > 1000

"""A pseudo-labeled loss that drowns the labeled one is named, once."""

import pytest

from noisy_student_jax.training.stream_losses import WINDOW, StreamLosses


def warnings_of(losses, *, steps=None, earlier=()):
    """The warnings of (labeled, pseudo) losses, with the steps that they come at."""
    watch = StreamLosses(steps or len(losses), earlier)
    said = [
        (step, watch.add({"labeled/loss": own, "pseudo/loss": other}, step))
        for step, (own, other) in enumerate(losses, 1)
    ]
    return [(step, warning) for step, warning in said if warning]


def test_a_hundred_times_the_labeled_loss_is_named_once_with_its_steps():
    losses = [(0.5, 0.5)] * WINDOW + [(0.25, 60.0)] * 3 * WINDOW
    ((step, warning),) = warnings_of(losses)

    assert step == 2 * WINDOW
    assert "is 120 times the highest of labeled ones: 60 in the mean" in warning
    assert f"of steps {WINDOW + 1} to {2 * WINDOW} against 0.5" in warning
    assert "min_score" in warning


def test_below_that_nothing_is_said():
    assert warnings_of([(0.5, 49.0)] * 3 * WINDOW) == []
    assert warnings_of([(0.5, 0.0)] * 3 * WINDOW) == []
    assert warnings_of([(0.0, 7.0)] * 3 * WINDOW) == []


def test_labels_learned_by_heart_are_no_measure():
    losses = [(1.0, 1.2)] * WINDOW + [(1e-4, 0.9)] * WINDOW
    assert warnings_of(losses) == []
    resumed = [{"step": 10, "labeled/loss": 1.0}, {"step": 20, "validation/x": 0.5}]
    assert warnings_of(losses[WINDOW:], earlier=resumed) == []
    assert len(warnings_of(losses[WINDOW:])) == 1


def test_a_single_step_is_not_enough():
    assert warnings_of([(1.0, 1.0)] * (WINDOW - 1) + [(1.0, 3e3)]) == []


@pytest.mark.parametrize("steps", [1, 7])
def test_a_short_training_has_one_window(steps):
    assert [step for step, _ in warnings_of([(1.0, 500.0)] * steps)] == [steps]


def test_metrics_without_streams_are_no_matter():
    watch = StreamLosses(3)
    assert [watch.add({"loss": 1.0}, step) for step in (1, 2, 3)] == [None] * 3

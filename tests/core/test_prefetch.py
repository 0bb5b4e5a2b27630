"""Going ahead: the same results in the same order, and no more than was allowed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from noisy_student_jax.core.prefetch import Prefetcher

WHERE = {
    "the caller": lambda: None,
    "a thread": lambda: ThreadPoolExecutor(1),
    "a pool": lambda: ThreadPoolExecutor(3),
}


@pytest.fixture(params=WHERE)
def executor(request):
    return WHERE[request.param]()


@pytest.fixture
def opened():
    """Makes a prefetcher, closed at the end."""
    made = []

    def make(function, **options):
        made.append(Prefetcher(function, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("ahead", [0, 1, 3, 20])
@pytest.mark.parametrize("stop", [7, None])
def test_results_come_in_order(opened, executor, ahead, stop):
    squares = opened(lambda n: n * n, ahead=ahead, stop=stop, executor=executor)

    assert [squares(n) for n in range(7)] == [n * n for n in range(7)]


def test_any_step_may_be_asked_for(opened, executor):
    squares = opened(lambda n: n * n, ahead=2, executor=executor)

    assert [squares(n) for n in (0, 1, 2, 5, 4, 0)] == [0, 1, 4, 25, 16, 0]


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_thread_goes_no_further_ahead_than_was_allowed(opened, ahead):
    begun, reached = [], threading.Event()

    def function(step):
        begun.append(step)
        if len(begun) == ahead + 1:
            reached.set()
        return step

    steps = opened(function, ahead=ahead, executor=ThreadPoolExecutor(1))
    assert steps(0) == 0
    assert reached.wait(10)
    steps.close()
    # The one that is being looked at, and those ahead.
    assert begun == list(range(1 + ahead))


def test_a_thread_works_while_the_caller_is_busy(opened):
    begun = threading.Event()

    def function(step):
        if step == 1:
            begun.set()
        return threading.current_thread()

    steps = opened(function, ahead=1, executor=ThreadPoolExecutor(1))
    assert steps(0) is not threading.current_thread()
    assert begun.wait(10)


@pytest.mark.parametrize("ahead", [0, 1, 2, 10])
def test_the_caller_begins_so_many_steps_before_a_result_is_given(opened, ahead):
    begun = []
    steps = opened(lambda n: begun.append(n) or n, ahead=ahead, stop=5)

    for step in range(5):
        assert steps(step) == step
        assert begun == list(range(min(5, step + 1 + ahead)))


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_steps_are_filled_in_when_it_is_said_each_once_and_none_beyond_the_last(
    opened, ahead
):
    begun = []
    steps = opened(lambda n: begun.append(n) or n, ahead=ahead, stop=9)

    for step in range(4, 9):
        before = len(begun)
        assert steps.take(step) == step
        # Only where it was not begun yet.
        assert len(begun) - before == (step == 4 or not ahead)
        steps.fill(step + 1)
        assert begun == list(range(4, min(9, step + 1 + ahead)))


@pytest.mark.parametrize("ahead", [0, 2])
def test_what_goes_wrong_ahead_is_raised_in_its_turn(opened, executor, ahead):
    def function(step):
        if step == 2:
            raise ValueError("two")
        return step

    steps = opened(function, ahead=ahead, executor=executor)
    assert [steps(0), steps(1)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        steps(2)
    assert steps(3) == 3


def test_the_caller_begins_nothing_beyond_what_went_wrong(opened):
    begun = []

    def function(step):
        begun.append(step)
        if step == 2:
            raise ValueError("two")
        return step

    steps = opened(function, ahead=9)
    assert [steps(0), steps(1)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        steps(2)
    assert begun == [0, 1, 2]


def test_a_step_that_is_jumped_to_does_not_wait_for_those_given_up(opened):
    begun, reached, go_on = [], threading.Event(), threading.Event()

    def function(step):
        begun.append(step)
        if step == 1:
            reached.set()
            go_on.wait(10)
        return step

    steps = opened(function, ahead=3, executor=ThreadPoolExecutor(1))
    assert steps(0) == 0
    assert reached.wait(10)
    threading.Timer(0.2, go_on.set).start()
    assert steps(50) == 50
    assert begun[:3] == [0, 1, 50]


def test_closing_gives_up_what_nobody_asked_for_and_ends_the_thread(opened):
    before, begun = set(threading.enumerate()), []
    reached, go_on = threading.Event(), threading.Event()

    class Watched(ThreadPoolExecutor):
        def shutdown(self, **options):
            super().shutdown(**options, wait=False)
            go_on.set()
            super().shutdown()

    def function(step):
        begun.append(step)
        if step == 1:
            reached.set()
            go_on.wait(10)
        return step

    steps = opened(function, ahead=20, executor=Watched(1))
    assert steps(0) == 0
    assert reached.wait(10)
    steps.close()

    assert begun == [0, 1]
    assert not set(threading.enumerate()) - before

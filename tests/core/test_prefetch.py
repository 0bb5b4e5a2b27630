"""Going ahead: the same results in the same order, and no more than was allowed."""

import threading

import pytest

from noisy_student_jax.core.prefetch import Prefetched, late, read_ahead


@pytest.mark.parametrize("ahead", [0, 1, 3, 20])
def test_what_is_read_ahead_comes_in_order(ahead):
    assert list(read_ahead(lambda n: n * n, range(7), ahead=ahead)) == [
        n * n for n in range(7)
    ]
    assert list(read_ahead(lambda n: n, [], ahead=ahead)) == []


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_is_read_ahead_than_was_allowed(ahead):
    read, reached = [], threading.Event()

    def reading(number):
        read.append(number)
        if len(read) == ahead + 1:
            reached.set()
        return number

    results = read_ahead(reading, range(100), ahead=ahead)
    assert next(results) == 0
    assert reached.wait(10)
    # The one that is being looked at, and those ahead.
    assert len(read) <= 1 + ahead
    results.close()


def test_it_is_read_while_the_caller_is_busy():
    begun = threading.Event()

    def reading(number):
        if number == 1:
            begun.set()
        return number

    results = read_ahead(reading, range(3), ahead=1)
    assert next(results) == 0
    assert begun.wait(10)
    results.close()


@pytest.mark.parametrize("ahead", [0, 2])
def test_what_goes_wrong_ahead_is_raised_in_its_turn(ahead):
    def reading(number):
        if number == 2:
            raise ValueError("two")
        return number

    results = read_ahead(reading, range(5), ahead=ahead)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_giving_up_ends_the_thread():
    before = threading.active_count()
    results = read_ahead(lambda n: n, range(100), ahead=2)
    next(results)
    results.close()

    assert threading.active_count() == before


@pytest.mark.parametrize("by", [0, 1, 2, 10])
def test_late_items_are_taken_by_so_many_before_they_are_given(by):
    taken = []

    def items():
        for number in range(5):
            taken.append(number)
            yield number

    given = []
    for number in late(items(), by=by):
        given.append(number)
        assert len(taken) == min(5, len(given) + by)
    assert given == list(range(5))


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_batches_are_made_ahead_but_each_once_and_none_beyond_the_last(ahead):
    made = []
    ready = Prefetched(lambda n: made.append(n) or {"step": n}, stop=9, ahead=ahead)

    for step in range(4, 9):
        assert ready(step) == {"step": step}
        ready.fill(step + 1)
        assert made == list(range(4, min(9, step + 1 + ahead)))


def test_a_batch_that_cannot_be_made_is_an_error_in_its_turn():
    def batches(step):
        if step == 2:
            raise ValueError("two")
        return {"step": step}

    ready = Prefetched(batches, stop=9, ahead=3)
    ready.fill(1)

    assert ready(1) == {"step": 1}
    with pytest.raises(ValueError, match="two"):
        ready(2)

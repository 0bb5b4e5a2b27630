"""What a plan reckons with, before there is anything to be measured."""

import types

from noisy_student_jax.planning.plan import record_bytes
from noisy_student_jax.tasks.classification import Classification


def test_a_task_tells_what_its_record_takes():
    task = Classification(("a", "b", "c"))

    assert record_bytes(task, top_k=None) == 2 * 3
    assert record_bytes(task, top_k=2) == 2 * (2 + 4)


def test_a_task_that_does_not_tell_is_taken_to_keep_two_bytes_a_class():
    task = types.SimpleNamespace(classes=("a", "b", "c"))

    assert record_bytes(task, top_k=2) == 2 * 3

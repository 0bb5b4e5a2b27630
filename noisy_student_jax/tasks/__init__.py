"""Tasks: what a label is, how it is learned, predicted, stored and judged.

A task is found by name in `TASKS`, or by ``package.module:function``. The function
takes the class names and returns a `Task`.
"""

from noisy_student_jax.core.protocols import LossOptions, Task
from noisy_student_jax.core.registry import make

TASKS = {
    "classification": "noisy_student_jax.tasks.classification:Classification",
}

__all__ = ["TASKS", "LossOptions", "Task", "create"]


def create(name: str, classes: tuple[str, ...]) -> Task:
    """Makes the task of this name for these classes.

    Raises:
      UserError: no task of this name.
    """
    return make(name, TASKS, "task", classes)

"""Tasks define targets, loss, predictions, stored columns and metrics.

A task is found by name in `TASKS`, or by ``package.module:function``. The function
takes the class names and returns a `Task`.
"""

from noisy_student_jax.core.protocols import LossOptions, Task
from noisy_student_jax.core.registry import make

TASKS = {
    "classification": "noisy_student_jax.tasks.classification:Classification",
    "detection": "noisy_student_jax.tasks.detection.task:Detection",
}

__all__ = ["TASKS", "LossOptions", "Task", "create"]


def create(name: str, classes: tuple[str, ...]) -> Task:
    """Creates a task by name.

    Raises:
      UserError: no task has this name.
    """
    return make(name, TASKS, "task", classes)

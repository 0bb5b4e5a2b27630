"""Adopts a given bundle as the first teacher, instead of training one."""

from noisy_student_jax.generation.init_weights import given_teacher
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.runs.run import Generation


def adopt(student: Generation) -> dict[str, int]:
    """Adopts a given bundle as the first teacher; returns counts for the ledger."""
    bundle = given_teacher(student)
    bundles.write(bundle, student.paths.model)
    return {
        "steps": 0,
        "images_drawn": 0,
        "labeled": 0,
        "pseudo_labeled": 0,
        "quarantined": 0,
        "parameters": student.cost.parameters,
    }

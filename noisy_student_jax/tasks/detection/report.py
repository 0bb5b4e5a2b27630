"""What detection adds to the report."""

from collections.abc import Sequence

from noisy_student_jax.core.protocols import ReportContext
from noisy_student_jax.core.sections import Section
from noisy_student_jax.tasks.detection import (
    report_boxes,
    report_pictures,
    report_precision,
)


def sections(context: ReportContext, names: Sequence[str]) -> list[Section]:
    """Returns `Task.report_sections`: pictures, pseudo-labels, and precision.

    Args:
      context: the models, their files and the images.
      names: class names.
    """
    found = [
        report_pictures.section(context, names),
        report_boxes.section(context, names),
        report_precision.section(context, names),
    ]
    return [one for one in found if one is not None]

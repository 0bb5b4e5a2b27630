"""Teachers of three sizes for one student (paper, section 4.3 and appendix).

Command: ``noisy-student study --config=configs/studies/teacher_size.py
--workdir=W``. Time: ``noisy-student plan`` with the same config and ``--measure``.
What it found: docs/claims.md.
"""

from noisy_student_jax.studies.study import CONTROL, TEACHER, Claim, Study, Variant

SIZES = ("s", "m", "l")
STUDENT = {"students.model.name": "efficientnet_tiny_s"}


def teacher(size: str) -> dict[str, str]:
    """Returns the changes that give the smallest student a teacher of some size."""
    return {**STUDENT, "teacher.model.name": f"efficientnet_tiny_{size}"}


def get_study() -> Study:
    """The smallest model, taught by models of three sizes."""
    return Study(
        name="teacher_size",
        question="Is a student better if its teacher is larger?",
        base="../digits.py",
        variants=(
            Variant(
                name="teacher of its size", changes=teacher("s"), paper="78.1 (B0)"
            ),
            Variant(name="larger teacher", changes=teacher("m")),
            Variant(name="largest teacher", changes=teacher("l"), paper="78.8 (B0)"),
            Variant(
                name="labels alone",
                changes=teacher("s"),
                judged=CONTROL,
                paper="77.3 (B0)",
            ),
            *(
                Variant(
                    name=f"the teacher itself, tiny_{size}",
                    changes=teacher(size),
                    judged=TEACHER,
                )
                for size in SIZES
            ),
        ),
        claims=(
            Claim(
                says="The largest teacher makes the better student",
                better="largest teacher",
                than="teacher of its size",
                paper="78.8 against 78.1 for B0, 86.9 against 85.9 for B7",
            ),
            Claim(
                says="A student is better than labels alone, of a teacher of its size",
                better="teacher of its size",
                than="labels alone",
                paper="78.1 against 77.3 for B0",
            ),
        ),
    )

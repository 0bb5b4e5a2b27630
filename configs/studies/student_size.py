"""Students of three sizes under one teacher (paper, appendix).

Command: ``noisy-student study --config=configs/studies/student_size.py --workdir=W``.
Time: ``noisy-student plan`` with the same config and ``--measure``.
"""

from noisy_student_jax.studies.study import CONTROL, Claim, Study, Variant

TEACHER = {"teacher.model.name": "efficientnet_tiny_s"}


def student(size: str) -> dict[str, str]:
    """Returns the changes that give the smallest teacher a student of some size."""
    return {**TEACHER, "students.model.name": f"efficientnet_tiny_{size}"}


def get_study() -> Study:
    """The smallest model teaches its like, and two larger ones."""
    return Study(
        name="student_size",
        question="Is a larger student better?",
        base="../digits.py",
        variants=(
            Variant(
                name="student of its size",
                changes=student("s"),
                paper="77.9 (B0 to B0), 84.0 (B4 to B4)",
            ),
            Variant(name="larger student", changes=student("m")),
            Variant(
                name="largest student",
                changes=student("l"),
                paper="79.5 (B0 to B1), 84.7 (B4 to B5)",
            ),
            *(
                Variant(
                    name=f"labels alone, tiny_{size}",
                    changes=student(size),
                    judged=CONTROL,
                )
                for size in ("s", "m", "l")
            ),
        ),
        claims=(
            Claim(
                says="The largest student is better than one of its teacher's size",
                better="largest student",
                than="student of its size",
                paper="79.5 against 77.9, 84.7 against 84.0",
            ),
            Claim(
                says="The largest student is better than labels alone of its size",
                better="largest student",
                than="labels alone, tiny_l",
            ),
        ),
    )

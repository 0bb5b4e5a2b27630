"""A study in seconds: what it finds is beside the point."""

from noisy_student_jax.studies.study import CONTROL, Claim, Study, Variant


def get_study():
    return Study(
        name="tiny",
        question="Does noise help the student?",
        base="tiny.py",
        variants=(
            Variant(name="noised student", paper="84.9"),
            Variant(
                name="without noise",
                changes={
                    "students.noise.pseudo.randaugment_layers": 0,
                    "students.noise.pseudo.dropout": False,
                },
                paper="84.3",
            ),
            Variant(name="labels alone", judged=CONTROL),
        ),
        claims=(
            Claim(
                says="Noise helps the student",
                better="noised student",
                than="without noise",
                paper="84.9 against 84.3",
            ),
        ),
    )

"""Noise for a small student under a much larger teacher.

Depth Anything V2 (Yang et al., 2024) leaves it out where the teacher is much larger.
Command: ``noisy-student study --config=configs/studies/small_student.py --workdir=W``.
Time: ``noisy-student plan`` with the same config and ``--measure``.
"""

from noisy_student_jax.studies.study import CONTROL, Claim, Study, Variant

SMALL = {
    "teacher.model.name": "efficientnet_tiny_l",
    "students.model.name": "efficientnet_tiny_s",
}
NO_NOISE = {
    "students.noise.pseudo.randaugment_layers": 0,
    "students.noise.pseudo.crop_padding": 0,
    "students.noise.pseudo.dropout": False,
    "students.noise.pseudo.stochastic_depth": False,
}


def get_study() -> Study:
    """The smallest student of the largest teacher, with and without noise."""
    return Study(
        name="small_student",
        question="Does noise help a small student under a much larger teacher?",
        base="../digits.py",
        variants=(
            Variant(name="noised", changes=SMALL),
            Variant(name="without noise", changes={**SMALL, **NO_NOISE}),
            Variant(name="labels alone", changes=SMALL, judged=CONTROL),
        ),
        claims=(
            Claim(
                says="Noise helps a small student under a much larger teacher",
                better="noised",
                than="without noise",
            ),
        ),
    )

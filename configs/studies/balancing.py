"""Pseudo-labels balanced by class, and as they come (paper, appendix).

Command: ``noisy-student study --config=configs/studies/balancing.py --workdir=W``.
Time: ``noisy-student plan`` with the same config and ``--measure``.
"""

from noisy_student_jax.studies.study import Claim, Study, Variant

UNBALANCED = {"students.selection.method": "all"}
SMALL = {"students.model.name": "efficientnet_tiny_s"}


def get_study() -> Study:
    """With and without balancing, for the largest and the smallest student."""
    return Study(
        name="balancing",
        question="Does balancing pseudo-labels by class help?",
        base="../digits.py",
        variants=(
            Variant(name="balanced", paper="77.9, 79.9, 80.7, 82.1 (B0 to B3)"),
            Variant(
                name="unbalanced",
                changes=UNBALANCED,
                paper="77.6, 79.6, 80.6, 82.1 (B0 to B3)",
            ),
            Variant(name="balanced, small student", changes=SMALL),
            Variant(name="unbalanced, small student", changes={**SMALL, **UNBALANCED}),
        ),
        claims=(
            Claim(
                says="Balancing helps a small student",
                better="balanced, small student",
                than="unbalanced, small student",
                paper="77.9 against 77.6 for B0",
            ),
            Claim(
                says="Balancing helps a larger student",
                better="balanced",
                than="unbalanced",
                paper="82.1 against 82.1 for B3: it does not",
            ),
        ),
    )

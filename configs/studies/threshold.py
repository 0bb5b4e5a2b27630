"""The score from which pseudo-labels are kept.

Command: ``noisy-student study --config=configs/studies/threshold.py --workdir=W``.
Time: ``noisy-student plan`` with the same config and ``--measure``.
"""

from noisy_student_jax.studies.study import Claim, Study, Variant

KEPT = 0.6


def threshold(score: float, paper: str = "") -> Variant:
    """Returns the variant that keeps labels of higher scores."""
    changes = {"students.selection.min_score": score}
    return Variant(name=f"above {score:g}", changes=changes, paper=paper)


def get_study() -> Study:
    """From all pseudo-labels to the surest alone."""
    return Study(
        name="threshold",
        question="Which pseudo-labels are sure enough?",
        base="../digits.py",
        variants=(
            threshold(KEPT),
            threshold(0.0),
            threshold(0.3, "the paper's choice"),
            threshold(0.9),
        ),
        claims=(
            Claim(
                says="Leaving out unsure pseudo-labels is better than keeping all",
                better=f"above {KEPT:g}",
                than="above 0",
            ),
            Claim(
                says="Keeping the surest alone is worse",
                better=f"above {KEPT:g}",
                than="above 0.9",
            ),
        ),
    )

"""Pseudo-labeled images per labeled image of a step (paper, appendix).

Command: ``noisy-student study --config=configs/studies/ratio.py --workdir=W``. Time:
``noisy-student plan`` with the same config and ``--measure``.
"""

from noisy_student_jax.studies.study import Claim, Study, Variant


def ratio(pseudo: int, paper: str = "") -> Variant:
    """Returns the variant with so many pseudo-labeled images per labeled one."""
    changes = {"students.train.ratio": float(pseudo)}
    return Variant(name=f"{pseudo}:1", changes=changes, paper=paper)


def get_study() -> Study:
    """As many labeled images in each step, and more or fewer pseudo-labeled ones."""
    return Study(
        name="ratio",
        question="How many pseudo-labeled images does a step need?",
        base="../digits.py",
        variants=(
            ratio(3, "84.0 (B4), 87.4 (L2)"),
            ratio(1, "84.0 (B4), 86.7 (L2)"),
            ratio(6, "87.9 (L2)"),
        ),
        claims=(
            Claim(
                says="Three pseudo-labeled images per labeled one are better than one",
                better="3:1",
                than="1:1",
                paper="87.4 against 86.7 for L2, level for B4",
            ),
            Claim(
                says="Six are better than three",
                better="6:1",
                than="3:1",
                paper="87.9 against 87.4 for L2, of better teachers",
            ),
        ),
    )

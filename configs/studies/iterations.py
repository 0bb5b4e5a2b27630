"""One to four students in a row (paper, section 4.2).

Command: ``noisy-student study --config=configs/studies/iterations.py
--workdir=W``. Time: ``noisy-student plan`` with the same config and ``--measure``.
What it found: docs/claims.md.
"""

from noisy_student_jax.studies.study import Claim, Study, Variant


def get_study() -> Study:
    """One to four students in a row, against one of as many steps as three."""
    return Study(
        name="iterations",
        question="Do iterations help?",
        base="../digits.py",
        variants=(
            Variant(name="1 iteration", paper="87.6"),
            Variant(name="2 iterations", generations=3, paper="88.1"),
            Variant(name="3 iterations", generations=4, paper="88.4"),
            Variant(name="4 iterations", generations=5),
            Variant(
                name="1 iteration of triple length",
                changes={"students.train.steps": 2400},
            ),
        ),
        claims=(
            Claim(
                says="A second iteration is better than one",
                better="2 iterations",
                than="1 iteration",
                paper="88.1 against 87.6",
            ),
            Claim(
                says="Three iterations are better than one",
                better="3 iterations",
                than="1 iteration",
                paper="88.4 against 87.6, with a larger ratio of unlabeled images",
            ),
            Claim(
                says="Three iterations are better than one of as many steps",
                better="3 iterations",
                than="1 iteration of triple length",
            ),
        ),
    )

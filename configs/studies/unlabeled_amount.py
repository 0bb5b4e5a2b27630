"""From all of the pool to 1/128 of it (paper, section 4.3 and appendix).

Command: ``noisy-student study --config=configs/studies/unlabeled_amount.py
--workdir=W``. Time: ``noisy-student plan`` with the same config and ``--measure``.
What it found: docs/claims.md.
"""

from noisy_student_jax.studies.study import CONTROL, Claim, Study, Variant

PAPER = {1: "84.0", 4: "83.8", 16: "83.9", 32: "83.7", 64: "83.3", 128: "83.4"}
"""Top-1 accuracy of B4, of which labels alone have 83.2, by the divisor."""


def amount(divisor: int) -> Variant:
    """Returns the variant that reads one part of so many of the pool."""
    name = "all of the pool" if divisor == 1 else f"1/{divisor} of the pool"
    changes = {"students.selection.pool_fraction": 1 / divisor}
    return Variant(name=name, changes=changes, paper=PAPER[divisor])


def get_study() -> Study:
    """A uniform sample of the pool; every student has as many steps and draws."""
    return Study(
        name="unlabeled_amount",
        question="Is much unlabeled data needed?",
        base="../digits.py",
        variants=(
            *map(amount, PAPER),
            Variant(name="labels alone", judged=CONTROL, paper="83.2"),
        ),
        claims=(
            Claim(
                says="All of the pool is better than 1/128 of it",
                better="all of the pool",
                than="1/128 of the pool",
                paper="84.0 against 83.4",
            ),
            Claim(
                says="All of the pool is better than a quarter of it",
                better="all of the pool",
                than="1/4 of the pool",
                paper="84.0 against 83.8",
            ),
            Claim(
                says="All of the pool is better than labels alone",
                better="all of the pool",
                than="labels alone",
                paper="84.0 against 83.2",
            ),
        ),
    )

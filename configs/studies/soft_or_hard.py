"""Soft and hard pseudo-labels by confidence (paper, section 4.3, appendix).

Command: ``noisy-student study --config=configs/studies/soft_or_hard.py
--workdir=W``. Time: ``noisy-student plan`` with the same config and ``--measure``.
What it found: docs/claims.md.
"""

from noisy_student_jax.studies.study import CONTROL, Claim, Study, Variant

BINS = {
    (0.0, 0.5): ("77.52 to 77.70", "75.75 to 76.93"),
    (0.5, 0.8): ("77.81 to 77.98", "77.10 to 77.67"),
    (0.8, 1.0): ("77.97, 78.05", "77.96, 77.92"),
}
"""The paper's figures of soft and of hard labels, in its bins of a tenth (read off its
plot: ± 0.05), by bin of the teacher's confidence."""


def of_bin(low: float, high: float, targets: str, paper: str) -> Variant:
    """Returns the variant whose student learns from one bin of confidence."""
    return Variant(
        name=f"{targets}, {low:g} to {high:g}",
        changes={
            "students.train.targets": targets,
            "students.selection.method": "all",
            "students.selection.min_score": low,
            "students.selection.max_score": high,
        },
        paper=paper,
    )


def get_study() -> Study:
    """Students of each kind of labels, from images of low, middle, high confidence."""
    pairs = [
        (of_bin(*ends, "soft", soft), of_bin(*ends, "hard", hard))
        for ends, (soft, hard) in BINS.items()
    ]
    return Study(
        name="soft_or_hard",
        question="Are soft pseudo-labels better than hard ones?",
        base="../digits.py",
        variants=(
            Variant(
                name="labels alone",
                changes={"students.selection.method": "all"},
                judged=CONTROL,
                paper="77.3",
            ),
            *(one for pair in pairs for one in pair),
        ),
        claims=tuple(
            Claim(
                says="Soft labels are better where the teacher's confidence is"
                f" {soft.name.removeprefix('soft, ')}",
                better=soft.name,
                than=hard.name,
                paper=f"{soft.paper} against {hard.paper}",
            )
            for soft, hard in pairs
        ),
    )

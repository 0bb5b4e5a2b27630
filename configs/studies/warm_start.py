"""Students that start from their teacher's weights, and from nothing (appendix).

Command: ``noisy-student study --config=configs/studies/warm_start.py --workdir=W``.
Time: ``noisy-student plan`` with the same config and ``--measure``.
"""

from noisy_student_jax.studies.study import Claim, Study, Variant

SAME = {"teacher.model.name": "efficientnet_tiny_l"}


def warm(steps: int, paper: str) -> Variant:
    """Returns the variant that trains its teacher's weights for so many steps."""
    changes = {
        **SAME,
        "students.model.init": "teacher",
        "students.train.steps": steps,
    }
    return Variant(name=f"warm, {steps} steps", changes=changes, paper=paper)


def get_study() -> Study:
    """From a tenth of the usual steps to all of them, against a start from nothing."""
    return Study(
        name="warm_start",
        question="Does a student need to start from nothing?",
        base="../digits.py",
        variants=(
            Variant(name="from nothing", changes=SAME, paper="77.9 (350 epochs)"),
            warm(80, "77.4 (35 epochs)"),
            warm(160, "77.5 (70 epochs)"),
            warm(320, "77.7 (140 epochs)"),
            warm(800, "77.8 (280 epochs)"),
        ),
        claims=(
            Claim(
                says="A start from nothing is better than one from the teacher",
                better="from nothing",
                than="warm, 800 steps",
                paper="77.9 against 77.8",
            ),
            Claim(
                says="A warm start needs many steps too",
                better="warm, 800 steps",
                than="warm, 80 steps",
                paper="77.8 against 77.4",
            ),
        ),
    )

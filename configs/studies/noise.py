"""A student with and without noise on unlabeled images (paper, section 4.1).

Command: ``noisy-student study --config=configs/studies/noise.py
--workdir=W``. Time: ``noisy-student plan`` with the same config and ``--measure``.
What it found: docs/claims.md.
"""

from noisy_student_jax.studies.study import CONTROL, Claim, Study, Variant

AUGMENTATION = {
    "students.noise.pseudo.randaugment_layers": 0,
    "students.noise.pseudo.crop_padding": 0,
}
MODEL_NOISE = {
    "students.noise.pseudo.dropout": False,
    "students.noise.pseudo.stochastic_depth": False,
}


def get_study() -> Study:
    """Noise is removed on unlabeled images only, as in the paper."""
    return Study(
        name="noise",
        question="Does noise help the student?",
        base="../digits.py",
        variants=(
            Variant(name="noised student", paper="83.9, 84.9"),
            Variant(
                name="without augmentation", changes=AUGMENTATION, paper="83.6, 84.6"
            ),
            Variant(name="without model noise", changes=MODEL_NOISE),
            Variant(
                name="without any noise",
                changes={**AUGMENTATION, **MODEL_NOISE},
                paper="83.2, 84.3",
            ),
            Variant(name="labels alone", judged=CONTROL, paper="83.3, 84.0"),
        ),
        claims=(
            Claim(
                says="A noised student is better than one without noise",
                better="noised student",
                than="without any noise",
                paper="83.9 against 83.2 with 1.3M images, 84.9 against 84.3 with 130M",
            ),
            Claim(
                says="Augmentation of unlabeled images helps",
                better="noised student",
                than="without augmentation",
                paper="83.9 against 83.6, 84.9 against 84.6",
            ),
            Claim(
                says="A noised student is better than labels alone",
                better="noised student",
                than="labels alone",
                paper="83.9 against 83.3, 84.9 against 84.0",
            ),
        ),
    )

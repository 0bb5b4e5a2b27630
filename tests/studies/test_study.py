"""Files of studies: variants as flags, and what is refused."""

import pytest
from support import ROOT

from noisy_student_jax import config as configs
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.studies import study
from noisy_student_jax.studies.study import Claim, Study, Variant

STUDIES = sorted((ROOT / "configs" / "studies").glob("*.py"))


ONE = Variant(name="one")


def a_study(*, variants=(ONE,), claims=()):
    return Study(
        name="s", question="Is it?", base="b.py", variants=variants, claims=claims
    )


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_variant_of_every_study_is_a_valid_config(path):
    found = study.load(path)

    assert found.name == path.stem
    for variant in found.variants:
        config = configs.load(path.parent / found.base, variant.overrides())
        assert len(config.generations) == variant.generations
        assert config.control.enabled == (variant.judged == study.CONTROL)


def test_changes_reach_the_teacher_the_students_or_all():
    flags = Variant(
        name="x",
        generations=3,
        judged=study.CONTROL,
        changes={
            "teacher.model.name": "m",
            "students.noise.pseudo.flip": False,
            "seed": 3,
            "students.selection.max_copies": None,
        },
    ).overrides()

    assert flags == [
        "--config.generations=3",
        "--config.generations[0].model.name=m",
        "--config.generations[1].noise.pseudo.flip=false",
        "--config.generations[2].noise.pseudo.flip=false",
        "--config.seed=3",
        "--config.generations[1].selection.max_copies=none",
        "--config.generations[2].selection.max_copies=none",
    ]


def test_all_variants_are_compared_with_the_base_and_claims_with_theirs():
    variants = tuple(Variant(name=name) for name in "abc")
    claim = Claim(says="c beats b", better="c", than="b")

    assert a_study(variants=variants, claims=(claim,)).pairs == [
        ("b", "a"),
        ("c", "a"),
        ("c", "b"),
    ]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: a_study(variants=()), "has no variants"),
        (
            lambda: a_study(variants=(Variant(name="a b"), Variant(name="a-b"))),
            "two variants' folders named 'a_b'",
        ),
        (
            lambda: a_study(variants=(Variant(name="a", judged="me"),)),
            "judged by 'me', which may only be one of student, teacher, control",
        ),
        (
            lambda: a_study(claims=(Claim(says="so", better="one", than="on"),)),
            "has no variant 'on', which the claim 'so' is about; did you mean 'one'",
        ),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(made, says):
    with pytest.raises(UserError, match=says):
        made()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no study at"),
        ("def get_config(): pass", "defines no get_study"),
        ("def get_study(): return 1", "returned int, not a Study"),
        (
            "def get_study(): return 1 / 0",
            "failed: ZeroDivisionError",
        ),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path, text, says):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=says):
        study.load(path)

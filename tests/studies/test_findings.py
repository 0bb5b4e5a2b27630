"""Results of seeds, put together: rows, claims, and what is missing."""

import json

import pytest

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.studies import comparison
from noisy_student_jax.studies.findings import as_json, findings, text
from noisy_student_jax.studies.study import Claim, Study, Variant

STUDY = Study(
    name="s",
    question="Is it so?",
    base="b.py",
    variants=(
        Variant(name="base", paper="83.9"),
        Variant(name="worse"),
        Variant(name="gone"),
    ),
    claims=(
        Claim(says="The base is better", better="base", than="worse", paper="1 and 2"),
        Claim(says="It is there", better="gone", than="base"),
    ),
)
GAPS = (-0.030, -0.031, -0.029, -0.030, -0.032)


def result(seed, *, gap, variance=1e-8, test="same", base="b.py"):
    values = {"base": 0.9, "worse": 0.9 + gap, "gone": None}
    pairs = []
    for ours, theirs in STUDY.pairs:
        known = None not in (values[ours], values[theirs])
        pairs.append(
            {
                "of": ours,
                "than": theirs,
                "difference": values[ours] - values[theirs] if known else None,
                "variance": variance if known else None,
            }
        )
    return {
        "study": "s",
        "base": base,
        "seed": seed,
        "metric": "top1",
        "images": 600,
        "pool": 947,
        "test": test,
        "variants": {name: {"value": value} for name, value in values.items()},
        "pairs": pairs,
    }


def found(**more):
    return findings(
        STUDY, [result(seed, gap=gap, **more) for seed, gap in enumerate(GAPS)]
    )


def test_rows_have_mean_spread_and_the_difference_to_the_base():
    base, worse, gone = found().rows

    assert base.told == "90.0 ± 0.0" and base.against is None
    assert worse.told == "87.0 ± 0.1"
    assert worse.against.mean == pytest.approx(-0.0304)
    assert gone.told == "no student" and gone.against is None


def test_a_claim_is_judged_and_one_without_models_is_not_told():
    held, unknown = found().claims

    assert held.verdict == comparison.HOLDS
    assert held.found.mean == pytest.approx(0.0304)
    assert unknown.verdict == comparison.UNKNOWN
    assert "no seed has both models" in unknown.says


def test_the_text_has_a_row_for_each_variant_and_a_sentence_for_each_claim():
    told = text(found())

    assert told.startswith("Is it so?")
    assert "worse  87.0 ± 0.1  −3.0 [−3.2, −2.9]" in told
    assert "- The base is better (paper: 1 and 2): holds here, +3.0 [+2.9, +3.2]" in (
        told
    )
    assert "- It is there: cannot tell: no seed has both models." in told


def test_test_images_of_their_own_are_among_the_seeds():
    wide, own = (
        findings(
            STUDY,
            [
                result(seed, gap=gap, variance=0.01**2, test=test(seed))
                for seed, gap in enumerate(GAPS)
            ],
        )
        .rows[1]
        .against.error
        for test in (lambda seed: "same", lambda seed: f"images of seed {seed}")
    )

    assert wide > 0.01 > own


def test_results_of_two_bases_are_not_mixed():
    other = result(9, gap=0.0, base="other.py")
    with pytest.raises(UserError, match=r"of several \(b.py, other.py\) as base"):
        findings(STUDY, [result(0, gap=0.0), other])


def test_what_is_kept_is_json_without_nan():
    one = findings(STUDY, [result(0, gap=0.1)])

    kept = json.loads(json.dumps(as_json(one), allow_nan=False))
    assert kept["variants"][1]["against_base"]["interval"] is None
    assert kept["claims"][0]["told"] == ("cannot tell: one seed says nothing of others")

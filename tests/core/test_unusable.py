"""Records that cannot be used: told of, and refused where they are too many."""

import pathlib

import pytest

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.unusable import refuse, tell

FOUR = [("a\n", "torn\x1b[2J"), ("b", "empty"), ("c", "torn"), ("d", "torn")]
NAMED = r"the first being 'a\n' (torn\x1b[2J), 'b' (empty), 'c' (torn)"
CSV = pathlib.Path("quarantine.csv")


def test_a_few_are_counted_named_and_left_out(capsys):
    tell(FOUR, 1000, "test images", most=0.004)

    assert capsys.readouterr().out == (
        f"WARNING: 4 of 1,000 test images cannot be used and are left out, {NAMED}\n"
    )


def test_a_file_that_names_all_is_told(capsys):
    tell(FOUR, 1000, "files", most=1.0, listed=CSV)

    assert capsys.readouterr().out.endswith("(torn); 'quarantine.csv' names all\n")


def test_nothing_is_said_of_none(capsys):
    tell([], 5, "test images", most=0.0)
    refuse([], 5, "test images")

    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("judge", [tell, refuse])
def test_too_many_are_a_mistake_to_repair(judge, capsys):
    with pytest.raises(UserError) as caught:
        judge(FOUR, 1000, "test images", most=0.0039, listed=CSV)

    assert str(caught.value) == (
        "4 of 1,000 test images cannot be used, more than"
        f" config.data.max_quarantined=0.0039 of them, {NAMED}: see 'quarantine.csv',"
        " then repair, replace or remove them, or allow more"
    )
    assert capsys.readouterr().out == ""


def test_what_is_allowed_is_not_refused():
    refuse(FOUR, 4, "test images", most=1.0)


def test_where_none_may_be_unusable_no_more_can_be_allowed():
    with pytest.raises(UserError) as caught:
        refuse({"a": "torn"}.items(), 4, "labeled images")

    assert str(caught.value) == (
        "1 of 4 labeled images cannot be used, the first being 'a' (torn):"
        " repair, replace or remove them"
    )

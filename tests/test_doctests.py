"""The examples in docstrings give what they say."""

import doctest
import importlib

import pytest
from support import ROOT

PACKAGE = "noisy_student_jax"
NAMES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / PACKAGE).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_there_are_examples():
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_examples_give_what_they_say(name):
    failed, tried = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS
    )

    assert tried
    assert not failed

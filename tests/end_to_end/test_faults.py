"""A run's damaged files are mended or refused, never trusted; signals lose nothing.

The long form, with its table, is `benchmarks/faults.py`.
"""

import random

import faults
import pytest


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> faults.Bench:
    return faults.Bench(tmp_path_factory.mktemp("faults"), seed=1)


@pytest.mark.parametrize("kind", faults.KINDS, ids=lambda kind: kind.name)
def test_a_damaged_file_never_changes_a_result_in_silence(kind, bench):
    for number in range(2):
        found = bench.damage(kind, number)
        assert found.outcome not in faults.FAILURES, (found.what, found.output)


def test_the_outcomes_are_told_apart():
    outcome = faults.outcome

    assert outcome(0, "", True, {"a.json"}) == "same"
    assert outcome(0, "WARNING: 'a.json' is damaged", True, {"a.json"}) == "mended"
    assert outcome(2, "error: 'a.json' is damaged", False, {"a.json"}) == "refused"
    assert outcome(0, "", False, {"a.json"}) == "WRONG"
    assert outcome(2, "error: one\nerror: two", False, {"a.json"}) == "TRACEBACK"
    assert outcome(1, "Traceback (most recent…", False, {"a.json"}) == "TRACEBACK"
    assert outcome(None, "", False, {"a.json"}) == "TRACEBACK"


def test_a_harm_changes_the_bytes_or_removes_the_file(tmp_path):
    paths = [tmp_path / name for name in ("a.bin", "b.bin")]
    for seed in range(30):
        for number, path in enumerate(paths):
            path.write_bytes(bytes([number + 1]) * 100)
        before = [path.read_bytes() for path in paths]

        faults.harm(random.Random(seed), paths)

        assert before != [path.exists() and path.read_bytes() for path in paths]

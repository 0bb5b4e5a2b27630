"""Mutated files of other programs are read, or refused in one sentence."""

import fuzz
import pytest

READERS = {reader.name: reader for reader in fuzz.READERS}
KEPT = sorted(path for path in fuzz.CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_read_or_refused(name, tmp_path):
    fuzz.search(READERS[name], tmp_path, examples=120)


@pytest.mark.parametrize(
    "path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_a_file_that_was_once_too_much_is_refused(path, tmp_path):
    reader = READERS[path.parent.name]

    assert fuzz.read_one(reader, path.read_bytes(), tmp_path) == "refused"


def test_anything_but_a_refusal_is_a_fault(tmp_path):
    def read(path):
        raise KeyError(path.name)

    reader = fuzz.Reader("bad", ".txt", lambda: [b"x"], read)
    with pytest.raises(fuzz.FaultError, match="KeyError"):
        fuzz.read_one(reader, b"x", tmp_path)

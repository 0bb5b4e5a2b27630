"""The ledger: a stage happened, from what, and what came out."""

import pytest

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.runs import ledger
from noisy_student_jax.runs.ledger import Identity, Ledger

STAGE = "generation_0/train"
IDENTITY = Identity(
    config={"train": {"batch": 8, "ratio": 1.0}, "mean": (0.1, 0.2)},
    inputs={"data": "d1"},
)


@pytest.fixture
def book(tmp_path):
    return Ledger(tmp_path / "run")


def finished(book, outputs=("generation_0/model",), stage=STAGE):
    """Writes the stage's files and its manifest."""
    for output in outputs:
        files.write_atomically(book.workdir / output / "weights", output)
    book.begin(stage, IDENTITY)
    book.finish(
        stage, IDENTITY, outputs=list(outputs), counts={"steps": 3}, seconds=1.23456
    )


def test_opening_makes_nothing(book):
    assert book.manifest(STAGE) is None
    assert book.started(STAGE) is None
    assert not book.workdir.exists()


def test_a_stage_has_started_until_it_has_finished(book):
    book.begin(STAGE, IDENTITY)
    assert book.manifest(STAGE) is None
    started = book.started(STAGE)
    assert started["environment"] == ledger.environment()
    assert not IDENTITY.differences(started)

    finished(book)
    assert book.started(STAGE) is None
    assert book.manifest(STAGE)["started"] == started["at"]


def test_the_manifest_says_from_what_and_what_came_out(book):
    finished(book)

    manifest = book.manifest(STAGE)
    path = "generation_0/model/weights"
    assert manifest["schema"] == 1
    assert manifest["stage"] == STAGE
    assert manifest["outputs"] == {path: files.sha256(book.workdir / path)}
    assert manifest["counts"] == {"steps": 3}
    assert manifest["seconds"] == 1.235
    assert manifest["environment"]["versions"].keys() == set(ledger.VERSIONS)
    assert (book.workdir / "ledger" / "generation_0.train.json").is_file()


def test_the_same_identity_is_the_same_after_it_was_written_and_read(book):
    finished(book)

    assert IDENTITY.differences(book.manifest(STAGE)) == []


@pytest.mark.parametrize(
    ("config", "inputs", "said"),
    [
        ({"train": {"batch": 16, "ratio": 1.0}}, {}, ["config.train.batch: 8 → 16"]),
        ({"train": {"batch": 8}}, {}, ["config.train.ratio: 1.0 → (absent)"]),
        ({"mean": (0.1, 0.3)}, {}, ["config.mean: [0.1, 0.2] → [0.1, 0.3]"]),
        ({"new": True}, {}, ["config.new: (absent) → True"]),
        ({}, {"data": "d2"}, ["input 'data'"]),
        ({}, {"more": "m1"}, ["input 'more'"]),
    ],
    ids=str,
)
def test_what_changed_is_named(book, config, inputs, said):
    finished(book)
    changed = Identity(IDENTITY.config | config, IDENTITY.inputs | inputs)

    assert changed.differences(book.manifest(STAGE)) == said


def test_an_input_that_is_gone_is_named(book):
    finished(book)

    gone = Identity(IDENTITY.config, {})

    assert gone.differences(book.manifest(STAGE)) == ["input 'data'"]


def test_outputs_that_are_not_what_they_were_are_found(book):
    finished(book, ("a", "b", "c"))
    assert book.changed_outputs(STAGE, ["a", "b", "c"]) == []

    (book.workdir / "a" / "weights").write_text("other")
    (book.workdir / "b" / "weights").unlink()

    assert book.changed_outputs(STAGE, ["a", "b", "c"]) == ["a/weights", "b/weights"]


def test_one_digest_stands_for_all_outputs(book):
    finished(book, ("a", "b"))
    before = book.outputs_digest(STAGE)
    finished(book, ("a", "b"))
    assert book.outputs_digest(STAGE) == before

    finished(book, ("a", "c"))
    assert book.outputs_digest(STAGE) != before


def test_outputs_of_a_stage_that_has_not_finished_are_refused(book):
    book.begin(STAGE, IDENTITY)

    with pytest.raises(UserError, match=f"stage {STAGE} has not finished in .*run it"):
        book.outputs_digest(STAGE)


def test_superseding_moves_files_and_records_and_deletes_nothing(book):
    finished(book, ("generation_0/model",))

    folder = book.supersede(STAGE, ["generation_0/model"])

    assert folder == book.workdir / "superseded" / "1"
    assert book.manifest(STAGE) is None
    assert not (book.workdir / "generation_0/model").exists()
    moved = folder / "generation_0/model/weights"
    assert moved.read_text() == "generation_0/model"
    assert (folder / "ledger" / "generation_0.train.json").is_file()


def test_a_folder_within_another_output_moves_with_it_in_any_order(book):
    outputs = ["generation_0/model", "generation_0/train/raw_model"]
    finished(book, outputs)
    files.write_atomically(book.workdir / "generation_0/train/metrics", "m")

    # As training says it: the raw model lies within its working files.
    folder = book.supersede(STAGE, [*outputs, "generation_0/train"])

    assert not list((book.workdir / "generation_0").iterdir())
    for name in ("model/weights", "train/raw_model/weights", "train/metrics"):
        assert (folder / "generation_0" / name).is_file()


def test_superseding_again_takes_another_folder(book):
    for number in ("1", "2", "3"):
        finished(book)
        assert book.supersede(STAGE, ["generation_0/model"]).name == number
    assert book.supersede(STAGE, ["generation_0/model"]) is None


def test_stages_superseded_together_share_a_folder(book):
    finished(book, ("a",), "one")
    finished(book, ("b",), "two")

    assert book.supersede("one", ["a"]) == book.supersede("two", ["b"])


def test_a_changed_environment_is_said():
    now = ledger.environment()
    assert ledger.environment_changes(now) == []

    before = now | {"cores": 99, "versions": now["versions"] | {"jax": "0.1"}}

    assert ledger.environment_changes(before) == [
        f"cores: 99 → {now['cores']}",
        f"versions.jax: 0.1 → {now['versions']['jax']}",
    ]


def test_time_spent_before_a_stop_counts(book):
    book.begin(STAGE, IDENTITY)
    book.spend(STAGE, 10.0)
    book.spend(STAGE, 2.5)
    book.finish(STAGE, IDENTITY, outputs=[], counts={}, seconds=1.0)

    assert book.manifest(STAGE)["seconds"] == 13.5


def flipped(path, *, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", ["", ".started"])
def test_a_flipped_bit_in_a_record_is_found_or_changes_nothing(suffix, book):
    finished(book)
    if suffix:
        book.begin(STAGE, IDENTITY)
        (book.folder / "generation_0.train.json").unlink()
    read = book.started if suffix else book.manifest
    path = book.folder / f"generation_0.train{suffix}.json"
    before, whole = read(STAGE), path.read_bytes()
    found = 0

    for byte in range(0, len(whole), 3):
        flipped(path, byte=byte)
        assert read(STAGE) is None or before.items() <= read(STAGE).items()
        found += bool(book.fault(STAGE))
        path.write_bytes(whole)

    assert found > 0.9 * len(whole) / 3
    assert book.fault(STAGE) is None


def test_a_record_of_another_stage_is_not_believed(book):
    finished(book)
    mine = book.folder / "generation_0.train.json"
    files.copy_file(mine, book.folder / "generation_1.train.json")

    assert book.manifest("generation_1/train") is None
    assert "is the record of generation_0/train" in book.fault("generation_1/train")


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "[" * 100_000, '{"config": {}}', '{"stage": "generation_0/train"}'],
)
def test_what_is_no_record_is_not_believed(text, book):
    files.write_atomically(book.folder / "generation_0.train.started.json", text)

    assert book.started(STAGE) is None
    where = "ledger/generation_0.train.started.json"
    assert book.fault(STAGE).startswith(f"its record '{where}' is damaged: ")


def test_a_start_is_made_for_its_stage_and_identity(book):
    book.begin(STAGE, IDENTITY)
    first = book.made_for(STAGE)
    book.spend(STAGE, 1.0)
    assert book.made_for(STAGE) == first

    book.begin(STAGE, Identity(IDENTITY.config, {"data": "d2"}))
    assert book.made_for(STAGE) not in (first, None)
    book.begin("generation_1/train", IDENTITY)
    assert book.made_for("generation_1/train") not in (first, None)

"""What is finished is skipped; what changed is named, and never redone unasked."""

import fcntl
import hashlib
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
import support
from support import ROOT

from noisy_student_jax.cli.main import main
from noisy_student_jax.core import summed

GRAY = ROOT / "tests" / "configs" / "gray.py"
MODELS = ("generation_0", "generation_1", "control")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    """A finished run of a small config. Do not change it: copy it first."""
    workdir = tmp_path_factory.mktemp("gray") / "run"
    assert main(line("run", workdir)) == 0
    return workdir


@pytest.fixture
def run(finished, tmp_path) -> pathlib.Path:
    """A copy of it, to do anything with."""
    return shutil.copytree(finished, tmp_path / "run")


def line(command: str, workdir, *more: str, config=GRAY) -> list[str]:
    return [command, f"--config={config}", f"--workdir={workdir}", *more]


def done(capsys, arguments: list[str]) -> str:
    """Runs a command that has to succeed; returns what it said."""
    capsys.readouterr()
    status = main(arguments)
    out, err = capsys.readouterr()
    assert status == 0, out + err
    return out


def refused(capsys, arguments: list[str]) -> str:
    """Runs a command that has to be refused; returns its sentence."""
    capsys.readouterr()
    status = main(arguments)
    out, err = capsys.readouterr()
    assert status == 2, out + err
    assert "Traceback" not in out + err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


def performed(out: str) -> list[str]:
    """The stages that were not skipped."""
    stages = [row for row in out.splitlines() if row.startswith("[")]
    return [row.split()[1] for row in stages if not row.endswith("skipped")]


def hashes(workdir: pathlib.Path, *, below: str = "") -> dict[str, str]:
    return {
        path.relative_to(workdir).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted((workdir / below).rglob("*"))
        if path.is_file()
    }


def models(workdir: pathlib.Path, names=MODELS) -> dict[str, str]:
    return {n: hashes(workdir)[f"{n}/model/model.safetensors"] for n in names}


def test_what_is_finished_is_skipped_and_nothing_is_touched(run, capsys):
    before = hashes(run)
    out = done(capsys, line("run", run))
    assert performed(out) == []
    assert out.count(": finished already, skipped") == 11
    assert hashes(run) == before
    says = json.loads((run / "summary.json").read_text())["verdict"]["says"]
    assert says in out.splitlines()


@pytest.mark.parametrize(
    "override",
    [
        "log.every_steps=7",
        "log.validate_every_steps=9",
        "log.every_seconds=1",
        "checkpoint.every_steps=3",
        "checkpoint.keep=1",
        "labels.batch=10",
        "evaluation.batch=7",
    ],
)
def test_an_operational_field_changes_nothing(override, run, capsys):
    before = models(run)
    out = done(capsys, line("run", run, f"--config.{override}"))
    assert performed(out) == []
    assert models(run) == before
    assert not (run / "superseded").exists()


CHANGES = {
    "generations[1].train.learning_rate=1.0": (
        "generation_1/train (config.train.learning_rate: 2.0 → 1.0)",
        [
            "generation_1/train",
            "generation_1/evaluate",
            # It is the last student, but for its labels.
            "control/train",
            "control/evaluate",
            "report",
        ],
    ),
    "generations[1].selection.min_score=0.6": (
        "generation_0/select (config.selection.min_score: 0.5 → 0.6)",
        [
            "generation_0/select",
            "generation_1/train",
            "generation_1/evaluate",
            "report",
        ],
    ),
    "control.train.steps=20": (
        "control/train (config.train.steps: 30 → 20)",
        ["control/train", "control/evaluate", "report"],
    ),
    "evaluation.confidence=0.9": (
        "generation_0/evaluate (config.evaluation.confidence: 0.95 → 0.9)",
        [
            "generation_0/evaluate",
            "generation_1/evaluate",
            "control/evaluate",
            "report",
        ],
    ),
    "seed=1": (
        "data (config.seed: 0 → 1)",
        [
            "data",
            "contact_sheet",
            "generation_0/train",
            "generation_0/evaluate",
            "generation_0/label",
            "generation_0/select",
            "generation_1/train",
            "generation_1/evaluate",
            "control/train",
            "control/evaluate",
            "report",
        ],
    ),
}


AGAIN = ("generation_1", "control")
"""What a change of the last generation touches."""


@pytest.mark.parametrize("override", CHANGES)
def test_a_changed_identity_field_is_named_and_refused(override, run, capsys):
    named, again = CHANGES[override]
    before = hashes(run)
    found = refused(capsys, line("run", run, f"--config.{override}"))
    assert named in found
    assert (
        f"these stages would have to run again: {', '.join(again)}; pass --again"
        in found
    )
    assert hashes(run) == before


def test_asked_for_it_is_done_again_and_the_old_is_kept(run, capsys):
    before = hashes(run)
    change = "--config.generations[1].train.learning_rate=1.0"
    out = done(capsys, line("run", run, change, "--again"))
    again = [f"{who}/{what}" for who in AGAIN for what in ("train", "evaluate")]
    assert performed(out) == [*again, "report"]
    assert f"generation_1/train: moved its earlier files to '{run}/superseded/1'" in out
    after = hashes(run)
    old = {
        name.removeprefix("superseded/1/"): value
        for name, value in after.items()
        if name.startswith("superseded/1/")
    }
    assert {name: before[name] for name in old} == old
    assert "generation_1/model/model.safetensors" in old
    assert "summary.json" in old
    assert "ledger/generation_1.train.json" in old
    # What is not in there stands where it stood.
    assert {n for n in before if n not in old and n != "config.json"} <= after.keys()
    kept = models(run, ["generation_0"])["generation_0"]
    assert kept == before["generation_0/model/model.safetensors"]
    for name in AGAIN:
        assert models(run)[name] != old[f"{name}/model/model.safetensors"]
    assert performed(done(capsys, line("run", run, change))) == []
    # And back: the second time goes to a second place.
    done(capsys, line("run", run, "--again"))
    assert models(run) == models_of(before)
    assert (run / "superseded/2/generation_1/model/model.safetensors").is_file()


def models_of(before: dict[str, str]) -> dict[str, str]:
    return {name: before[f"{name}/model/model.safetensors"] for name in MODELS}


@pytest.mark.parametrize(
    ("output", "stage"),
    [
        ("generation_0/model/model.safetensors", "generation_0/train"),
        ("generation_0/labels/shard_000001.parquet", "generation_0/label"),
        ("generation_0/selection/picks.npy", "generation_0/select"),
        ("control/evaluation.json", "control/evaluate"),
        ("data/splits.parquet", "data"),
    ],
)
@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_damaged_output_is_named(output, stage, harm, run, capsys):
    path = run / output
    if harm == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    found = refused(capsys, line("run", run))
    assert f"{stage} ('{output}' changed)" in found
    assert "pass --again" in found


def test_a_damaged_summary_is_made_again_without_asking(run, capsys):
    whole = (run / "summary.json").read_text()
    (run / "summary.json").write_text("{}")
    assert performed(done(capsys, line("run", run))) == ["report"]
    assert (run / "summary.json").read_text() == whole


def test_a_changed_input_is_named(tmp_path, capsys):
    labels = tmp_path / "labels.txt"
    labels.write_text("0\n1\n" * 6)
    config = tmp_path / "listed.py"
    text = GRAY.read_text().replace("outside.gray:gray", "outside.gray:listed")
    config.write_text(text.replace('{"pool"', f'{{"labels": "{labels}", "pool"'))
    arguments = line("run", tmp_path / "run", config=config)
    train = line("train", tmp_path / "run", "--generation=0", "--config.train.steps=3")
    train[1] = f"--config={config}"
    done(capsys, train)
    labels.write_text("1\n0\n" * 6)
    found = refused(capsys, [*arguments, "--config.train.steps=3"])
    assert "data (input 'labeled')" in found
    assert "these stages would have to run again: data, generation_0/train;" in found


def test_another_generation_keeps_the_earlier_ones(run, tmp_path, capsys):
    longer = tmp_path / "longer.py"
    longer.write_text(GRAY.read_text().replace("({}, {})", "({}, {}, {})"))
    before = models(run)
    out = done(capsys, line("run", run, config=longer))
    assert performed(out) == [
        "generation_1/label",
        "generation_1/select",
        "generation_2/train",
        "generation_2/evaluate",
        "report",
    ]
    assert models(run) == before
    summary = json.loads((run / "summary.json").read_text())
    assert [g["generation"] for g in summary["generations"]] == [0, 1, 2]
    assert (run / "superseded/1/summary.json").is_file()


def test_the_same_stage_by_stage(finished, tmp_path, capsys):
    whole = tmp_path / "whole"
    stages = [
        ("train", "0"),
        ("evaluate", "0"),
        ("label", "0"),
        ("select", "0"),
        ("train", "1"),
        ("evaluate", "1"),
        ("train", "control"),
        ("evaluate", "control"),
    ]
    for command, generation in stages:
        out = done(
            capsys,
            line(command, whole, f"--generation={generation}"),
        )
        owner = generation if generation == "control" else f"generation_{generation}"
        assert f"{owner}/{command}" in performed(out)
    assert performed(done(capsys, line("report", whole))) == ["report"]
    assert models(whole) == models(finished)
    ours, theirs = (
        json.loads((where / "summary.json").read_text()) for where in (whole, finished)
    )
    for one in (ours, theirs):
        for entry in [*one["generations"], one["control"]]:
            entry.pop("seconds")
    assert ours == theirs
    # Nothing stands on it, so no stage has asked for it.
    assert performed(done(capsys, line("run", whole))) == ["contact_sheet"]


@pytest.mark.parametrize(
    ("command", "generation", "missing"),
    [
        ("evaluate", "0", "data"),
        ("label", "0", "data"),
        ("select", "0", "generation_0/label"),
        ("train", "1", "generation_0/select"),
    ],
)
def test_a_stage_asked_for_too_early(command, generation, missing, tmp_path, capsys):
    workdir = tmp_path / "run"
    found = refused(capsys, line(command, workdir, f"--generation={generation}"))
    assert f"generation_{generation}/{command} needs {missing}" in found
    assert "run that stage first, or the whole loop with `noisy-student run`" in found
    # It does not stand in the way of the right order.
    done(capsys, line("train", workdir, "--generation=0", "--config.train.steps=2"))


def status(capsys, workdir) -> dict[str, object]:
    capsys.readouterr()
    assert main(["status", f"--workdir={workdir}", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_status_of_a_finished_run(run, capsys):
    found = status(capsys, run)
    assert found["workdir"] == str(run)
    assert found["finished"] is True
    assert [row["stage"] for row in found["stages"]][:3] == [
        "data",
        "contact_sheet",
        "generation_0/train",
    ]
    assert {row["state"] for row in found["stages"]} == {"finished"}
    assert all(row["seconds"] >= 0 and row["why"] == [] for row in found["stages"])
    rows = done(capsys, ["status", f"--workdir={run}"]).splitlines()
    assert rows[0].startswith("device: ")
    assert [row.split()[:2] for row in rows[1:]] == [
        [row["stage"], "finished"] for row in found["stages"]
    ]


def test_status_of_an_unfinished_and_a_damaged_run(run, capsys):
    for path in (run / "ledger").glob("control.*"):
        path.unlink()
    shutil.rmtree(run / "control")
    manifest = run / "ledger" / "generation_1.evaluate.json"
    manifest.rename(run / "ledger" / "generation_1.evaluate.started.json")
    (run / "generation_0/selection/picks.npy").unlink()
    found = status(capsys, run)
    assert found["finished"] is False
    states = {row["stage"]: (row["state"], row["why"]) for row in found["stages"]}
    assert states["generation_0/label"] == ("finished", [])
    assert states["generation_0/select"] == (
        "stale",
        ["'generation_0/selection/picks.npy' changed"],
    )
    assert states["generation_1/train"] == ("stale", ["builds on generation_0/select"])
    assert states["generation_1/evaluate"][0] == "stale"
    assert states["control/train"] == ("pending", [])
    assert states["report"][0] == "stale"
    out = done(capsys, ["status", f"--workdir={run}"])
    assert "stale     'generation_0/selection/picks.npy' changed" in out


def test_a_stage_is_running_only_while_a_process_is_at_work(run, capsys):
    manifest = run / "ledger" / "control.evaluate.json"
    manifest.rename(run / "ledger" / "control.evaluate.started.json")

    def state() -> str:
        found = {row["stage"]: row["state"] for row in status(capsys, run)["stages"]}
        return found["control/evaluate"]

    assert state() == "started"
    with (run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert state() == "running"
    assert state() == "started"


def test_a_stray_file_among_the_labels_is_named(run, capsys):
    labels = run / "generation_0" / "labels"
    stray = labels / "shard_000000_copy.parquet"
    shutil.copy(labels / "shard_000000.parquet", stray)
    assert "'generation_0/labels/shard_000000_copy.parquet' changed" in refused(
        capsys, line("run", run)
    )
    stray.unlink()
    done(capsys, line("run", run))


def test_a_label_of_another_image_is_never_learned(run, capsys):
    for name in ("generation_1.train", "generation_1.evaluate", "report"):
        (run / "ledger" / f"{name}.json").unlink()
    shutil.rmtree(run / "generation_1")
    path = run / "generation_0" / "selection" / "picks.npy"
    picks = np.load(path)
    picks[:, 0] = np.roll(picks[:, 0], 1)
    np.save(path, picks)
    book = run / "ledger" / "generation_0.select.json"
    manifest = json.loads(book.read_text())
    manifest["outputs"]["generation_0/selection/picks.npy"] = hashlib.sha256(
        path.read_bytes()
    ).hexdigest()
    del manifest[summed.KEY]
    book.write_text(json.dumps(manifest))
    found = refused(capsys, line("train", run, "--generation=1"))
    assert "which is another image" in found


def test_a_stage_that_was_started_goes_on(run, capsys):
    name = "generation_0.label"
    for path in (run / "ledger").iterdir():
        if path.name.startswith(("generation_1", "generation_0.select", "report")):
            path.unlink()
    shutil.rmtree(run / "generation_1")
    shutil.rmtree(run / "generation_0" / "selection")
    manifest = json.loads((run / "ledger" / f"{name}.json").read_text())
    (run / "ledger" / f"{name}.json").unlink()
    (run / "ledger" / f"{name}.started.json").write_text(json.dumps(manifest))
    (run / "generation_0/labels/shard_000001.parquet").unlink()
    kept = run / "generation_0/labels/shard_000000.parquet"
    before = kept.stat().st_mtime_ns
    found = status(capsys, run)
    states = {row["stage"]: row["state"] for row in found["stages"]}
    assert states["generation_0/label"] == "started"
    out = done(capsys, line("label", run, "--generation=0"))
    assert "[1/1] generation_0/label: resuming" in out
    assert kept.stat().st_mtime_ns == before
    found = refused(
        capsys, line("label", run, "--generation=0", "--config.labels.top_k=1")
    )
    assert "config.labels.top_k: none → 1" in found


def test_no_variable_of_jax_changes_a_result(finished, tmp_path):
    changed = {
        **{"JAX_ENABLE_X64": "1", "JAX_THREEFRY_PARTITIONABLE": "0"},
        **{"JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_RANDOM_SEED_OFFSET": "5"},
        **{"JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_DEBUG_NANS": "1"},
        **{
            "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
            "JAX_TRANSFER_GUARD": "disallow",
        },
    }
    process = support.command(
        *line("run", tmp_path / "run"), env=changed | {"XLA_FLAGS": ""}
    )

    out, err = process.communicate(timeout=300)

    assert process.returncode == 0, out + err
    warning = next(row for row in out.splitlines() if row.startswith("WARNING: JAX_"))
    assert all(name in warning for name in changed)
    assert models(tmp_path / "run") == models(finished)


def test_started_with_other_flags_is_said(run, capsys, monkeypatch):
    (run / "ledger" / "report.json").unlink()
    unfinished(run, "control.evaluate")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_thunk_runtime=true")

    out = done(capsys, line("evaluate", run, "--generation=control"))

    said = "variables.XLA_FLAGS: none → --xla_cpu_use_thunk_runtime=true"
    assert f"was started in another environment ({said})" in out


def test_started_on_another_machine_is_said(run, capsys):
    for path in (run / "ledger").iterdir():
        if path.name.startswith("report"):
            path.unlink()
    path = run / "ledger" / "control.evaluate.json"
    manifest = json.loads(path.read_text())
    manifest["environment"]["cores"] += 7
    del manifest[summed.KEY]
    path.unlink()
    path.with_name("control.evaluate.started.json").write_text(json.dumps(manifest))
    out = done(capsys, line("evaluate", run, "--generation=control"))
    assert (
        "WARNING: control/evaluate was started in another environment (cores: " in out
    )


def test_two_processes_do_not_work_in_one_directory(run, capsys):
    with (run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = refused(capsys, line("run", run))

    assert "another process is at work" in said and "--workdir" in said
    done(capsys, line("run", run))


def test_a_note_of_a_start_that_outlived_its_stage_is_removed(run, capsys):
    manifest = run / "ledger" / "generation_0.select.json"
    started = run / "ledger" / "generation_0.select.started.json"
    shutil.copy(manifest, started)
    assert performed(done(capsys, line("run", run))) == []
    assert not started.exists()


def unfinished(run, stage: str) -> pathlib.Path:
    """Turns a finished stage into one that was started; returns its record."""
    manifest = run / "ledger" / f"{stage}.json"
    started = manifest.with_name(f"{stage}.started.json")
    (run / "ledger" / "report.json").unlink(missing_ok=True)
    for name in ("summary.json", "report.html", "README.md"):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "best", ignore_errors=True)
    return manifest.rename(started)


def test_a_stage_whose_record_is_lost_is_made_again_and_never_adopted(run, capsys):
    before = models(run)["control"]
    shutil.rmtree(run / "control" / "model")
    for name in ("control.evaluate", "control.train"):
        (run / "ledger" / f"{name}.json").unlink()
    change = "--config.control.train.learning_rate=1.0"

    out = done(capsys, line("run", run, change))

    moved = "control/train: moved its earlier files to"
    why = "(there is no record of what its files were made with)"
    assert any(row.startswith(moved) and row.endswith(why) for row in out.splitlines())
    assert "continues from the checkpoint" not in out
    assert models(run)["control"] != before
    assert (run / "superseded/1/control/train/checkpoints").is_dir()
    recorded = json.loads((run / "ledger" / "control.train.json").read_text())
    assert recorded["config"]["train"]["learning_rate"] == 1.0


@pytest.mark.parametrize("data", [b"", b"{", b'{"stage": "control/train"}', b"[]"])
def test_a_damaged_record_of_a_start_is_named_and_nothing_is_adopted(data, run, capsys):
    for name in ("control.evaluate", "report"):
        (run / "ledger" / f"{name}.json").unlink()
    (run / "control" / "evaluation.json").unlink()
    (run / "control" / "predictions.parquet").unlink()
    unfinished(run, "control.train").write_bytes(data)

    said = refused(capsys, line("run", run))

    assert "its record 'ledger/control.train.started.json' is damaged" in said
    assert "restore the records, pass --again" in said and "move it away" not in said
    states = {row["stage"]: row["state"] for row in status(capsys, run)["stages"]}
    assert states["control/train"] == "stale"
    before = models(run)
    out = done(capsys, line("run", run, "--again"))
    assert "continues from the checkpoint" not in out
    assert models(run) == before


def test_a_damaged_manifest_is_named(run, capsys):
    path = run / "ledger" / "control.evaluate.json"
    path.write_bytes(path.read_bytes().replace(b'"seconds"', b'"secondz"'))

    assert "'ledger/control.evaluate.json' is damaged" in refused(
        capsys, line("run", run)
    )


def test_a_selection_of_something_else_is_moved_away(run, capsys):
    selection = run / "generation_0" / "selection"
    wanted = hashes(selection)
    path = selection / "selection.json"
    foreign = json.loads(path.read_text()) | {"made_for": "0" * 64}
    del foreign[summed.KEY]
    path.write_text(json.dumps(foreign))
    for name in ("generation_1.train", "generation_1.evaluate"):
        (run / "ledger" / f"{name}.json").unlink()
    shutil.rmtree(run / "generation_1")
    unfinished(run, "generation_0.select")

    out = done(capsys, line("select", run, "--generation=0"))

    assert f"WARNING: '{selection}' was made for something else" in out
    assert (run / "superseded/1/generation_0/selection/picks.npy").is_file()
    again = hashes(selection)
    again.pop("selection.json"), wanted.pop("selection.json")
    assert again == wanted


def test_a_run_is_looked_at_without_the_right_to_write(run, capsys):
    whole = done(capsys, line("run", run))
    before = hashes(run)

    shown = support.said_to_a_reader("report", f"--workdir={run}", "--show", of=run)
    stages = support.said_to_a_reader("status", f"--workdir={run}", of=run)

    table = shown[shown.index("\n\n") :]
    assert len(table.splitlines()) > 6 and whole.endswith(table)
    assert stages.count(" finished ") == 11
    assert hashes(run) == before


def test_a_summary_of_an_older_version_is_shown(run, capsys):
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    del summary["choice"], summary["verdict"]["student"]
    summary["best"] = 0
    path.write_text(json.dumps(summary))

    out = done(capsys, ["report", f"--workdir={run}", "--show"])

    assert f"validation prefers generation 0: {run / 'best'}" in out
    assert re.search(r"^generation 0 ★ ", out, re.MULTILINE)


@pytest.mark.parametrize("text", [None, "{}", "[]", '{"generations": 3}'])
def test_there_must_be_something_to_show(text, run, capsys):
    path = run / "summary.json"
    path.unlink() if text is None else path.write_text(text)

    said = refused(capsys, ["report", f"--workdir={run}", "--show"])

    assert "`noisy-student report` writes it" in said


@pytest.fixture
def small_disk(tmp_path):
    """Returns a function that makes a folder with room for so many kilobytes."""
    made = []

    def disk(kilobytes: int) -> pathlib.Path:
        folder = tmp_path / f"disk_{kilobytes}"
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.call(["mount", *options]):
            pytest.skip("needs the right to mount a small disk")
        made.append(folder)
        return folder

    yield disk
    for folder in made:
        subprocess.call(["umount", str(folder)])


@pytest.mark.parametrize("kilobytes", [8, 60, 200, 300])
def test_a_full_disk_is_one_sentence_about_what_failed_first(kilobytes, small_disk):
    workdir = small_disk(kilobytes) / "run"

    process = support.command(*line("run", workdir))
    out, err = process.communicate(timeout=300)

    assert process.returncode == 1, out + err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "No space left on device" in err and str(workdir) in err
    assert "Traceback" not in out


def test_a_teacher_without_a_confident_label_ends_its_student_and_not_the_run(
    finished, run, capsys
):
    strict = line("run", run, "--config.selection.min_score=0.9999")

    capsys.readouterr()
    assert main([*strict, "--again"]) == 1
    out, err = capsys.readouterr()
    dropped = ["generation_1/train:", "generation_1/evaluate:"]
    assert performed(out) == ["generation_0/select", *dropped, "report"]
    assert "generation_1/train: dropped, generation_0/select selected nothing" in out
    assert "give a lower --config.selection.min_score=SCORE" in err
    summary = json.loads((run / "summary.json").read_text())
    assert [entry["generation"] for entry in summary["generations"]] == [0]
    assert summary["control"]
    assert summary["verdict"]["says"].startswith("no student learned from generation_0")
    assert summary["verdict"]["says"] in out
    report = (run / "report.html").read_text()
    assert "No pseudo-label was confident enough to learn from." in report
    assert (run / "best" / "model.json").is_file()
    assert models(run, ("generation_0", "control")).items() <= models(finished).items()

    before = hashes(run)
    assert main(strict) == 1
    assert hashes(run) == before
    capsys.readouterr()
    assert main(["status", f"--workdir={run}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["finished"] is True
    states = {row["stage"]: row["state"] for row in told["stages"]}
    assert states["generation_0/select"] == "ended"
    assert states["generation_1/train"] == states["generation_1/evaluate"] == "dropped"
    assert states["report"] == "finished"
    assert "selected nothing" in refused(
        capsys, ["train", *strict[1:], "--generation=1"]
    )

    done(capsys, line("run", run))
    assert models(run) == models(finished)

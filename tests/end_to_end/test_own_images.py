"""Two folders, one line: the whole loop on people's own images."""

import fcntl
import json
import pathlib
import shutil

import pyarrow.parquet as pq
import pytest
from people import HOSTILE, draw, line
from support import command, said_to_a_reader

from noisy_student_jax.cli.main import main
from noisy_student_jax.core import files
from noisy_student_jax.models import bundle


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    """A finished run. Do not change it."""
    workdir = tmp_path_factory.mktemp("own") / "run"
    assert main(line("run", folders, workdir)) == 0
    return workdir


def test_two_folders_give_a_model_and_a_verdict(finished):
    summary = json.loads((finished / "summary.json").read_text())

    assert summary["classes"] == ["Eule im Wald ü", "cat", HOSTILE]
    assert summary["splits"]["pool"] == 36
    assert len(summary["generations"]) == 3
    assert summary["verdict"]["says"]
    assert bundle.read(finished / "best").classes == tuple(summary["classes"])


def test_what_was_left_out_is_named_in_the_run_and_its_report(finished):
    quarantined = pq.read_table(finished / "data" / "quarantine.parquet").to_pylist()
    facts = json.loads((finished / "data" / "dataset.json").read_text())["facts"]
    report = (finished / "report.html").read_text()

    assert [row["key"] for row in quarantined] == ["unlabeled/torn.jpg"]
    copies = [count for why, count in facts.items() if "byte-identical" in why]
    assert copies == [1]
    assert "unlabeled/torn.jpg" in report
    assert "byte-identical copies" in report
    assert "<script>" not in report


def test_the_same_line_goes_on_and_prepares_nothing_again(finished, folders, capsys):
    capsys.readouterr()
    before = {
        path: path.stat().st_mtime_ns
        for path in (finished / "prepared").rglob("*")
        if path.suffix in (".bin", ".parquet")
    }

    assert main(line("run", folders, finished)) == 0

    out = capsys.readouterr().out
    assert out.count("finished already, skipped") == 15
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_status_and_plan_decode_no_image(
    finished, folders, tmp_path, capsys, monkeypatch
):
    assert main(["status", f"--workdir={finished}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] is True

    monkeypatch.chdir(tmp_path)
    assert main(line("plan", folders, "new")) == 0
    assert "37 pool" in capsys.readouterr().out  # the copy is known, the torn one not
    assert not list(tmp_path.iterdir())
    # Of a run that is there it knows what was prepared.
    assert main(line("plan", folders, finished)) == 0
    assert "36 pool" in capsys.readouterr().out


def test_hours_are_told_before_any_image_is_prepared(folders, tmp_path, capsys):
    cache = tmp_path / "cache"
    command = line("plan", folders, tmp_path / "run", "--measure", "--json")
    command.append(f"--config.data.cache={cache}")

    assert main(command) == 0

    facts = json.loads(capsys.readouterr().out)
    assert facts["hours"]["total"] > 0
    assert facts["splits"]["pool"] == 37
    assert facts["prepared_bytes"] == sum(facts["splits"].values()) * 8 * 8 * 4
    assert not cache.exists()


def test_images_moved_elsewhere_change_nothing(finished, folders, tmp_path, capsys):
    moved, workdir = tmp_path / "moved", tmp_path / "run"
    shutil.copytree(folders, moved)
    shutil.copytree(finished, workdir)
    capsys.readouterr()

    assert main(line("run", moved, workdir)) == 0
    assert "moved its earlier files" not in capsys.readouterr().out


def test_status_of_a_run_is_told_where_its_images_are_not(
    folders, tmp_path, capsys, monkeypatch
):
    own, workdir = tmp_path / "own", tmp_path / "run"
    shutil.copytree(folders, own)
    monkeypatch.chdir(own)
    assert main(line("prepare", pathlib.Path(), workdir)) == 0
    capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    assert main(["status", f"--workdir={workdir}", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    shutil.rmtree(own)
    assert main(["status", f"--workdir={workdir}", "--json"]) == 0
    out, err = capsys.readouterr()

    assert json.loads(out) == seen
    assert [stage["state"] for stage in seen["stages"][:3]] == [
        *("finished", "finished", "pending")
    ]
    assert f"told from what the run has recorded, since '{own}/labeled' does not" in err


def test_a_pool_that_has_grown_is_named_and_refused(
    finished, folders, tmp_path, capsys
):
    grown, workdir = tmp_path / "grown", tmp_path / "run"
    shutil.copytree(folders, grown)
    shutil.copytree(finished, workdir)
    draw(grown / "unlabeled" / "new.png", 1, 999)
    capsys.readouterr()

    assert main(line("run", grown, workdir)) == 2
    err = capsys.readouterr().err
    assert "was made with other settings or inputs: data (" in err
    assert "pass --again" in err


def test_status_prepares_nothing(folders, tmp_path, capsys):
    own, workdir = tmp_path / "own", tmp_path / "run"
    shutil.copytree(folders, own)
    assert main(line("prepare", own, workdir)) == 0
    draw(own / "unlabeled" / "new.png", 2, 998)
    before = sorted(workdir.rglob("*"))
    capsys.readouterr()

    assert main(["status", f"--workdir={workdir}", "--json"]) == 0

    rows = {
        row["stage"]: row["state"]
        for row in json.loads(capsys.readouterr().out)["stages"]
    }
    assert rows["data"] == "stale"
    assert rows["generation_0/train"] == "pending"
    assert sorted(workdir.rglob("*")) == before


def test_prepare_alone_counts_and_shows(folders, tmp_path, capsys):
    workdir = tmp_path / "run"

    assert main(line("prepare", folders, workdir)) == 0

    out = capsys.readouterr().out
    assert "36 pool" in out
    assert (workdir / "contact_sheet.png").is_file()
    assert not (workdir / "generation_0").exists()


def test_a_class_that_a_part_lacks_is_refused_at_first_and_told_of_in_a_run_before(
    folders, tmp_path, capsys
):
    own, old, cache = tmp_path / "own", tmp_path / "old", tmp_path / "cache"
    shutil.copytree(folders, own)
    for number in range(12):
        draw(own / "labeled" / "cat" / f"more{number}.png", 1, 500 + number)
    shared = f"--config.data.cache={cache}"
    assert main([*line("prepare", own, old), shared]) == 0
    parts = pq.read_table(old / "data" / "splits.parquet").to_pylist()
    learned = [row["key"].split(":")[0] for row in parts if row["part"] == "labeled"]
    (own / "labeled" / "kitten").mkdir()
    for path in [path for path in learned if "/cat/" in path][:3]:
        shutil.move(own / path, own / "labeled" / "kitten" / pathlib.Path(path).name)
    capsys.readouterr()

    assert main([*line("prepare", own, tmp_path / "new"), shared]) == 2
    told = "'kitten' (no validation and no test images)"
    assert told in capsys.readouterr().err
    assert main([*line("prepare", own, old), shared, "--again"]) == 0
    assert f"WARNING: an earlier start dealt all images of {told}" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "more",
    [
        ["--config.data.resident_gigabytes=0"],
        ["--config.noise.pseudo.crop_area=0.3"],
        ["--config.data.lanes=4", "--config.data.lane_block=3"],
    ],
    ids=["hosted", "random crops", "lanes"],
)
def test_every_pipeline_trains(folders, tmp_path, more, finished):
    workdir = tmp_path / "run"
    cache = f"--config.data.cache={finished / 'prepared'}"
    short = "--config.control.enabled=false"

    assert main(line("run", folders, workdir, cache, short, *more)) == 0

    ours, theirs = (
        bundle.read(run / "generation_1" / "model").sha256
        for run in (workdir, finished)
    )
    # What does not fit on the device is drawn in the same order, with the same noise.
    assert (ours == theirs) == ("resident_gigabytes=0" in more[0])


def test_too_many_files_that_cannot_be_used_fail_before_training(
    folders, tmp_path, capsys
):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(folders, spoilt)
    for path in sorted((spoilt / "unlabeled").glob("0*.png")):
        path.write_bytes(path.read_bytes()[:40])

    assert main(line("run", spoilt, tmp_path / "run")) == 2

    err = capsys.readouterr().err
    assert "of 38 files in" in err and "cannot be used" in err
    assert not (tmp_path / "run" / "config.json").exists()
    # Mended, the same line goes on.
    shutil.rmtree(spoilt / "unlabeled")
    shutil.copytree(folders / "unlabeled", spoilt / "unlabeled")
    assert main(line("prepare", spoilt, tmp_path / "run")) == 0


def test_predict_reads_the_same_files(finished, folders, capsys):
    capsys.readouterr()
    paths = [str(p) for p in sorted((folders / "labeled" / "cat").iterdir())[:2]]

    assert main(["predict", f"--model={finished / 'best'}", "--json", *paths]) == 0

    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert [row["image"] for row in rows] == paths
    assert pathlib.Path(rows[0]["image"]).is_file()


def test_a_cache_that_is_being_filled_is_waited_for(folders, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    with (cache / files.LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        more = [f"--config.data.cache={cache}"]
        process = command(*line("prepare", folders, tmp_path / "run", *more))
        said = f"waiting for another process, which is preparing images in '{cache}'"
        assert any(said in row for row in process.stdout)

    out, err = process.communicate(timeout=300)

    assert process.returncode == 0, out + err


def test_a_complete_cache_may_be_one_that_can_only_be_read(folders, tmp_path, capsys):
    shared = tmp_path / "shared"
    shutil.copytree(folders, shared / "images")
    cache = f"--config.data.cache={shared / 'cache'}"
    assert main(line("prepare", shared / "images", shared / "run", cache)) == 0
    counts = [row for row in capsys.readouterr().out.splitlines() if " pool" in row]

    out = said_to_a_reader(
        *line("prepare", shared / "images", tmp_path / "run", cache), of=shared
    )

    assert counts and counts[-1] in out.splitlines()
    assert "1 of 38 files" in out, "what is left out is still told"

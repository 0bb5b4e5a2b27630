"""A whole study in miniature: shared stages, results, table, page, refusals."""

import json
import shutil

import pytest
from made_up_run import Page
from support import ROOT

from noisy_student_jax.cli.main import main
from noisy_student_jax.core import files

STUDY = ROOT / "tests" / "configs" / "tiny_study.py"
VARIANTS = ("noised_student", "without_noise", "labels_alone")


def line(workdir, *more):
    return ["study", f"--config={STUDY}", f"--workdir={workdir}", *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study of two seeds. Do not change it: copy it first."""
    workdir = tmp_path_factory.mktemp("study") / "study"
    assert main(line(workdir, "--seeds=2")) == 0
    return workdir


def told(capsys, *arguments, status=0):
    capsys.readouterr()
    assert main(list(arguments)) == status
    out, err = capsys.readouterr()
    return out + err


def manifest(workdir, stage):
    return files.read_json(workdir / "ledger" / f"{stage.replace('/', '.')}.json")


def test_variants_stand_on_the_same_teacher_which_is_trained_once(finished):
    for seed in range(2):
        runs = [finished / name / f"seed_{seed}" for name in VARIANTS]
        for stage in ("generation_0/train", "generation_0/label"):
            found = [manifest(run, stage) for run in runs]
            assert found[0] == found[1] == found[2]
            for path in found[0]["outputs"]:
                assert len({(run / path).stat().st_ino for run in runs}) == 1
        students = [manifest(run, "generation_1/train")["outputs"] for run in runs[:2]]
        assert students[0] != students[1]


def test_the_table_adds_up_what_the_runs_found(finished, capsys):
    found = files.read_json(finished / "study.json")

    assert [one["name"] for one in found["variants"]] == [
        "noised student",
        "without noise",
        "labels alone",
    ]
    for name, folder, model in (
        ("noised student", "noised_student", "generation_1"),
        ("without noise", "without_noise", "generation_1"),
        ("labels alone", "labels_alone", "control"),
    ):
        (row,) = (one for one in found["variants"] if one["name"] == name)
        assert row["values"] == [
            files.read_json(
                finished / folder / f"seed_{seed}" / model / "evaluation.json"
            )["splits"]["test"]["ema"][found["metric"]]
            for seed in range(2)
        ]
    noised, without = (found["variants"][n]["values"] for n in range(2))
    assert found["claims"][0]["difference"]["by_seed"] == pytest.approx(
        [a - b for a, b in zip(noised, without, strict=True)]
    )


def test_a_finished_study_runs_nothing_again(finished, capsys):
    out = told(capsys, *line(finished, "--seeds=2"))

    assert "generation_1/train" not in out
    assert "Does noise help the student?" in out
    assert "Noise helps the student (paper: 84.9 against 84.3): " in out


def test_results_of_other_machines_add_up_to_one_table(finished, tmp_path, capsys):
    results = shutil.copytree(finished / "results", tmp_path / "results")

    out = told(
        capsys,
        *line(tmp_path / "elsewhere", "--seeds=2", f"--results={results}"),
    )

    assert "[1/" not in out
    assert files.read_json(tmp_path / "elsewhere" / "study.json") == files.read_json(
        finished / "study.json"
    )


def test_a_result_of_other_settings_is_refused(finished, tmp_path, capsys):
    results = shutil.copytree(finished / "results", tmp_path / "results")
    flags = [f"--results={results}", "--config.train.steps=3"]

    out = told(capsys, *line(tmp_path / "other", *flags), status=2)

    assert "is a result of other settings" in out
    assert "Traceback" not in out


def test_a_shared_stage_that_was_damaged_is_made_again(finished, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "study")
    shutil.rmtree(workdir / "without_noise" / "seed_0")
    (workdir / "results" / "seed_0.json").unlink()
    for path in workdir.glob("stages/*/outputs/generation_0/model/*"):
        path.chmod(0o644)
        path.unlink()
        path.write_bytes(b"damaged")

    out = told(capsys, *line(workdir, "--seeds=1"))

    assert "is damaged: generation_0/train is made again" in out
    again, first = (
        files.read_json(folder / "results" / "seed_0.json")
        for folder in (workdir, finished)
    )
    assert again["pairs"] == first["pairs"]


def test_the_page_tells_claims_variants_and_links_its_runs(finished):
    page = Page((finished / "study.html").read_text())

    assert "Does noise help the student?" in page.text
    assert "Noise helps the student." in page.text
    links = [one["href"] for one in page.of("", "a") if "href" in one]
    assert len(links) == 2 * len(VARIANTS)
    assert all((finished / link).is_file() for link in links)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--seeds=0"], "--seeds=0, but must be 1 or more"),
        (["--jobs=2"], "--jobs=2, but must be i/n"),
        (["--jobs=2/2"], "must be i/n"),
        (["--seeds=2", "--jobs=0/3"], "there are 3 jobs for 2 seeds"),
        (["--base=none.py"], "no config file at 'none.py'"),
        (["--config.train.batch=x"], "variant 'noised student': config.train.batch"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_sentence(tmp_path, capsys, flags, says):
    capsys.readouterr()
    assert main(line(tmp_path / "study", *flags)) == 2

    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "study").exists()


def test_seeds_are_dealt_to_jobs(tmp_path, finished, capsys):
    results = shutil.copytree(finished / "results", tmp_path / "results")
    for job in range(2):
        flags = ["--seeds=2", f"--jobs={job}/2", f"--results={results}"]
        told(capsys, *line(tmp_path / f"job_{job}", *flags))
        found = json.loads((tmp_path / f"job_{job}" / "study.json").read_text())
        assert found["seeds"] == [job]


def test_a_plan_tells_the_stages_that_are_made(finished, capsys):
    capsys.readouterr()
    assert main(["plan", f"--config={STUDY}", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)

    kept = [
        files.read_json(path)["stage"]
        for path in finished.glob("stages/*/manifest.json")
    ]
    seeds = 2
    assert seeds * planned["trainings"] == sum(one.endswith("/train") for one in kept)
    derived = ("contact_sheet", "report")
    assert seeds * (planned["made"] - len(VARIANTS) * len(derived)) == len(kept)


def test_a_plan_of_a_study_takes_no_flag_of_a_models(capsys):
    out = told(capsys, "plan", f"--config={STUDY}", "--recipe", status=2)

    assert "takes no --recipe" in out

"""Later teachers label what was selected once, or everything is selected afresh."""

import hashlib
import json
import shutil

import pytest
from support import ROOT

from noisy_student_jax import config as configs
from noisy_student_jax.cli.main import main
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.generation.preconditions import check
from noisy_student_jax.runs.run import Run

RELABEL = "--config.selection.relabel=true"
CONFIG = """
import importlib.util

def get_config():
    spec = importlib.util.spec_from_file_location("gray", {gray!r})
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.generations = ({{}}, {{}}, {{}})
    config.control.enabled = False
    return config
"""


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A config with two students."""
    path = tmp_path_factory.mktemp("config") / "three.py"
    path.write_text(CONFIG.format(gray=str(ROOT / "tests/configs/gray.py")))
    return path


@pytest.fixture(scope="module")
def kept(three, tmp_path_factory):
    """A finished run that filtered once. Do not change it."""
    workdir = tmp_path_factory.mktemp("relabel") / "run"
    assert main(line(three, workdir, RELABEL)) == 0
    return workdir


def line(config, workdir, *more):
    return ["run", f"--config={config}", f"--workdir={workdir}", *more]


def performed(out):
    stages = [row for row in out.splitlines() if row.startswith("[")]
    return [row.split()[1] for row in stages if not row.endswith("skipped")]


def summary(workdir, generation):
    path = workdir / f"generation_{generation}" / "selection" / "selection.json"
    return json.loads(path.read_text())


def picks(workdir, generation):
    path = workdir / f"generation_{generation}" / "selection" / "picks.npy"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_first_teacher_filters_and_the_second_labels_the_same_records(kept):
    first, second = summary(kept, 0), summary(kept, 1)

    assert first["kept"] is None
    assert picks(kept, 0) == picks(kept, 1)
    assert second["kept"]["filtered_by"] == first["labels"]["model_sha256"]
    assert second["labels"]["model_sha256"] != first["labels"]["model_sha256"]
    counts = second["counts"]
    assert counts["read"] == 40 and counts["draws"] == first["counts"]["draws"]
    assert counts["not_in_plan"] == 40 - counts["selected"]
    report = (kept / "report.html").read_text()
    assert "not in the plan, which is kept" in report
    assert "do not add up" not in report


AFTER = [
    "generation_1/select",
    "generation_2/train",
    "generation_2/evaluate",
    "report",
]


def test_selecting_afresh_instead_redoes_the_second_selection_and_what_follows(
    kept, three, tmp_path, capsys
):
    workdir = shutil.copytree(kept, tmp_path / "run")
    assert main(line(three, workdir)) == 2
    assert "generation_1/select (" in capsys.readouterr().err
    assert main(line(three, workdir, "--again")) == 0

    assert performed(capsys.readouterr().out) == AFTER
    assert summary(workdir, 1)["kept"] is None
    # And back.
    assert main(line(three, workdir, RELABEL, "--again")) == 0
    assert performed(capsys.readouterr().out) == AFTER
    assert picks(workdir, 1) == picks(kept, 1)


def test_another_filter_redoes_the_labeling_of_what_it_selects(
    kept, three, tmp_path, capsys
):
    workdir = shutil.copytree(kept, tmp_path / "run")
    other = ("--config.selection.method=paper", "--config.selection.per_class=5")
    assert main(line(three, workdir, RELABEL, *other, "--again")) == 0

    out = performed(capsys.readouterr().out)
    assert out[0] == "generation_0/select" and "generation_1/select" in out
    assert picks(workdir, 0) == picks(workdir, 1) != picks(kept, 1)


def test_options_of_a_selection_that_is_not_made_are_refused(three, tmp_path):
    asked = [RELABEL, "--config.generations[2].selection.min_score=0.7"]
    run = Run(configs.load(three, asked), tmp_path, interruption=Interruption())
    with pytest.raises(UserError, match=r"^generation_2: .*min_score is 0\.7 and"):
        check(run)
    # The first student has a selection of its own.
    asked = ["--config.generations[1].selection.relabel=true", asked[1]]
    check(Run(configs.load(three, asked), tmp_path, interruption=Interruption()))

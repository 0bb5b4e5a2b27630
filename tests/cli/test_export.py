"""``noisy-student export``: mistakes are told in a sentence, nothing is overwritten."""

import pytest
from interop.export import some

from noisy_student_jax.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return some.written(tmp_path_factory.mktemp("bundle") / "model")


def export(capsys, *arguments):
    status = main(["export", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def mistake(capsys, *arguments):
    status, out, err = export(capsys, *arguments)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2, out + err
    assert len(errors) == 1
    assert "Traceback" not in err
    return errors[0]


def test_it_writes_and_says_what_was_seen(model, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "below" / "model.onnx"

    status, _, err = export(capsys, "--format=onnx", model, path)

    assert status == 0, err
    assert path.is_file()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "needs --format=FORMAT, one of timm, onnx, savedmodel, hub"),
        (["--format=onxx"], "no format 'onxx'; did you mean 'onnx'?"),
        (["--format=onnx"], "export --format=onnx BUNDLE OUTPUT"),
        (["--format=onnx", "model"], "export --format=onnx BUNDLE OUTPUT"),
        (["--format=onnx", "model", "out"], "a name that ends in .onnx, not 'out'"),
        (["--format=timm", "model", "a.pth"], "a name that ends in .safetensors"),
        (
            ["--format=hub", "--without-preprocessing", "model", "out"],
            "--without-preprocessing is for --format=onnx alone",
        ),
        (
            ["--format=timm", "--views=1", "model", "a.safetensors"],
            "--views is for programs, and --format=timm writes weights",
        ),
        (["--format=hub", "no_such_model", "out"], "'no_such_model' is not a model"),
    ],
)
def test_mistakes_are_told(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert told in mistake(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "name"),
    [("onnx", "m.onnx"), ("timm", "m.safetensors"), ("hub", "m"), ("savedmodel", "m")],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_is_left_alone(form, name, kind, model, tmp_path, capsys):
    path = tmp_path / name
    if kind == "folder":
        path.mkdir()
        path = path / "mine"
    path.write_text("mine")

    told = mistake(capsys, f"--format={form}", model, tmp_path / name)

    assert "already exists" in told
    assert path.read_text() == "mine"
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_folder_is_filled(model, tmp_path, capsys):
    (tmp_path / "hub").mkdir()

    status, _, err = export(capsys, "--format=hub", model, tmp_path / "hub")

    assert status == 0, err
    assert (tmp_path / "hub" / "README.md").is_file()


def test_foreign_code_is_run_only_when_trusted(tmp_path, capsys):
    arguments = {"outputs": len(some.CLASSES)}
    foreign = some.written(
        tmp_path / "model", architecture="outside.gray:averages", arguments=arguments
    )
    line = ["--format=hub", foreign, tmp_path / "hub"]

    assert "add --trust" in mistake(capsys, *line)
    assert not (tmp_path / "hub").exists()
    assert export(capsys, *line, "--trust")[0] == 0


def test_a_damaged_bundle_is_refused(tmp_path, capsys):
    model = some.written(tmp_path / "model")
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)

    assert "is damaged" in mistake(capsys, "--format=hub", model, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()

"""The suites on a run's test images, and on any folder; the report shows them."""

import json
import shutil

import pytest
from robust_sets import WNIDS, gray, write_image, write_model
from support import TINY

from noisy_student_jax.cli.main import main
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.robustness.metrics import CORRUPTIONS


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A copy of the finished run, with FGSM of the student and of the control."""
    copy = tmp_path_factory.mktemp("robust") / "run"
    shutil.copytree(tiny_run, copy)
    for generation in ("1", "control"):
        line = ["evaluate", "--suite=fgsm", f"--config={TINY}", f"--workdir={copy}"]
        assert main([*line, f"--generation={generation}"]) == 0
    return copy


def test_a_run_keeps_what_a_suite_found_of_its_test_images(run):
    found = json.loads((run / "generation_1/robustness/fgsm.json").read_text())
    evaluation = json.loads((run / "generation_1/evaluation.json").read_text())

    assert found["images"] == 100
    assert found["clean_top1"] == evaluation["splits"]["test"]["ema"]["top1"]
    assert found["sha256"] == evaluation["sha256"]
    assert list(found["top1"]) == ["2", "4", "8", "16"]
    assert (run / "control/robustness/fgsm.json").is_file()
    assert not (run / "generation_0/robustness").exists()


def test_the_report_shows_a_row_for_each_model(run, capsys):
    arguments = [f"--config={TINY}", f"--workdir={run}"]
    assert "ε 16" not in (run / "report.html").read_text()

    assert main(["report", *arguments]) == 0

    html = (run / "report.html").read_text()
    table = html[html.index('aria-label="Table of robustness"') :]
    table = table[: table.index("</table>")]
    assert "generation 1" in table and "control" in table
    assert "generation 0" not in table
    assert "ε 2" in table and "ε 16" in table
    # Doing it again finds nothing new.
    capsys.readouterr()
    assert main(["report", *arguments]) == 0
    assert "report: finished already, skipped" in capsys.readouterr().out


def test_what_was_found_of_other_weights_is_not_shown(run, tmp_path):
    from noisy_student_jax.robustness import results

    folder = tmp_path / "generation_1"
    shutil.copytree(run / "generation_1", folder)
    assert results.read(folder, "fgsm")
    assert results.read(folder, "corruptions") is None
    card = json.loads((folder / "model" / bundles.CARD).read_text())
    card["sha256"] = "0" * 64
    (folder / "model" / bundles.CARD).write_text(json.dumps(card))

    assert results.read(folder, "fgsm") is None


def test_a_result_with_a_flipped_bit_is_named_and_not_shown(run, tmp_path, capsys):
    from noisy_student_jax.robustness import results

    folder = tmp_path / "generation_1"
    shutil.copytree(run / "generation_1", folder)
    whole, path = results.read(folder, "fgsm"), results.path_of(folder, "fgsm")
    place = path.read_bytes().index(b"clean_top1") + len('clean_top1": 0.')
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)

    assert whole
    assert results.read(folder, "fgsm") is None
    assert f"'{path}' is not readable JSON" in capsys.readouterr().out


def test_a_run_is_refused_what_needs_images_of_its_own(run, tmp_path, capsys):
    arguments = [f"--config={TINY}", f"--workdir={run}", "--generation=1"]

    def mistake(*line):
        capsys.readouterr()
        assert main(["evaluate", *line]) == 2
        return capsys.readouterr().err

    said = mistake("--suite=imagenet_a", *arguments)
    assert "needs images of its own" in said and "generation_1/model" in said
    assert "takes either --model" in mistake(
        "--suite=fgsm", f"--images={tmp_path}", *arguments
    )
    assert "can evaluate only 0, 1, control" in mistake(
        "--suite=fgsm", *arguments[:2], "--generation=7"
    )
    none = [f"--config={TINY}", f"--workdir={tmp_path}/new", "--generation=1"]
    assert "has no model" in mistake("--suite=fgsm", *none)


def test_corruptions_of_any_folder_have_no_normalizer(tmp_path, capsys):
    pytest.importorskip("imagecorruptions", exc_type=ImportError)
    model = write_model(tmp_path / "model")
    for band in (1, 2, 4):
        write_image(tmp_path / "set" / WNIDS[band] / "a.png", gray(band, side=40))
    line = ["evaluate", "--suite=corruptions", f"--model={model}", "--trust"]
    line += [f"--images={tmp_path / 'set'}", f"--output={tmp_path / 'found.json'}"]
    capsys.readouterr()

    assert main(line) == 0

    out = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["errors"]) == set(CORRUPTIONS)
    assert all(len(errors) == 5 for errors in found["errors"].values())
    assert (found["images"], found["clean_error"]) == (3, 0)
    # Brightness is what this model goes by; blur does not change it.
    assert found["errors"]["defocus_blur"] == [0] * 5
    assert found["errors"]["brightness"][4] == 1
    mean = sum(sum(errors) for errors in found["errors"].values()) / 75
    assert found["mean_error"] == pytest.approx(mean)
    assert found["increase"] == pytest.approx(mean)
    assert found["relative"] is None
    assert "mce" not in found
    assert "imagecorruptions" in found["made_by"]
    assert "not to be compared with ImageNet-C" in out

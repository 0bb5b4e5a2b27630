"""The suites on folders as they are released: what is counted, left out, and said."""

import json

import numpy as np
import pytest
from robust_sets import (
    CLASSES,
    SIDE,
    WNIDS,
    gray,
    write_image,
    write_model,
    write_video,
)

from noisy_student_jax.cli.main import main
from noisy_student_jax.core.errors import Interrupted
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.robustness.metrics import (
    ALEXNET_ERRORS,
    CORRUPTIONS,
    PERTURBATIONS,
)

GROUPS = {"gaussian_noise": "noise", "fog": "weather", "jpeg_compression": "digital"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "bundle")


def evaluate(capsys, suite, model, images, *flags):
    """Returns the result as JSON, and what was said."""
    line = ["evaluate", f"--suite={suite}", f"--model={model}", f"--images={images}"]
    capsys.readouterr()
    status = main([*line, "--trust", "--json", *flags])
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out), err


def mistake(capsys, suite, model, images, *flags):
    line = ["evaluate", f"--suite={suite}", f"--model={model}", f"--images={images}"]
    capsys.readouterr()
    assert main([*line, "--trust", *flags]) == 2
    out, err = capsys.readouterr()
    said = [line for line in (out + err).splitlines() if not line.startswith("device")]
    assert len(said) == 1
    return said[0]


def write_c(place, *, corruptions=CORRUPTIONS, severities=5):
    """ImageNet-C: at severity s, s − 1 of 4 images look like another class.

    `contrast` looks right at every severity. Some lie in groups, some do not.
    """
    for corruption in corruptions:
        group = place / GROUPS.get(corruption, "")
        for severity in range(1, severities + 1):
            wrong = 0 if corruption == "contrast" else severity - 1
            for number in range(4):
                band = number % 2
                folder = group / corruption / str(severity) / WNIDS[band]
                seen = 5 if number < wrong else band
                write_image(folder / f"{number}.png", gray(seen))
    return place


@pytest.fixture(scope="module")
def imagenet_c(tmp_path_factory):
    place = write_c(tmp_path_factory.mktemp("c"))
    write_c(place, corruptions=["speckle_noise"])
    return place


@pytest.mark.parametrize("suite", ["imagenet_a", "imagenet_r"])
def test_only_classes_with_a_folder_may_be_predicted(suite, model, tmp_path, capsys):
    """Of all classes the image of 2 looks like 1, of 0, 2 and 4 like 2 (or 0)."""
    bright_one = np.full((SIDE, SIDE, 3), round(255 * 1.6 / 6), np.uint8)
    write_image(tmp_path / WNIDS[2] / "a.jpg", bright_one)
    write_image(tmp_path / WNIDS[0] / "b.jpg", gray(0))
    write_image(tmp_path / WNIDS[4] / "c.jpg", gray(0))

    found, said = evaluate(capsys, suite, model, tmp_path)

    assert found["images"] == 3
    assert found["top1"] == pytest.approx(2 / 3)
    assert "top5" not in found
    assert found["restricted_to"] == [CLASSES[k] for k in (0, 2, 4)]
    assert "restricted to 3 classes; the released set has 200" in said


def test_folders_and_images_that_cannot_be_used_are_named(model, tmp_path, capsys):
    for band in (0, 1):
        write_image(tmp_path / WNIDS[band] / "good.png", gray(band))
        write_image(tmp_path / "n99999999" / f"{band}.png", gray(band))
    (tmp_path / WNIDS[1] / "broken.jpg").write_bytes(b"no image")
    (tmp_path / WNIDS[1] / "notes.txt").write_text("hello")

    found, said = evaluate(capsys, "imagenet_a", model, tmp_path)

    assert (found["images"], found["top1"]) == (2, 1.0)
    assert list(found["unusable"]) == [f"imagenet_a/{WNIDS[1]}/broken.jpg"]
    assert "2 images of 'n99999999', no class of the model" in said
    assert "1 other kinds of file (.txt 1)" in said
    assert "1 of 3 images cannot be used and are left out, the first being" in said


def test_folders_are_matched_by_whole_name_too(tmp_path, capsys):
    model = write_model(tmp_path / "model", classes=("cat", "dog", "n00000001x"))
    for number, name in enumerate(("cat", "dog")):
        write_image(tmp_path / "set" / name / "a.png", gray(number, of=3))

    found, _ = evaluate(capsys, "imagenet_a", model, tmp_path / "set")

    assert found["restricted_to"] == ["cat", "dog"]
    assert found["top1"] == 1.0
    write_image(tmp_path / "other" / "n00000001" / "a.png", gray(0))
    write_image(tmp_path / "other" / "bird" / "a.png", gray(0))
    said = mistake(capsys, "imagenet_a", model, tmp_path / "other")
    assert "none of the 2 folders" in said and "'bird', 'n00000001'" in said


def test_mce_is_as_computed_by_hand(model, imagenet_c, capsys):
    found, _ = evaluate(capsys, "imagenet_c", model, imagenet_c, "--batch=16")

    # Errors 0, ¼, ½, ¾, 1 in fourteen corruptions, none in `contrast`.
    ce = {c: 100 * 2.5 / (5 * ALEXNET_ERRORS[c]) for c in CORRUPTIONS}
    ce["contrast"] = 0.0
    assert found["ce"] == pytest.approx(ce)
    assert found["mce"] == pytest.approx(sum(ce.values()) / 15)
    assert found["mce"] == pytest.approx(60.7657, abs=1e-4)
    assert found["errors"]["fog"] == {"1": 0, "2": 0.25, "3": 0.5, "4": 0.75, "5": 1}
    assert found["top1"] == pytest.approx(1 - 14 * 0.5 / 15)
    assert found["images"] == 15 * 5 * 4
    assert (found["missing"], found["warnings"]) == ([], [])
    assert found["extras"] == ["speckle_noise"]
    assert "speckle_noise" not in found["errors"]


def test_a_severity_that_is_missing_gives_no_mce(model, tmp_path, capsys):
    write_c(tmp_path, corruptions=["fog", "snow"])
    for path in (tmp_path / "snow" / "3").rglob("*.png"):
        path.unlink()
    for path in sorted((tmp_path / "snow" / "3").iterdir()):
        path.rmdir()
    (tmp_path / "snow" / "3").rmdir()

    found, said = evaluate(capsys, "imagenet_c", model, tmp_path)

    assert found["mce"] is None and found["top1"] is None
    assert set(found["ce"]) == {"fog"}
    assert set(found["errors"]["snow"]) == {"1", "2", "4", "5"}
    assert "snow/3" in found["missing"] and "frost" in found["missing"]
    assert "snow/3; mCE and top-1 are means over 15" in said


def test_fewer_images_in_one_folder_are_told(model, tmp_path, capsys):
    write_c(tmp_path, corruptions=["fog"])
    (tmp_path / "weather" / "fog" / "4" / WNIDS[0] / "0.png").unlink()

    _, said = evaluate(capsys, "imagenet_c", model, tmp_path)

    assert "1 of 5 folders have fewer than 4 usable images" in said
    assert "fog/4 with 3" in said


def test_released_crops_are_not_cropped_again(tmp_path, capsys):
    """Only the rim is bright: what is cropped to the middle is of band 0."""
    model = write_model(tmp_path / "model", crop_padding=SIDE)
    rim = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
    rim[: SIDE // 2], rim[-SIDE // 2 :] = 255, 255
    rim[:, : SIDE // 2], rim[:, -SIDE // 2 :] = 255, 255
    for severity in range(1, 6):
        write_image(tmp_path / "c" / "fog" / str(severity) / WNIDS[4] / "a.png", rim)
        write_image(tmp_path / "a" / WNIDS[4] / "a.png", rim)
    write_image(tmp_path / "a" / WNIDS[0] / "b.png", rim)

    of_c, _ = evaluate(capsys, "imagenet_c", model, tmp_path / "c")
    of_a, _ = evaluate(capsys, "imagenet_a", model, tmp_path / "a")

    assert of_c["preprocessing"]["crop_padding"] == 0
    assert of_c["preprocessing"]["resolution"] == SIDE
    assert of_c["errors"]["fog"]["1"] == 0
    assert of_a["preprocessing"]["crop_padding"] == SIDE
    assert of_a["top1"] == 0.5


@pytest.mark.parametrize("suite", ["imagenet_c", "imagenet_p"])
def test_weights_fine_tuned_by_fixres_are_warned_of(suite, tmp_path, capsys):
    write_c(tmp_path / "set", corruptions=["fog"])
    frames = tmp_path / "set" / "tilt" / WNIDS[0] / "clip"
    for number in range(2):
        write_image(frames / f"{number}.png", gray(0))

    for origin in ({"fixres": {"resolution": 8}}, {"source": "L2 FixRes 800"}, {}):
        model = write_model(tmp_path / f"model_{len(str(origin))}", origin=origin)
        _, said = evaluate(capsys, suite, model, tmp_path / "set")

        assert ("before it" in said and "FixRes" in said) == bool(origin)


def write_p(place, clips, *, perturbations=PERTURBATIONS, video=False):
    """ImageNet-P: clips of band 1, each a list of the bands that its frames show."""
    for perturbation in perturbations:
        for number, bands in enumerate(clips):
            where = place / perturbation / WNIDS[1]
            if video:
                frames = [gray(band, side=32) for band in bands]
                write_video(where / f"{number}.mp4", frames)
                continue
            for frame, band in enumerate(bands):
                write_image(where / str(number) / f"f{frame}.png", gray(band))
    return place


# Of the previous frame 2/4 differ and 1/4; of the first 4/4 and 1/4.
CLIPS = ([1, 2, 2, 2, 3], [1, 1, 1, 1, 0])


def test_flip_probabilities_and_mfr_are_as_computed_by_hand(model, tmp_path, capsys):
    place = write_p(tmp_path / "set", CLIPS)
    write_p(place / "noise", CLIPS, perturbations=["gaussian_noise_2"])
    alexnet = tmp_path / "alexnet.json"
    half = dict.fromkeys(PERTURBATIONS, 0.5)
    alexnet.write_text(json.dumps(half))

    found, said = evaluate(capsys, "imagenet_p", model, place)

    flips = dict.fromkeys(PERTURBATIONS, 3 / 8)
    flips |= {"gaussian_noise": 5 / 8, "shot_noise": 5 / 8}
    assert found["flip_probability"] == flips
    assert found["mean_flip_probability"] == pytest.approx((2 * 5 + 8 * 3) / 80)
    assert found["mfr"] is None and "there is no mFR" in said
    assert (found["clips"], found["frames"]) == (20, 100)
    assert found["top1"] == 0.5
    normalized, said = evaluate(
        capsys, "imagenet_p", model, place, f"--alexnet-flips={alexnet}"
    )
    assert normalized["mfr"] == pytest.approx(85.0)
    assert "not normalized" not in said


def test_frames_are_in_the_order_of_their_numbers(model, tmp_path, capsys):
    bands = [1] * 10 + [2] * 2
    place = write_p(tmp_path, [bands], perturbations=["tilt"])

    found, said = evaluate(capsys, "imagenet_p", model, place)

    # Sorted as text, frames 10 and 11 would come after frame 1: two flips.
    assert found["flip_probability"] == {"tilt": pytest.approx(1 / 11)}
    assert found["mean_flip_probability"] is None
    assert "missing: gaussian_noise" in said


def test_clips_are_read_from_videos(model, tmp_path, capsys):
    pytest.importorskip("av")
    place = write_p(tmp_path, CLIPS, perturbations=["rotate"], video=True)
    (place / "rotate" / WNIDS[1] / "broken.mp4").write_bytes(b"no video" * 99)
    write_video(place / "rotate" / WNIDS[1] / "short.mp4", [gray(1, side=32)])

    found, _ = evaluate(capsys, "imagenet_p", model, place)

    assert found["flip_probability"] == {"rotate": 3 / 8}
    assert (found["clips"], found["frames"]) == (2, 10)
    names = [key.rpartition("/")[2] for key in found["unusable"]]
    assert names == ["broken.mp4", "short.mp4"]
    assert "broken video" in found["unusable"][f"{WNIDS[1]}/broken.mp4"]
    assert "1 frames, at least two" in found["unusable"][f"{WNIDS[1]}/short.mp4"]


def test_fgsm_tells_top1_at_each_epsilon(model, tmp_path, capsys):
    # Bands are 42.5 wide: from the middle of one, 22 is a band further and 20 is not.
    for band in (1, 3):
        write_image(tmp_path / WNIDS[band] / "a.png", gray(band))

    found, _ = evaluate(capsys, "fgsm", model, tmp_path, "--epsilon=24,20")

    assert found["clean_top1"] == 1.0
    assert found["top1"] == {"20": 1.0, "24": 0.0}
    assert found["resolution"] == SIDE
    assert list(evaluate(capsys, "fgsm", model, tmp_path)[0]["top1"]) == [
        *("2", "4", "8", "16")
    ]


def test_a_suite_that_was_stopped_goes_on_and_finds_the_same(
    model, imagenet_c, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "result" / "c.json"
    line = ["evaluate", "--suite=imagenet_c", f"--model={model}", "--trust"]
    line += [f"--images={imagenet_c}", f"--output={output}"]
    whole, _ = evaluate(capsys, "imagenet_c", model, imagenet_c)
    checks = []

    def stop_at_the_tenth(self):
        checks.append(1)
        if len(checks) == 10:
            raise Interrupted("stopped by SIGTERM")

    with monkeypatch.context() as patched:
        patched.setattr(Interruption, "check", stop_at_the_tenth)
        assert main(line) == 75
    assert not output.exists()
    assert "the same command resumes after them" in capsys.readouterr().out

    assert main(line) == 0

    assert "resuming after 9 parts" in capsys.readouterr().out
    assert json.loads(output.read_text()) == whole
    assert [path.name for path in output.parent.iterdir()] == ["c.json"]
    assert main(line) == 2
    assert "exists: give another" in capsys.readouterr().err


def test_without_an_output_nothing_is_said_to_be_kept(
    model, imagenet_c, capsys, monkeypatch
):
    def stop(self):
        raise Interrupted("stopped by SIGTERM")

    monkeypatch.setattr(Interruption, "check", stop)
    line = ["evaluate", "--suite=imagenet_c", f"--model={model}", "--trust"]

    assert main([*line, f"--images={imagenet_c}"]) == 75
    assert "nothing is kept: with --output=FILE" in capsys.readouterr().out


def test_people_read_a_table(model, imagenet_c, capsys):
    line = ["evaluate", "--suite=imagenet_c", f"--model={model}", "--trust"]
    capsys.readouterr()

    assert main([*line, f"--images={imagenet_c}"]) == 0

    out = capsys.readouterr().out
    assert "fog                     0.0   25.0   50.0   75.0  100.0" in out
    assert "left out: speckle_noise" in out
    assert "mCE 60.8 %, top-1 53.3 % on 300 images" in out


def test_mistakes_are_one_sentence(model, imagenet_c, tmp_path, capsys):
    def wrong(suite, *flags, images=imagenet_c):
        return mistake(capsys, suite, model, images, *flags)

    assert "did you mean 'imagenet_c'" in wrong("imagenetc")
    assert "does not exist: give a folder" in wrong("imagenet_c", images=tmp_path / "x")
    assert "holds none of the 15 folders" in wrong("imagenet_c", images=tmp_path)
    assert "holds none of the 10 folders" in wrong("imagenet_p", images=tmp_path)
    assert "--epsilon=0: give sizes" in wrong("fgsm", "--epsilon=0")
    assert "belongs to --suite=fgsm" in wrong("imagenet_a", "--epsilon=2")
    assert "is not there" in wrong("imagenet_p", f"--alexnet-flips={tmp_path}/none")
    (tmp_path / "few.json").write_text('{"tilt": 0.1}')
    said = wrong("imagenet_p", f"--alexnet-flips={tmp_path}/few.json")
    assert "for each of gaussian_noise" in said
    assert "must be at least 1" in wrong("imagenet_c", "--batch=0")
    assert main(["evaluate", "--suite=imagenet_a", f"--model={model}"]) == 2
    assert "needs --images=DIR" in capsys.readouterr().err
    assert main(["evaluate", "--batch=4"]) == 2
    assert "--batch belongs to" in capsys.readouterr().err
    assert main(["evaluate", f"--model={model}", "--epsilon=2"]) == 2
    assert "--epsilon belongs to" in capsys.readouterr().err
    line = ["evaluate", "--suite=imagenet_a", f"--model={model}"]
    assert main([*line, f"--images={imagenet_c}"]) == 2
    assert "add --trust" in capsys.readouterr().err


def test_folders_without_classes_are_refused_before_any_image_is_read(
    model, tmp_path, capsys
):
    (tmp_path / "fog").mkdir()
    assert "have no folders 1 to 5" in mistake(capsys, "imagenet_c", model, tmp_path)
    write_c(tmp_path, corruptions=["snow"])
    (tmp_path / "fog" / "5").mkdir()

    said = mistake(capsys, "imagenet_c", model, tmp_path)

    assert "none of the 0 folders" in said and "fog/5" in said


def test_a_corruption_that_is_there_twice_is_refused(model, tmp_path, capsys):
    write_c(tmp_path, corruptions=["snow"])
    write_c(tmp_path / "weather", corruptions=["snow"])

    assert "holds 'snow' twice" in mistake(capsys, "imagenet_c", model, tmp_path)

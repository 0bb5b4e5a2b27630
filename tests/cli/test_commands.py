"""The commands that need no run, and the files that other tools rely on."""

import csv
import hashlib
import json
import pathlib
import re
import weakref

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from support import TINY, command

from noisy_student_jax.cli import predict as predicting
from noisy_student_jax.cli.main import main
from noisy_student_jax.core import console, devices
from noisy_student_jax.images.decode import Decoding
from noisy_student_jax.models import bundle as bundles

CLASSES = [str(digit) for digit in range(10)]


def run_main(capsys, *arguments, status: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    found = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert found == status, out + err
    assert "Traceback" not in out + err
    return out, err


# ---- plan


def test_plan_of_a_model_for_machines(capsys):
    out, err = run_main(capsys, "plan", "--model=efficientnet_b0", "--json")
    assert out.count("\n") == 1
    facts = json.loads(out)
    assert next(iter(facts)) == "model"
    assert facts["model"] == "efficientnet_b0"
    assert facts["parameters"] == 5_288_548
    assert facts["flops"] == pytest.approx(2 * 0.39e9, rel=0.02)
    assert facts["resolution"] == 224
    assert facts["activation_bytes"] > 50e6
    assert err.startswith("device: cpu (")


def test_plan_of_a_model_for_people(capsys):
    out, err = run_main(capsys, "plan", "--model=efficientnet_b0", "--resolution=112")
    assert err == ""
    device, line, name, *table = out.splitlines()
    assert device.startswith("device: cpu (")
    assert re.match(
        r"efficientnet_b0 at 112 px, 1000 classes: 5,288,548 parameters, 0\.\d+"
        r" GFLOPs forward an image, .* MB of activations",
        line,
    )
    assert name == "efficientnet_b0:"
    assert "3×3×3×32" in next(row for row in table if "stem_conv" in row)
    assert "5,288,548" in table[-2]


def test_plan_of_a_config_for_machines(capsys):
    out, _ = run_main(capsys, "plan", f"--config={TINY}", "--json")
    facts = json.loads(out)
    assert facts["splits"] == {
        "labeled": 30,
        "pool": 1617,
        "validation": 50,
        "test": 100,
    }
    assert facts["stages"][0] == "data" and facts["stages"][-1] == "report"
    teacher, student = facts["generations"]
    assert teacher["batch"] == {"labeled": 16, "pseudo": 0}
    assert student["batch"] == {"labeled": 16, "pseudo": 16}
    assert (teacher["images_drawn"], student["images_drawn"]) == (12 * 16, 12 * 32)
    assert student["train_flops"] == 3 * student["flops"] * 12 * 32
    assert facts["control"]["images_drawn"] == student["images_drawn"]
    for entry in (teacher, student, facts["control"]):
        assert entry["memory_per_device"] > 4 * entry["parameters"]
        assert entry["disk"] > 4 * entry["parameters"]


def test_plan_of_a_config_for_people_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = run_main(capsys, "plan", f"--config={TINY}", "--config.train.steps=40")
    lines = out.splitlines()
    assert lines[1] == "digits: 30 labeled, 1,617 pool, 50 validation, 100 test"
    assert [line.split(":")[0] for line in lines[2:] if line[0] not in "|+"] == [
        "generation 0",
        "generation 1",
        "control",
        "efficientnet_test",
    ]
    assert "40 steps of 16 + 16 images (1,280 draws" in lines[3]
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_names_what_does_not_decay(capsys):
    out, _ = run_main(capsys, "plan", f"--config={TINY}", "--recipe")
    assert "learning rate: peak 0.003125, exponential" in out
    assert re.search(r"not on \S*bn\.bias, \S*bn\.scale", out)
    assert (
        "noise on pseudo: crop_area=0, crop_padding=1, cutout_size=0, dropout=True"
        in out
    )
    assert (
        "selection: max_copies=None, method=paper, min_score=0.05, per_class=20, seed=0"
        in out
    )


# ---- select, of any directory


def sidecar(path: pathlib.Path, rows: list[tuple]) -> None:
    keys, status, labels, scores = zip(*rows, strict=True)
    columns = {
        "key": pa.array(keys, pa.string()),
        "status": pa.array(status, pa.string()),
        "label": pa.array(labels, pa.int32()),
        "score": pa.array(scores, pa.float32()),
    }
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def labels(tmp_path) -> pathlib.Path:
    """Two shards by hand: 4 of class 0, 2 of class 1, a low one, a broken one."""
    sidecar(
        tmp_path / "labels" / "a.parquet",
        [
            ("a0", "ok", 0, 0.9),
            ("a1", "ok", 1, 0.8),
            ("a2", "truncated", None, None),
            ("a3", "ok", 0, 0.5),
            ("a4", "ok", 1, 0.2),
        ],
    )
    sidecar(
        tmp_path / "labels" / "b.parquet",
        [("b0", "ok", 0, 0.7), ("b1", "ok", 1, 0.6), ("b2", "ok", 0, 0.6)],
    )
    return tmp_path / "labels"


def select(capsys, labels, output, *overrides) -> tuple[list[dict], str]:
    flags = [f"--config.selection.{override}" for override in overrides]
    line = ["select", f"--labels={labels}", f"--output={output}", *flags]
    out, _ = run_main(capsys, *line)
    plan = pq.read_table(output / "plan.parquet")
    assert plan.column_names == ["key", "label", "score", "copies"]
    assert plan.schema.types == [pa.string(), pa.int32(), pa.float32(), pa.int32()]
    return plan.to_pylist(), out


def test_select_on_any_directory_of_sidecars(labels, tmp_path, capsys):
    plan, out = select(capsys, labels, tmp_path / "new", "per_class=3")
    assert [row["key"] for row in plan] == ["a0", "a1", "b0", "b1", "b2"]
    copies = {row["key"]: row["copies"] for row in plan}
    assert copies["a0"] == copies["b0"] == copies["b2"] == 1
    assert sorted([copies["a1"], copies["b1"]]) == [1, 2]
    assert (
        "read 8 = selected 5 + quarantined 1 + not above 0.3 1 + over capacity 1; 6"
        " draws" in out
    )
    picks = np.load(tmp_path / "new" / "picks.npy")
    assert picks.shape == (6, 2)
    assert set(picks[:, 0].tolist()) == {0, 1, 5, 6, 7}
    summary = json.loads((tmp_path / "new" / "selection.json").read_text())
    assert summary["per_class"]["before"] == [4, 3]
    assert summary["per_class"]["draws"] == [3, 3]


def test_select_takes_method_and_threshold(labels, tmp_path, capsys):
    plan, _ = select(capsys, labels, tmp_path / "all", "method=all", "min_score=0.55")
    assert [(row["key"], row["copies"]) for row in plan] == [
        ("a0", 1),
        ("a1", 1),
        ("b0", 1),
        ("b1", 1),
        ("b2", 1),
    ]


def test_select_takes_a_seed(labels, tmp_path, capsys):
    drawn = set()
    for seed in range(8):
        plan, _ = select(
            capsys, labels, tmp_path / str(seed), "per_class=3", f"seed={seed}"
        )
        drawn.add(next(row["key"] for row in plan if row["copies"] == 2))
    assert drawn == {"a1", "b1"}


def test_select_takes_what_a_config_says(labels, tmp_path, capsys):
    line = [f"--labels={labels}", f"--output={tmp_path / 'new'}", f"--config={TINY}"]
    run_main(capsys, "select", *line, "--config.selection.per_class=2")
    options = json.loads((tmp_path / "new/selection.json").read_text())["options"]
    assert options == {
        "method": "paper",
        "min_score": 0.05,
        "per_class": 2,
        "max_copies": None,
        "seed": 0,
    }


def test_select_warns_of_a_class_that_gets_nothing(labels, tmp_path, capsys):
    _, out = select(capsys, labels, tmp_path / "new", "min_score=0.85", "per_class=1")
    assert "WARNING: 1 of 2 classes get no pseudo-labels: 1" in out


# ---- predict


@pytest.fixture(scope="module")
def digits_by_key() -> dict[str, np.ndarray]:
    raw = load_digits()
    gray = np.round(raw.images * (255 / 16)).astype(np.uint8)
    return {f"digits/{number:04d}": image for number, image in enumerate(gray)}


def predict(capsys, tiny_run, *arguments, status: int = 0):
    line = ["predict", f"--model={tiny_run / 'generation_0/model'}", "--json"]
    out, err = run_main(capsys, *line, *arguments, status=status)
    return [json.loads(row) for row in out.splitlines()], err


def test_predict_says_what_evaluation_recorded(
    tiny_run, digits_by_key, tmp_path, capsys
):
    recorded = pq.read_table(tiny_run / "generation_0/predictions.parquet").to_pylist()
    paths = []
    for row in recorded:
        path = tmp_path / (row["key"].replace("/", "_") + ".png")
        Image.fromarray(digits_by_key[row["key"].split("-")[0]]).save(path)
        paths.append(path)
    rows, err = predict(capsys, tiny_run, "--logits", "--batch=7", *paths)
    assert err.startswith("device: ")
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    for row, known in zip(rows, recorded, strict=True):
        assert list(row) == ["image", "index", "class", "probability", "logits"]
        assert row["index"] == known["label"]
        assert row["class"] == CLASSES[row["index"]]
        assert row["probability"] == pytest.approx(known["score"], abs=1e-5)
        logits = np.array(row["logits"])
        p = np.exp(logits - logits.max())
        np.testing.assert_allclose(p / p.sum(), known["probabilities"], atol=1e-3)
        assert known["primary"] == (known["label"] == known["truth"])


def test_predict_averages_as_many_views_as_are_asked_for(tiny_run, tmp_path, capsys):
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(path)
    mirrored = tmp_path / "b.png"
    Image.fromarray(np.ascontiguousarray(pixels[:, ::-1])).save(mirrored)

    def probabilities(*flags):
        rows, _ = predict(capsys, tiny_run, *flags, path, mirrored)
        return [row["probability"] for row in rows]

    one, other = probabilities("--views=4")
    assert one == pytest.approx(other, abs=1e-5)
    assert probabilities() == probabilities("--views=1")
    one, other = probabilities()
    assert abs(one - other) > 1e-3
    _, err = predict(capsys, tiny_run, "--views=9", path, status=2)
    assert "views must be 1 to 4, not 9" in err


def test_predict_without_logits(tiny_run, tmp_path, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (row,), _ = predict(capsys, tiny_run, tmp_path / "a.png")
    assert list(row) == ["image", "index", "class", "probability"]


HOSTILE = ("two\nlines.png", "<script>alert(1)</script>.png", "\x1b[2J.png")


def test_what_cannot_be_decoded_is_told_and_the_rest_predicted(
    tiny_run, tmp_path, capsys
):
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "nothing").mkdir()
    good = folder / "good.png"
    Image.new("RGB", (20, 10), (9, 9, 9)).save(good)
    (folder / "text.png").write_text("no image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.png").write_bytes(good.read_bytes()[:40])
    order = [
        folder / "text.png",
        good,
        folder / "empty.jpg",
        folder / "none.png",
        good,
        tmp_path / "nothing",
        folder / "cut.png",
    ]
    for batch in (1, 3, 32):
        rows, err = predict(capsys, tiny_run, f"--batch={batch}", *order, status=1)
        assert [row["image"] for row in rows] == [str(path) for path in order]
        assert [sorted(row) for row in rows if "error" in row] == [
            ["error", "image"]
        ] * 5
        assert ["error" not in row for row in rows] == [path == good for path in order]
        assert rows[1] == rows[4]
        assert "5 of 7 images could not be read" in err


def test_hostile_names_are_printed_harmlessly(tiny_run, tmp_path, capsys):
    paths = []
    for name in HOSTILE:
        paths.append(tmp_path / name.replace("/", "∕"))
        Image.new("L", (8, 8)).save(paths[-1], format="png")
    rows, _ = predict(capsys, tiny_run, *paths)
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    line = ["predict", f"--model={tiny_run / 'best'}", *paths, tmp_path / "no\nne"]
    out, _ = run_main(capsys, *line, status=1)
    assert out.count("\n") == 1 + 4
    assert "\x1b" not in out
    assert r"two\nlines.png: " in out
    assert r"no\nne: cannot be read: " in out


@pytest.fixture
def folder(tmp_path):
    """Four images, one of them broken, and a text."""
    for number, name in enumerate(("b.png", "a/d.png", "a/c.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 9), 80 * number).save(tmp_path / "in" / name)
    (tmp_path / "in/e.jpg").write_text("no image")
    (tmp_path / "in/notes.txt").write_text("a text")
    return tmp_path / "in"


def test_predict_takes_folders_and_patterns_in_order(tiny_run, folder, capsys):
    names = ["a/c.png", "a/d.png", "b.png", "e.jpg"]
    rows, err = predict(capsys, tiny_run, folder, status=1)
    assert [row["image"] for row in rows] == [str(folder / name) for name in names]
    assert f"left out of '{folder}': 1 other kinds of file (.txt 1)" in err

    again, _ = predict(capsys, tiny_run, f"{folder}/**/*.png", folder / "b.png")
    assert [row["image"].rpartition("/")[2] for row in again] == [
        *("c.png", "d.png", "b.png", "b.png")
    ]
    assert again[:3] == rows[:3] and again[3] == rows[2]

    Image.new("L", (8, 8)).save(folder / "x[1].png")
    (literal,), _ = predict(capsys, tiny_run, folder / "x[1].png")
    assert literal["image"] == str(folder / "x[1].png")


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_predict_writes_a_table_in_place_of_lines(tiny_run, folder, kind, capsys):
    rows, _ = predict(capsys, tiny_run, "--logits", folder, status=1)
    (folder / "e.jpg").rename(folder / "new\nline.jpg")
    output = folder.parent / f"out.{kind}"
    line = ["predict", f"--model={tiny_run / 'generation_0/model'}", "--logits", folder]

    out, err = run_main(capsys, *line, f"--output={output}", status=1)

    device, told = out.splitlines()
    assert device.startswith("device: ")
    assert told == f"3 predictions are in '{output}'"
    assert "1 of 4 images could not be read" in err
    if kind == "csv":
        with output.open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        for row in found:
            row["logits"] = [float(value) for value in row["logits"].split()]
    elif kind == "parquet":
        found = pq.read_table(output).to_pylist()
    else:
        found = read(output)
    assert found[3]["image"] == rf"{folder}/new\nline.jpg"
    assert found[3]["error"] == "not an image of a known format"
    for row, printed in zip(found, rows[:3], strict=False):
        assert (row["image"], row["class"]) == (printed["image"], printed["class"])
        assert int(row["index"]) == printed["index"]
        assert float(row["probability"]) == pytest.approx(printed["probability"])
        np.testing.assert_allclose(row["logits"], printed["logits"], rtol=1e-5)


def test_predict_holds_no_photographs_but_those_being_decoded(
    tiny_run, folder, capsys, monkeypatch
):
    alive, most = set(), 0
    decode = predicting.decode

    def counted(data, **options):
        nonlocal most
        image = decode(data, **options)
        alive.add(id(image))
        most = max(most, len(alive))
        weakref.finalize(image, alive.discard, id(image))
        return image

    monkeypatch.setattr(predicting, "decode", counted)
    Image.new("L", (40, 50)).save(folder / "b.png")
    rows, _ = predict(capsys, tiny_run, *[folder / "b.png"] * 40)

    assert len(rows) == 40
    assert most <= predicting.AT_A_TIME


def test_predict_reads_a_huge_jpeg_at_a_reduced_scale(
    tiny_run, tmp_path, capsys, monkeypatch
):
    half = np.zeros((1200, 1600, 3), np.uint8)
    half[:, 800:] = 255
    Image.fromarray(half).save(tmp_path / "a.jpg")
    Image.fromarray(half).save(tmp_path / "a.png")
    decode, sizes = predicting.decode, []

    def few(data, decoding, **options):
        image = decode(data, decoding=Decoding(max_pixels=1_000_000), **options)
        sizes.append(image.shape)
        return image

    monkeypatch.setattr(predicting, "decode", few)
    paths = tmp_path / "a.jpg", tmp_path / "a.png"

    found, refused = predict(capsys, tiny_run, *paths, status=1)[0]

    assert "class" in found
    assert "1,920,000 pixels by its header" in refused["error"]
    ((height, width, _),) = sizes
    assert width == pytest.approx(height * 4 / 3, abs=1)
    resolution = bundles.read(tiny_run / "best").preprocessing.resolution
    assert 4 * resolution <= height <= 1200 // 2


def test_predict_takes_a_bundle_by_its_files(tiny_run, tmp_path, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    for name in ("", "model.json", "model.safetensors"):
        out, _ = run_main(
            capsys, "predict", f"--model={tiny_run / 'best' / name}", tmp_path / "a.png"
        )
        assert re.match(r".*a\.png: \d \(\d+\.\d %\)$", out.splitlines()[1])


# ---- the files that other tools rely on


def read(path: pathlib.Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_summary_json_keeps_its_contract(tiny_run):
    summary = read(tiny_run / "summary.json")
    assert list(summary) == [
        "schema",
        "task",
        "dataset",
        "classes",
        "primary_metric",
        "splits",
        "generations",
        "control",
        "baselines",
        "best",
        "verdict",
        "choice",
    ]
    assert summary["schema"] == 1
    assert (summary["task"], summary["dataset"]) == ("classification", "digits")
    assert summary["classes"] == CLASSES
    assert summary["primary_metric"] == "top1"
    assert list(summary["splits"]) == ["train", "validation", "test", "pool"]
    assert [one["generation"] for one in summary["generations"]] == [0, 1]
    for one in [*summary["generations"], summary["control"]]:
        assert {"model", "parameters", "resolution", "labeled", "pseudo_labeled"} < (
            one.keys()
        )
        assert one["model"] == "efficientnet_test"
        assert {"top1", "top5", "nll", "ece"} <= one["metrics"].keys()
        assert one["metrics"].keys() == one["validation"].keys() == one["raw"].keys()
        assert 0 <= one["interval"][0] <= one["metrics"]["top1"] <= one["interval"][1]
        assert one["seconds"] > 0
    assert summary["generations"][0]["pseudo_labeled"] == 0
    assert summary["generations"][1]["pseudo_labeled"] > 0
    assert summary["control"]["pseudo_labeled"] == 0
    student = summary["generations"][1]
    assert summary["control"]["images_drawn"] == student["images_drawn"]
    verdict = summary["verdict"]
    assert verdict["against"] == "control"
    assert verdict["difference"] == pytest.approx(
        student["metrics"]["top1"] - summary["control"]["metrics"]["top1"]
    )
    low, high = verdict["interval"]
    assert low <= verdict["difference"] <= high
    assert verdict["says"].endswith(f"on 100 test images: {verdict['outcome']}")


def test_best_is_chosen_on_validation_images_among_all_rows(tiny_run):
    summary = read(tiny_run / "summary.json")
    by_image = {
        name: pq.read_table(tiny_run / name / "validation.parquet")
        for name in ("generation_0", "generation_1", "control")
    }
    right = {name: one["primary"].to_numpy() for name, one in by_image.items()}
    leads = {one["name"]: one for one in summary["choice"]["leads"] if one["than"] == 1}
    assert leads.keys() == {0, "control"}
    for name, lead in leads.items():
        ours = right["generation_0" if name == 0 else name]
        assert lead["value"] == pytest.approx((ours - right["generation_1"]).mean())
        assert lead["images"] == 50 and lead["paired"]
    sure = [one for one in leads.values() if one["value"] > one["error"]]
    best = max(sure, key=lambda one: one["value"])["name"] if sure else 1
    assert summary["best"] == best
    folder = tiny_run / (best if best == "control" else f"generation_{best}")
    for path in (folder / "model").iterdir():
        assert (tiny_run / "best" / path.name).read_bytes() == path.read_bytes()
    readme = (tiny_run / "README.md").read_text()
    assert summary["choice"]["says"][1:] in readme
    assert readme.count("★") == 2


def test_evaluation_json_keeps_its_contract(tiny_run):
    for name in ("generation_0", "generation_1", "control"):
        found = read(tiny_run / name / "evaluation.json")
        assert list(found) == ["schema", "generation", "model", "sha256", "splits"]
        weights = (tiny_run / name / "model/model.safetensors").read_bytes()
        assert found["sha256"] == hashlib.sha256(weights).hexdigest()
        assert {k: v["images"] for k, v in found["splits"].items()} == {
            "validation": 50,
            "test": 100,
        }
        for split in found["splits"].values():
            assert split["ema"].keys() == split["raw"].keys()
    rows = pq.read_table(tiny_run / "control/predictions.parquet")
    assert rows.column_names[:5] == ["key", "truth", "label", "score", "primary"]
    top1 = found["splits"]["test"]["ema"]["top1"]
    assert np.mean(rows["primary"].to_numpy()) == pytest.approx(top1)


def test_model_json_keeps_its_contract(tiny_run):
    card = read(tiny_run / "generation_1/model/model.json")
    assert card["architecture"] == "efficientnet_test"
    assert card["arguments"]["outputs"] == 10
    assert card["preprocessing"] == {
        "resolution": 8,
        "crop_padding": 0,
        "interpolation": "bicubic",
        "mean": [0.3, 0.3, 0.3],
        "std": [0.35, 0.35, 0.35],
    }
    assert card["classes"] == CLASSES
    assert card["task"] == "classification"
    for name, field in (
        ("model.safetensors", "sha256"),
        ("trained_on.npy", "trained_on_sha256"),
    ):
        data = (tiny_run / "generation_1/model" / name).read_bytes()
        assert card[field] == hashlib.sha256(data).hexdigest()
    teacher = read(tiny_run / "generation_0/model/model.json")
    assert card["origin"] == {
        "teacher": teacher["sha256"],
        "generation": 1,
        "dataset": "digits",
        "steps": 12,
        "seed": 0,
        "weights": "ema",
        "started_from": None,
        "part_trained": "all",
    }
    hashes = np.load(tiny_run / "generation_1/model/trained_on.npy")
    pseudo = read(tiny_run / "summary.json")["generations"][1]["pseudo_labeled"]
    assert len(hashes) == 30 + pseudo


def test_sidecars_keep_their_contract(tiny_run):
    folder = tiny_run / "generation_0/labels"
    paths = sorted(folder.glob("shard_*.parquet"))
    assert len(paths) == 3
    card = read(tiny_run / "generation_0/model/model.json")
    for path in paths:
        schema = pq.read_schema(path)
        assert schema.names == ["key", "status", "label", "score", "probabilities"]
        assert schema.types == [
            pa.string(),
            pa.string(),
            pa.int32(),
            pa.float32(),
            pa.list_(pa.float16()),
        ]
        metadata = {
            key.decode(): value.decode()
            for key, value in schema.metadata.items()
            if key.startswith(b"noisy_student.")
        }
        assert metadata == {
            "noisy_student.task": "classification",
            "noisy_student.schema": "1",
            "noisy_student.model": "efficientnet_test",
            "noisy_student.model_sha256": card["sha256"],
            "noisy_student.classes": "10",
        }
    rows = pa.concat_tables(pq.read_table(path) for path in paths)
    p = np.array(rows["probabilities"].to_pylist())
    np.testing.assert_allclose(p.max(axis=1), rows["score"].to_numpy(), atol=1e-3)
    assert set(rows["status"].to_pylist()) == {"ok"}
    quarantine = pq.read_table(folder / "quarantine.parquet")
    assert quarantine.column_names == ["key", "reason"]
    assert len(rows) == 1617 and len(quarantine) == 0


def test_config_json_is_all_that_the_run_was(tiny_run):
    stored = read(tiny_run / "config.json")
    assert [one["train"]["steps"] for one in stored["generations"]] == [12, 12]
    assert stored["control"]["enabled"] is True
    assert stored["control"]["model"]["name"] == "efficientnet_test"


# ---- what a person sees


def test_the_device_comes_first(tmp_path):
    out, _ = command("status", f"--workdir={tmp_path}").communicate(timeout=120)
    assert re.match(r"device: cpu \(1 × cpu, \d+ CPU cores\), JAX \d", out)


def test_a_gpu_that_idles_is_a_loud_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    assert devices.idle_gpu(tmp_path) is None
    place = tmp_path / "dev" / "nvidia0"
    place.parent.mkdir()
    place.touch()
    assert devices.idle_gpu(tmp_path) == "/dev/nvidia0"
    place.unlink()
    monkeypatch.setattr(devices.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert devices.idle_gpu(tmp_path) == "nvidia-smi"
    monkeypatch.setattr(devices, "idle_gpu", lambda: "/dev/nvidia0")
    devices.announce()
    device, warning = capsys.readouterr().out.splitlines()
    assert device.startswith("device: cpu")
    assert warning.startswith("WARNING: this machine has a GPU (/dev/nvidia0) but JAX")
    assert "pip install 'noisy-student-jax[gpu]'" in warning


def test_a_device_that_is_not_there_is_one_sentence(tmp_path):
    process = command("status", f"--workdir={tmp_path}", env={"JAX_PLATFORMS": "cuda"})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "JAX has no device of JAX_PLATFORMS=cuda here" in err
    assert "Traceback" not in err


def test_without_a_home_nothing_is_kept_and_all_goes_on(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(devices.pathlib.Path, "home", nobody)
    before = devices.jax.config.jax_compilation_cache_dir
    devices.jax.config.update("jax_compilation_cache_dir", None)
    try:
        devices.keep_compiled_programs()
        assert devices.jax.config.jax_compilation_cache_dir is None
    finally:
        devices.jax.config.update("jax_compilation_cache_dir", before)


def test_a_terminal_without_unicode_is_no_obstacle(tmp_path):
    process = command(
        "plan", "--model=efficientnet_test", env={"PYTHONIOENCODING": "ascii"}
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith("device: cpu (1 \\xd7 cpu")


class Clock:
    """Time that stands still until it is told to go on."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(console.time, "monotonic", lambda: self.now)


def test_a_log_gets_plain_lines_at_intervals(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    progress = console.Progress(total_work=4.0, every_seconds=10.0)
    progress.begin("[1/2] train", work=1.0)
    progress.start(100, "images")
    clock.now += 30  # the compiler
    progress.update(10)
    for step in range(2, 11):
        clock.now += 4
        progress.update(10 * step, ", loss 1.000")
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "[1/2] train: 10/100 images"
    assert out[1] == (
        "[1/2] train: 40/100 images, 2/s, 24 s left, run 2 min 24 s left, loss 1.000"
    )
    assert len(out) == 4
    assert not any("\r" in line or "\x1b" in line for line in out)
    # What is left of the run does not count this stage again.
    progress.finish()
    progress.begin("[2/2] train", work=3.0)
    progress.start(300, "images", at=200)
    progress.update(210)
    clock.now += 10
    progress.update(260)
    assert capsys.readouterr().out.endswith("/s, 8 s left, run 13 s left\n")


def test_slow_work_is_told_in_seconds_for_each(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    progress = console.Progress(every_seconds=10.0)
    progress.begin("train", work=1.0)
    progress.start(10, "images")
    progress.update(1)
    clock.now += 75
    progress.update(2)

    said = capsys.readouterr().out
    assert said == "train: 2/10 images, 1 min 15 s each, 10 min 00 s left\n"


def test_a_terminal_gets_one_line_that_is_rewritten(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    progress = console.Progress(every_seconds=10.0)
    progress.begin("label", work=1.0)
    progress.start(100, "images")
    for step in range(1, 6):
        clock.now += 1
        progress.update(10 * step)
    console.say("done")
    out, err = capsys.readouterr()
    assert out == "done\n"
    lines = err.split("\r\x1b[K")
    assert lines[-2] == "label: 50/100 images, 10/s, 5 s left"
    assert lines[-1] == ""
    assert "\n" not in err


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (65, "1 min 05 s"), (3725, "1 h 02 min")],
)
def test_durations(seconds, says):
    assert console.duration(seconds) == says


def test_control_characters_are_shown():
    assert console.printable("a\nb\x1b[2J\u202e\udcff é") == (
        r"a\nb\x1b[2J\u202e\udcff é"
    )


# ---- evaluate, on any labeled images


def test_evaluate_takes_a_folder_of_each_class(
    tiny_run, digits_by_key, tmp_path, capsys
):
    recorded = pq.read_table(tiny_run / "generation_0/predictions.parquet").to_pylist()
    for row in recorded:
        name = row["key"].replace("/", "_")
        path = tmp_path / "digits" / CLASSES[row["truth"]] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits_by_key[row["key"].split("-")[0]]).save(path)
    (tmp_path / "digits" / "letters").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "digits" / "letters" / "a.png")
    expected = json.loads((tiny_run / "generation_0/evaluation.json").read_text())
    line = ["evaluate", f"--model={tiny_run / 'generation_0/model'}"]
    line += [f"--images={tmp_path / 'digits'}", "--batch=16"]

    found = json.loads(run_main(capsys, *line, "--json")[0])

    test = expected["splits"]["test"]
    assert found["images"] == test["images"]
    assert found["metrics"] == pytest.approx(test["ema"], abs=1e-5)
    assert found["intervals"]["top1"] == pytest.approx(test["interval"], abs=1e-9)
    out, _ = run_main(capsys, *line)
    assert f"top1  {100 * test['ema']['top1']:.1f} %  [" in out
    assert "left out: 1 folders of no class of the model, such as 'letters'" in out

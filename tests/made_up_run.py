"""A finished run made up for the report, and the parsed page."""

import json
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa

from noisy_student_jax import config as configs
from noisy_student_jax import report
from noisy_student_jax.core import files
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.sources import ArraySource, Dataset
from noisy_student_jax.pseudo_labels import selection, sidecar
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.runs.run import Run

HOSTILE = "class\"'><script>alert(1)</script>\x00\u202e&{{ 7*7 }}"
CLASSES = ("ant", "bee", HOSTILE)
POOL = 60
TEST = 40


class Page(HTMLParser):
    """A parsed report: its elements, and its text without style."""

    VOID = ("meta", "img", "br")

    def __init__(self, source: str):
        super().__init__()
        self.elements, self.text, self._open = [], "", []
        self.feed(source)
        assert not self._open, f"left open: {self._open}"
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data

    def of(self, css, tag=None):
        return [
            attributes
            for name, attributes in self.elements
            if set(css.split()) <= set((attributes.get("class") or "").split())
            and tag in (None, name)
        ]


def make_run(workdir, *, classes=CLASSES, generations=3, control=True):
    config = configs.base_config()
    config.data.pool_shards = 1
    config.train.steps, config.train.epochs = 10, None
    config.model.name = "efficientnet_test"
    config.generations = tuple({} for _ in range(generations))
    config.control.enabled = control
    run = Run(configs.complete(config), workdir, interruption=Interruption())
    rng = np.random.default_rng(0)

    def source(name, size, *, labeled=True):
        images = rng.integers(0, 256, (size, 8, 8, 3), np.uint8)
        labels = np.arange(size) % len(classes) if labeled else None
        keys = [f"{name}/{k}-{HOSTILE}" for k in range(size)]
        return ArraySource(keys, list(images), labels)

    run.dataset = Dataset(
        name="made up",
        classes=tuple(classes),
        labeled=source("labeled", 6),
        pool=source("pool", POOL, labeled=False),
        validation=source("validation", 20),
        test=source("test", TEST),
        facts={"split": HOSTILE},
    )
    run.write_config()
    return run


def entry(top1, *, validation=0.8, pseudo=48):
    return {
        "model": "efficientnet_test",
        "parameters": 1234567,
        "resolution": 8,
        "labeled": 6,
        "pseudo_labeled": pseudo,
        "images_drawn": 4321,
        "metrics": {"top1": top1, "nll": 0.4567, "ece": 0.1234},
        "raw": {"top1": top1 - 0.012, "nll": 0.5, "ece": 0.1},
        "interval": [top1 - 0.0456, top1 + 0.0345],
        "validation": {"top1": validation},
        "seconds": 75.0,
    }


def summary_of(run, *, outcome="cannot tell", difference=0.01, interval=(-0.02, 0.04)):
    generations = [
        {"generation": k, **entry(0.8 + 0.05 * k, pseudo=48 if k else 0)}
        for k in range(len(run.config.generations))
    ]
    generations[0]["validation"] = {"top1": 0.85}
    parts = {name: len(part) for name, part in run.dataset.parts().items()}
    control = entry(0.873, validation=0.7, pseudo=0)
    return {
        "schema": 1,
        "task": "classification",
        "dataset": run.dataset.name,
        "classes": list(run.dataset.classes),
        "primary_metric": "top1",
        "splits": parts,
        "generations": generations,
        "control": control if run.config.control.enabled else None,
        "baselines": [],
        "best": "control" if run.config.control.enabled else 0,
        "choice": {
            "says": "use the control (best/): a reason",
            "notes": [f"generation 2 is smaller {HOSTILE}"],
            "leads": [],
        },
        "verdict": {
            "student": len(generations) - 1,
            "against": "control" if run.config.control.enabled else "teacher",
            "difference": difference,
            "interval": list(interval),
            "method": "paired bootstrap over test images, 777 samples",
            "confidence": 0.9,
            "images": TEST,
            "only_student_right": 13,
            "only_rival_right": 11,
            "outcome": outcome,
            "says": "student 90.0 %, labels-only 87.3 %: a sentence",
        },
    }


def fill(run):
    """Writes what the stages of a run would have left."""
    rng = np.random.default_rng(1)
    students = [run.student(k) for k in range(len(run.config.generations))]
    if run.config.control.enabled:
        students.append(run.student("control"))
    for student in students:
        write_metrics(student.paths.folder)
        write_predictions(student.paths.folder, run, rng)
        write_manifest(run, student.spec.name)
    for student in students[: run.last]:
        write_labels(student.paths.folder, run, rng)
    files.write_json(
        run.workdir / "data" / "dataset.json",
        {
            "name": "made up",
            "splits": {"labeled": 6, "pool": POOL},
            "fingerprints": {"labeled": "a" * 64, "pool": "b" * 64},
            "facts": run.dataset.facts,
        },
    )


def write_metrics(folder):
    lines = []
    for step in (5, 10):
        lines.append({"step": step, "labeled/loss": 2.0 - step / 10, "loss": 9.0})
        values = {f"validation/{w}/top1": 0.5 + step / 50 for w in ("raw", "ema")}
        lines.append({"step": step, **values})
    lines.append({"step": 10, "labeled/loss": float("nan")})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    files.write_atomically(folder / "train" / "metrics.jsonl", text)


def write_predictions(folder, run, rng):
    truth = np.arange(TEST) % len(run.dataset.classes)
    label = truth.copy()
    label[:4] = (truth[:4] + 1) % len(run.dataset.classes)
    columns = {
        "key": [run.dataset.test.key(k) for k in range(TEST)],
        "truth": truth,
        "label": label.astype(np.int32),
        "score": rng.uniform(0.4, 1, TEST).astype(np.float32),
        "primary": (truth == label).astype(float),
    }
    files.write_parquet(folder / "predictions.parquet", pa.table(columns))


def write_labels(folder, run, rng):
    good = np.arange(POOL) >= 3
    metadata = {"task": "classification", "model": "m", "model_sha256": "c" * 64}
    sidecar.write_shard(
        folder / "labels" / "shard_000000.parquet",
        keys=[run.dataset.pool.key(k) for k in range(POOL)],
        status=np.where(good, "ok", f"cannot decode {HOSTILE}").tolist(),
        label=(np.arange(POOL) % len(run.dataset.classes)).astype(np.int32),
        score=rng.beta(4, 2, POOL).astype(np.float32),
        metadata=metadata | {"classes": str(len(run.dataset.classes))},
    )
    sidecar.write_quarantine(folder / "labels")
    options = SelectionOptions(min_score=0.4, per_class=16)
    selection.select(folder / "labels", folder / "selection", options)


def write_manifest(run, name):
    versions = {"jax": "1.2.3", "numpy": "4.5.6"}
    manifest = {
        "stage": f"{name}/train",
        "seconds": 12.5,
        "environment": {"devices": 8, "cores": 16, "versions": versions},
        "started": "2024-01-01T00:00:00+0000",
        "finished": "2024-01-01T00:00:12+0000",
    }
    files.write_json(run.ledger.folder / f"{name}.train.json", manifest)


def render(run, summary):
    report.write(run, summary)
    return (run.workdir / "report.html").read_text(encoding="utf-8")

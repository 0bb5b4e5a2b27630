"""Does Noisy Student help a detector of three classes? Teacher, students and control.

    python benchmarks/detection.py DATA                        # both sets, three seeds
    python benchmarks/detection.py DATA --sets=cells --seeds=0
    python benchmarks/detection.py DATA --sets=cells --seeds=0 --oracle

DATA is described in `box_sets`. Each set and seed is a whole run of
``configs/boxes.py``: T, a teacher on the labeled images; S1 (and S2), students on these
and the pool; C, the control, S1's model on labeled images alone with as many steps,
image draws and noise. ``--oracle`` adds O, a control for which all but one image are
labeled. Other flags (``--config.key=value``) are passed on.

The result of each set and seed is a file in ``benchmarks/detection``; those that are
there are not run again, so that the table adds up what was run at different times.
Results with other flags are kept in ``--workdir``, and none is of settings that
``configs/boxes.py`` has got since: remove them when it changes.

The table has AP, AP50 and AP75 on test images in percent, and paired differences to the
control with Student's 95 % interval over seeds. Below stand precision and recall of the
pseudo-labeled boxes of each class against the hidden truth, at an IoU of 0.5.
"""

import argparse
import contextlib
import json
import pathlib
import sys
import time
from typing import Any

import box_sets
import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from noisy_student_jax.cli.main import main as program

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = pathlib.Path(__file__).with_suffix("")
METRICS = ("AP", "AP50", "AP75")
Boxes = list[tuple[int, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--sets", default=",".join(box_sets.STOCKS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--oracle", action="store_true")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/detection")
    options, overrides = parser.parse_known_args()
    workdir = options.workdir.resolve()
    for name in options.sets.split(","):
        rows = [
            results(name, int(seed), options, workdir, overrides)
            for seed in options.seeds.split(",")
        ]
        print(table(name, rows), flush=True)


def results(
    name: str,
    seed: int,
    options: argparse.Namespace,
    workdir: pathlib.Path,
    overrides: list[str],
) -> dict[str, Any]:
    """Runs all arms of a set and seed; finished ones are read."""
    sets, more = workdir / "sets", [f"--config.seed={seed}", *overrides]
    kept = workdir if overrides else RESULTS
    kept /= f"{name}_{seed}_of_{options.labels}.json"
    if not kept.is_file():
        folder = box_sets.deal(name, options.data, sets, seed, options.labels)
        run = workdir / name / f"run_{seed}_of_{options.labels}"
        begun = time.monotonic()
        trained(folder, run, ["run"], more)
        seconds = time.monotonic() - begun
        row = {"seconds": seconds, "arms": arms(run), "pseudo": pseudo(run, folder)}
        write(kept, row)
    row = json.loads(kept.read_text(encoding="utf-8"))
    if options.oracle and "O" not in row["arms"]:
        folder = box_sets.deal(name, options.data, sets, seed, labels=-1)
        run = workdir / name / f"oracle_{seed}"
        for command in ("train", "evaluate"):
            trained(folder, run, [command, "--generation=control"], more)
        found = json.loads((run / "control" / "evaluation.json").read_text("utf-8"))
        row["arms"]["O"] = found["splits"]["test"]["ema"]
        write(kept, row)
    return row


def write(path: pathlib.Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def trained(
    folder: pathlib.Path, run: pathlib.Path, command: list[str], more: list[str]
) -> None:
    """Runs a command of the program on a dealt set."""
    run.parent.mkdir(parents=True, exist_ok=True)
    config = ROOT / "configs" / "boxes.py"
    line = [*command, f"--config={config}", f"--workdir={run}"]
    for part in ("labeled", "unlabeled", "validation", "test"):
        line.append(f"--config.{part}={folder / part}")
    log = run.with_suffix(".log")
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        status = program([*line, *more])
    if status:
        sys.exit(f"the run ended with status {status}: see {log}")


def arms(run: pathlib.Path) -> dict[str, dict[str, float]]:
    """Returns the metrics of a run's models on test images."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    found = {
        f"S{number}" if number else "T": one["metrics"]
        for number, one in enumerate(summary["generations"])
    }
    if summary["control"]:
        found["C"] = summary["control"]["metrics"]
    return found


def pseudo(run: pathlib.Path, folder: pathlib.Path) -> dict[str, dict[str, float]]:
    """Returns precision and recall of the first teacher's selected boxes, by class."""
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    selection = run / "generation_0" / "selection"
    names = json.loads((run / "summary.json").read_text(encoding="utf-8"))["classes"]
    keys = pq.read_table(selection / "plan.parquet")["key"].to_pylist()
    stored = {
        one: np.load(selection / "targets" / f"{one}.npy")
        for one in ("boxes", "classes", "kinds")
    }
    hits, found, there = (np.zeros(len(names)) for _ in range(3))
    for row, key in enumerate(keys):
        path = key.partition("/")[2].rpartition(":")[0]
        true = read(truth[path], folder / "unlabeled" / path)
        chosen = stored["kinds"][row] == 1
        for label in range(len(names)):
            own = stored["boxes"][row][chosen & (stored["classes"][row] == label)]
            real = [box for one, box in true if one == label]
            hits[label] += matched(own, real)
            found[label] += len(own)
            there[label] += len(real)
    return {
        name: {
            "precision": float(hits[k] / max(found[k], 1)),
            "recall": float(hits[k] / max(there[k], 1)),
        }
        for k, name in enumerate(names)
    }


def read(lines: list[str], path: pathlib.Path) -> Boxes:
    """Reads lines of a YOLO file, in units of the image's longer side."""
    with box_sets.Image.open(path) as image:
        width, height = image.size
    unit = np.array([width, height, width, height]) / max(width, height)
    boxes = []
    for line in lines:
        label, *box = line.split()
        x, y, w, h = map(float, box)
        corners = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        boxes.append((int(label), corners * unit))
    return boxes


def matched(found: np.ndarray, true: list[np.ndarray]) -> int:
    """Counts found boxes that match a true one each, at an IoU of 0.5."""
    left, count = list(true), 0
    for box in found:
        ious = [iou(box, one) for one in left]
        if ious and max(ious) >= 0.5:
            left.pop(int(np.argmax(ious)))
            count += 1
    return count


def iou(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = np.prod(np.maximum(sides, 0))
    areas = [np.prod(box[2:] - box[:2]) for box in (one, other)]
    return float(shared / max(sum(areas) - shared, 1e-12))


def table(name: str, rows: list[dict[str, Any]]) -> str:
    """Formats metrics, paired differences and the quality of pseudo-labels."""
    names = [one for one in rows[0]["arms"] if all(one in row["arms"] for row in rows)]
    minutes = np.median([row["seconds"] for row in rows]) / 60
    lines = [f"\n{name}: {len(rows)} seeds; a run took {minutes:.1f} minutes"]
    lines.append(f"{'':<8}" + "".join(f"{metric:>8}" for metric in METRICS))
    for arm in names:
        means = [np.mean([row["arms"][arm][m] for row in rows]) for m in METRICS]
        lines.append(f"{arm:<8}" + "".join(f"{100 * mean:8.1f}" for mean in means))
    for arm in (one for one in names if one not in ("T", "C")):
        cells = []
        for metric in METRICS:
            gaps = [row["arms"][arm][metric] - row["arms"]["C"][metric] for row in rows]
            cells.append(f"{metric} {difference(100 * np.array(gaps))}")
        lines.append(f"{arm} − C: {'; '.join(cells)}")
    for label in rows[0]["pseudo"]:
        precision, recall = (
            np.mean([row["pseudo"][label][what] for row in rows])
            for what in ("precision", "recall")
        )
        lines.append(
            f"pseudo-labeled {label}: precision {100 * precision:.0f} %, recall"
            f" {100 * recall:.0f} %"
        )
    return "\n".join(lines)


def difference(gaps: np.ndarray) -> str:
    """Formats paired differences: mean, interval, and how many are above zero."""
    told = f"{gaps.mean():+.1f}"
    if len(gaps) > 1:
        half = stats.t.ppf(0.975, len(gaps) - 1) * stats.sem(gaps)
        told += f" [{gaps.mean() - half:+.1f}, {gaps.mean() + half:+.1f}]"
    return f"{told}, above zero in {(gaps > 0).sum()} of {len(gaps)}"


if __name__ == "__main__":
    main()

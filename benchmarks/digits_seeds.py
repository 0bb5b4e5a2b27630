"""Does Noisy Student help on the digits? Five seeds of the quickstart, and a control.

    python benchmarks/digits_seeds.py
    python benchmarks/digits_seeds.py --seeds=3 --split=validation   # to choose by

Each seed draws its own fifty labelled images, and is a whole run of
``configs/digits.py``: a teacher, its students, and the last student's architecture
on labels only with as many image draws. Validation and test images are the same for
all seeds. Runs are kept in ``--workdir`` and not made again. Other flags
(``--config.key=value``) go to each run.

Printed: accuracy of the EMA weights by seed, and paired differences over seeds with
Student's 95 % interval. With ``--json`` one object instead.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
from scipy import stats

ROOT = pathlib.Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/digits_seeds")
    parser.add_argument("--json", action="store_true")
    options, overrides = parser.parse_known_args()
    runs = [
        finished_run(options.workdir / f"seed_{seed}", seed, overrides)
        for seed in range(options.seeds)
    ]
    scores = accuracies(runs, options.split)
    differences = {
        f"{name} − {rival}": difference(scores[name], scores[rival])
        for name in list(scores)[1:-1]
        for rival in ("teacher", "control")
    }
    if options.json:
        found = {"split": options.split, "scores": scores, "differences": differences}
        print(json.dumps(found))
        return
    print_tables(scores, differences, options.split)


def finished_run(workdir: pathlib.Path, seed: int, overrides: list[str]) -> dict:
    """Runs a seed, or takes its finished run; returns its summary."""
    command = [sys.executable, "-m", "noisy_student_jax", "run"]
    command += ["--config=configs/digits.py", f"--workdir={workdir.absolute()}"]
    command += [f"--config.seed={seed}", *overrides]
    print(f"seed {seed} …", file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return json.loads((workdir / "summary.json").read_text(encoding="utf-8"))


def accuracies(runs: list[dict], split: str) -> dict[str, list[float]]:
    """Returns the primary metric by seed, of the teacher, each student, the control."""
    part = {"test": "metrics", "validation": "validation"}[split]
    metric = runs[0]["primary_metric"]
    scores = {}
    for number in range(len(runs[0]["generations"])):
        name = f"student {number}" if number else "teacher"
        scores[name] = [run["generations"][number][part][metric] for run in runs]
    scores["control"] = [run["control"][part][metric] for run in runs]
    return scores


def difference(ours: list[float], theirs: list[float]) -> dict:
    """Returns the paired mean difference, its interval, and how often it is won."""
    gaps = np.subtract(ours, theirs)
    mean, error = gaps.mean(), stats.sem(gaps)
    half = stats.t.ppf(0.975, len(gaps) - 1) * error
    return {
        "mean": float(mean),
        "low": float(mean - half),
        "high": float(mean + half),
        "won": int((gaps > 0).sum()),
        "seeds": len(gaps),
    }


def print_tables(scores: dict, differences: dict, split: str) -> None:
    """Prints both tables, in percent and points."""
    seeds = len(scores["teacher"])
    heads = "".join(f"{f'seed {seed}':>9}" for seed in range(seeds))
    print(f"\ntop-1 on the {split} images, %{'':<2}{heads}{'mean':>9}")
    for name, values in scores.items():
        cells = "".join(f"{100 * value:9.1f}" for value in values)
        print(f"{name:<30}{cells}{100 * np.mean(values):9.1f}")
    print("\npaired over seeds, points         mean     95 % interval    ahead in")
    for name, d in differences.items():
        interval = f"[{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]"
        won = f"{d['won']} of {d['seeds']}"
        print(f"{name:<30}{100 * d['mean']:+9.1f}{interval:>18}{won:>12}")


if __name__ == "__main__":
    main()

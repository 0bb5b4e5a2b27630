"""Comparison of runs of one config that differ in their seed."""

import json

import numpy as np
from scipy import stats


def tell(runs: list[dict], split: str, *, as_json: bool) -> None:
    """Prints accuracies by seed, and the students' paired differences.

    Args:
      runs: content of each run's ``summary.json``.
      split: ``test`` or ``validation``.
      as_json: whether to print one object instead of tables.
    """
    scores = accuracies(runs, split)
    students = [name for name in scores if name.startswith("student")]
    rivals = [name for name in scores if name not in students]
    differences = {
        f"{name} − {rival}": difference(scores[name], scores[rival])
        for name in students
        for rival in rivals
    }
    if as_json:
        found = {"split": split, "scores": scores, "differences": differences}
        print(json.dumps(found))
        return
    print_tables(scores, differences, split)


def accuracies(runs: list[dict], split: str) -> dict[str, list[float]]:
    """Returns the primary metric by seed, of the generations and the baselines."""
    part = {"test": "metrics", "validation": "validation"}[split]
    metric = runs[0]["primary_metric"]
    scores = {}
    for number in range(len(runs[0]["generations"])):
        name = f"student {number}" if number else "teacher"
        scores[name] = [run["generations"][number][part][metric] for run in runs]
    scores["control"] = [run["control"][part][metric] for run in runs]
    for number, baseline in enumerate(runs[0]["baselines"]):
        name = baseline["name"].replace("_", "-")
        scores[name] = [run["baselines"][number][part][metric] for run in runs]
    return scores


def difference(ours: list[float], theirs: list[float]) -> dict:
    """Returns the paired mean difference, its interval, and the number of seeds won."""
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

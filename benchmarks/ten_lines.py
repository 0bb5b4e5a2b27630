"""The program beside what scikit-learn does with the same features, in ten lines.

    python benchmarks/ten_lines.py DATA                    # all sets, five seeds
    python benchmarks/ten_lines.py DATA --sets=cifar,blood --seeds=0,1
    python benchmarks/ten_lines.py --labeled=DIR --unlabeled=DIR --test=DIR

DATA holds the images of `image_sets`, or one's own folders are given. Each set and seed
is a whole run of ``configs/folder.py``; other flags (``--config.key=value``) are passed
on. Features are shared by all runs (``--workdir`` keeps them), and rivals read them:

- logistic regression on the last student's backbone, and on all backbones: C by
  five-fold cross-validation;
- nearest neighbors, self-training with that logistic regression, and label spreading on
  all backbones: neighbors, threshold and alpha by three-fold cross-validation of the
  labeled images (on 512 principal components, as they fit many times). The last two
  learn from the pool, and have no part in sets that are built to be hostile.

They learn from all labeled images that the program learns from, in their whole view,
and are tested on the same images. The table has the mean accuracy over seeds in
percent, and each rival's with the paired difference of ``best/`` in points: the mean,
and Student's 95 % interval over seeds, or Wald's over images where there is one seed.
"""

import argparse
import contextlib
import json
import pathlib
import sys
import time
import warnings
from typing import Any

import image_sets
import numpy as np
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from noisy_student_jax import config as configs
from noisy_student_jax.cli.main import main as program
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.sources import labels_of
from noisy_student_jax.generation.trainable import HeadOnFeatures, part
from noisy_student_jax.runs.run import Run

ROOT = pathlib.Path(__file__).parent.parent
C = 10.0 ** np.arange(-4, 3)
THRESHOLDS = (0.75, 0.9)
NEIGHBORS = (5, 10)
ALPHAS = (0.2, 0.8)
COMPONENTS = 512
REGRESSIONS = ("LR, last backbone", "LR, all backbones")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=pathlib.Path, nargs="?")
    for name in ("labeled", "unlabeled", "test"):
        parser.add_argument(f"--{name}", type=pathlib.Path)
    parser.add_argument("--sets", default=",".join(image_sets.SETS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/ten_lines")
    options, overrides = parser.parse_known_args()
    workdir = options.workdir.resolve()
    if options.labeled:
        folders = [options.labeled, options.unlabeled, options.test]
        rows = [results(workdir / "own", workdir, folders, 0, overrides)]
        print(table("own", rows))
        return
    if not options.data:
        parser.error("give DATA, or --labeled, --unlabeled and --test")
    for name in options.sets.split(","):
        rows = []
        for seed in map(int, options.seeds.split(",")):
            image_sets.deal(name, options.data, workdir, seed)
            images = workdir / name / f"seed_{seed}"
            folders = [images / one for one in ("labeled", "unlabeled", "test")]
            run = workdir / name / f"run_{seed}"
            sees_pool = name not in image_sets.HOSTILE
            rows.append(
                results(run, workdir, folders, seed, overrides, sees_pool=sees_pool)
            )
        print(table(name, rows), flush=True)


def results(
    run: pathlib.Path,
    workdir: pathlib.Path,
    folders: list[pathlib.Path],
    seed: int,
    overrides: list[str],
    *,
    sees_pool: bool = True,
) -> dict[str, Any]:
    """Runs the program and its rivals on some folders; finished ones are read.

    Args:
      run: the run directory.
      workdir: holds what runs share.
      folders: labeled, unlabeled and test images.
      seed: of the run.
      overrides: further flags.
      sees_pool: whether there are rivals that learn from the pool.
    """
    kept = run / "ten_lines.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    labeled, unlabeled, test = (folder.resolve() for folder in folders)
    line = ["run", f"--config={ROOT / 'configs/folder.py'}", f"--workdir={run}"]
    line += [f"--config.labeled={labeled}", f"--config.unlabeled={unlabeled}"]
    line += [f"--config.test={test}", f"--config.seed={seed}"]
    line += [f"--config.data.cache={workdir / 'cache'}", *overrides]
    run.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    log = run.with_suffix(".log")
    with log.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        status = program(line)
    if status:
        sys.exit(f"the run ended with status {status}: see {log}")
    seconds = time.monotonic() - begun
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    metric = summary["primary_metric"]
    found: dict[str, float] = {}
    for number, one in enumerate(summary["generations"]):
        name = f"student {number}" if number else "teacher"
        found[name] = one["metrics"][metric]
    found["control"] = summary["control"]["metrics"][metric]
    best = summary["best"]
    place = summary["generations"] if isinstance(best, int) else None
    ours = place[best] if place else summary["control"]
    row = {
        "best": ours["metrics"][metric],
        "chosen": best,
        "program": found,
        "seconds": seconds,
        **rivals(run, sees_pool=sees_pool),
    }
    kept.write_text(json.dumps(row), encoding="utf-8")
    return row


def rivals(run: pathlib.Path, *, sees_pool: bool) -> dict[str, Any]:
    """Returns the accuracies of scikit-learn's classifiers on a run's features."""
    opened = Run(
        configs.from_json(run / "config.json"), run, interruption=Interruption()
    )
    data = opened.dataset

    def features(student: Any, source: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
        trained = part(opened.student(student))
        assert isinstance(trained, HeadOnFeatures), "heads on frozen backbones"
        (own,) = trained.views(source, name, 1)
        good = np.flatnonzero(np.array(own.status) == "ok")
        return own.rows(good), good

    def of(student: Any) -> tuple[np.ndarray, ...]:
        given = [(data.labeled, "labeled"), (data.pool, "pool"), (data.test, "test")]
        (x, kept), (pool, _), (test, there) = (features(student, *one) for one in given)
        y, truth = labels_of(data.labeled)[kept], labels_of(data.test)[there]
        return x, pool, test, y, truth

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Classes with fewer images than folds.
        warnings.simplefilter("ignore", UserWarning)
        x, _, test, y, truth = of(opened.last)
        found = {REGRESSIONS[0]: logistic(x, y, test, truth)[1]}
        x, pool, test, y, truth = of(0)
        strength, found[REGRESSIONS[1]] = logistic(x, y, test, truth)
        # They fit many times, and components are faster.
        fewer = PCA(min(COMPONENTS, len(x) + len(pool))).fit(np.concatenate([x, pool]))
        x, components, test = map(fewer.transform, (x, pool, test))
        found["nearest neighbors"] = tuned(
            [KNeighborsClassifier(k) for k in NEIGHBORS if k < len(y) / 2],
            x,
            components[:0],
            test,
            y,
            truth,
        )
        if sees_pool:
            base = LogisticRegression(C=strength, max_iter=300, tol=1e-3)
            found["self-training"] = tuned(
                [SelfTrainingClassifier(base, threshold=one) for one in THRESHOLDS],
                x,
                components,
                test,
                y,
                truth,
            )
            found["label spreading"] = tuned(
                [
                    LabelSpreading(kernel="knn", n_neighbors=k, alpha=alpha)
                    for k in NEIGHBORS
                    for alpha in ALPHAS
                ],
                x,
                components,
                test,
                y,
                truth,
            )
    return {"rivals": found, "labeled": len(y), "pool": len(pool), "test": len(truth)}


def folds(y: np.ndarray, *, most: int = 5) -> StratifiedKFold:
    least = int(np.bincount(y)[np.unique(y)].min())
    return StratifiedKFold(max(2, min(most, least)), shuffle=True, random_state=0)


def logistic(
    x: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray
) -> tuple[float, float]:
    """Returns C by cross-validation, and the accuracy of that logistic regression."""
    # The solution lies in the span of the labeled features: the same, sooner.
    span = np.linalg.qr(x.T)[0]
    x, test = x @ span, test @ span
    found = LogisticRegressionCV(
        Cs=C,
        cv=folds(y),
        scoring="neg_log_loss",
        max_iter=1000,
        l1_ratios=(0,),
        use_legacy_attributes=False,
    ).fit(x, y)
    return float(found.C_), right(found, test, truth)


def tuned(
    candidates: list[Any],
    x: np.ndarray,
    pool: np.ndarray,
    test: np.ndarray,
    y: np.ndarray,
    truth: np.ndarray,
) -> float:
    """Returns the accuracy of the classifier that cross-validation prefers."""

    def fitted(classifier: Any, kept: np.ndarray) -> Any:
        labels = np.append(y[kept], np.full(len(pool), -1))
        return classifier.fit(np.concatenate([x[kept], pool]), labels)

    def score(classifier: Any) -> float:
        return float(
            np.mean(
                [
                    right(fitted(classifier, kept), x[left_out], y[left_out])
                    for kept, left_out in folds(y, most=3).split(x, y)
                ]
            )
        )

    scores = [score(one) for one in candidates]
    best = candidates[int(np.argmax(scores))]
    return right(fitted(best, np.arange(len(y))), test, truth)


def right(classifier: Any, x: np.ndarray, y: np.ndarray) -> float:
    return float((classifier.predict(x) == y).mean())


def table(name: str, rows: list[dict[str, Any]]) -> str:
    """Formats the accuracies and paired differences of a set."""
    first = rows[0]
    lines = [
        f"\n{name}: {first['labeled']:,} labeled, {first['pool']:,} in the pool,"
        f" {first['test']:,} tested; {len(rows)} seeds; a run took"
        f" {np.median([row['seconds'] for row in rows]):.0f} s",
    ]
    ours = np.array([row["best"] for row in rows])
    chosen = ", ".join(str(row["chosen"]) for row in rows)
    lines.append(f"{'best/':<22}{100 * ours.mean():7.1f}   (generations {chosen})")
    names = [("program", one) for one in first["program"]]
    names += [("rivals", one) for one in first["rivals"]]
    for kind, one in names:
        theirs = np.array([row[kind][one] for row in rows])
        mean, low, high = difference(ours, theirs, first["test"])
        lines.append(
            f"{one:<22}{100 * theirs.mean():7.1f}{100 * mean:+8.1f}"
            f" [{100 * low:+.1f}, {100 * high:+.1f}]"
        )
    return "\n".join(lines)


def difference(
    ours: np.ndarray, theirs: np.ndarray, images: int
) -> tuple[float, float, float]:
    gaps = ours - theirs
    if len(gaps) == 1:
        error = np.sqrt(np.mean([p * (1 - p) for p in (*ours, *theirs)]) * 2 / images)
        half = 1.96 * error
    else:
        half = stats.t.ppf(0.975, len(gaps) - 1) * stats.sem(gaps)
    return float(gaps.mean()), float(gaps.mean() - half), float(gaps.mean() + half)


if __name__ == "__main__":
    main()

"""Whether leaving out images of foreign classes pays.

    python benchmarks/ten_lines.py DATA --sets=foreign
    python benchmarks/foreign.py [--workdir=runs/ten_lines] [--seeds=0,1,2,3,4]

Features are those of the first command's runs, whose pool is 30 % foreign. The first
table has, for each way of telling foreign images from others, the area under the ROC
curve and the foreign share among the surest 20, 50 and 80 % of the pool. The second has
the accuracy of the last of three students where a share of the pool that is suspected
most is left out beforehand, and the paired difference to leaving out nothing: mean and
Student's 95 % interval over seeds. The teacher is not given the truth, but for the row
that says so.
"""

import argparse
import pathlib

import image_sets
import numpy as np
from scipy import stats
from sklearn.metrics import roc_auc_score

from noisy_student_jax import config as configs
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.sources import labels_of
from noisy_student_jax.features import heads
from noisy_student_jax.features.heads import Labeled
from noisy_student_jax.features.likeness import likeness
from noisy_student_jax.features.reduction import reduction
from noisy_student_jax.generation.trainable import HeadOnFeatures, part
from noisy_student_jax.models import views
from noisy_student_jax.runs.run import Run

SHARES = (0.2, 0.5, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/ten_lines")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    options = parser.parse_args()
    told, accuracies = [], []
    for seed in map(int, options.seeds.split(",")):
        one, other = measured(options.workdir.resolve(), seed)
        told.append(one)
        accuracies.append(other)
    print("signal | area under ROC | foreign in the surest 20 % | 50 % | 80 %")
    for name in told[0]:
        area, *shares = np.mean([one[name] for one in told], axis=0)
        print(f"{name} | {area:.3f} | " + " | ".join(f"{s:.1%}" for s in shares))
    print("left out | accuracy | difference")
    nothing = np.array([one["nothing"] for one in accuracies])
    for name in accuracies[0]:
        own = np.array([one[name] for one in accuracies])
        gaps = own - nothing
        half = 100 * stats.t.ppf(0.975, len(gaps) - 1) * stats.sem(gaps)
        difference = f"{100 * gaps.mean():+.2f} ± {half:.2f}"
        print(f"{name} | {100 * own.mean():.1f} | {difference}")


def measured(
    workdir: pathlib.Path, seed: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    run = workdir / "foreign" / f"run_{seed}"
    opened = Run(
        configs.from_json(run / "config.json"), run, interruption=Interruption()
    )
    data, trained = opened.dataset, part(opened.student(0))
    assert isinstance(trained, HeadOnFeatures), "heads on frozen backbones"
    seen = {
        name: trained.views(source, name, views.MOST)
        for name, source in (
            ("labeled", data.labeled),
            ("pool", data.pool),
            ("test", data.test),
        )
    }
    widths = seen["pool"][0].widths
    whole = {
        name: [view.rows(np.arange(len(view))) for view in own]
        for name, own in seen.items()
    }
    stock = workdir / "stock" / image_sets.SETS["foreign"].stock / "train"
    known = {
        image_sets.hidden(path)
        for name in data.classes
        for path in (stock / name).iterdir()
    }
    keys = [pathlib.Path(data.pool.key(n)).name for n in range(len(data.pool))]
    foreign = np.array([key.split(":")[0] not in known for key in keys])
    by = reduction(
        np.concatenate(whole["labeled"] + whole["pool"][:1]), widths, kept=512
    )
    labeled, pool, test = (
        [by(view) for view in whole[name]] for name in ("labeled", "pool", "test")
    )
    y, truth = labels_of(data.labeled), labels_of(data.test)
    targets = np.eye(len(data.classes))
    given = Labeled(labeled, targets[y], np.ones(len(y)))
    strength = heads.tune(
        given, np.random.default_rng(seed).permutation(len(y))
    ).strength
    teacher = heads.fit(given, None, strength)
    mean, by_view = heads.mean(pool), [teacher.probabilities(view) for view in pool]
    guess = teacher.probabilities(mean)
    of_backbones, at = [], 0
    for width in widths:
        own = [view[:, at : at + width] for view in whole["labeled"]]
        alone = heads.fit(Labeled(own, targets[y], np.ones(len(y))), None, strength)
        other = heads.mean([view[:, at : at + width] for view in whole["pool"]])
        of_backbones.append(alone.probabilities(other))
        at += width
    unit = [
        (rows - mean.mean(axis=0))
        / np.linalg.norm(rows - mean.mean(axis=0), axis=1, keepdims=True)
        for rows in (mean, heads.mean(labeled))
    ]
    logits = teacher.logits(mean)
    signals = {
        "highest probability": guess.max(axis=1),
        "energy": np.logaddexp.reduce(logits, axis=1),
        "agreement of views": np.min(by_view, axis=0).max(axis=1),
        "agreement of backbones": np.min(of_backbones, axis=0).max(axis=1),
        "three nearest labeled": np.sort(unit[0] @ unit[1].T, axis=1)[:, -3:].mean(
            axis=1
        ),
        "nearest class mean": likeness(mean, heads.mean(labeled), targets[y]),
    }

    def accuracy(left: np.ndarray) -> float:
        head, there = teacher, np.flatnonzero(~left)
        for share in SHARES:
            found = head.probabilities(mean[there])
            order = np.argsort(-found.max(axis=1), kind="stable")
            taken = order[: round(share * len(there))]
            pseudo = Labeled(
                [view[there[taken]] for view in pool],
                targets[found[taken].argmax(axis=1)],
                np.ones(len(taken)),
            )
            head = heads.fit(given, pseudo, strength)
        guessed = head.probabilities(heads.mean(test)).argmax(axis=1)
        return float((guessed == truth).mean())

    told = {
        name: [roc_auc_score(~foreign, signal)]
        + [
            float(foreign[np.argsort(-signal)[: round(share * len(signal))]].mean())
            for share in SHARES
        ]
        for name, signal in signals.items()
    }
    accuracies = {
        "nothing": accuracy(np.zeros(len(foreign), bool)),
        "the foreign images, were they known": accuracy(foreign),
    }
    for share in (0.15, 0.3):
        for name in ("nearest class mean", "three nearest labeled", "energy"):
            signal = signals[name]
            least = signal < np.quantile(signal, share)
            accuracies[f"{share:.0%} by {name}"] = accuracy(least)
    return told, accuracies


if __name__ == "__main__":
    main()

"""CIFAR-10 as a user's own images: some with labels, the others without.

    python benchmarks/cifar10.py CIFAR10 --labels=40 --pool=4000 --test=2000 --seeds=3
    python benchmarks/cifar10.py CIFAR10 --config.init=random --config.budget_hours=0.6

CIFAR10 holds image files as ``train/CLASS/*`` and ``test/CLASS/*``. In each class some
training images, chosen by a hash of their names and the seed, become a labeled folder,
and some of the others a pool without classes (links, nothing is copied);
``configs/folder.py`` does the rest. Test images are the same for all seeds. Finished
runs are reused. Other flags (``--config.key=value``) are passed on to each run.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import over_seeds

ROOT = pathlib.Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cifar10", type=pathlib.Path)
    parser.add_argument("--labels", type=int, default=400, help="of each class")
    parser.add_argument("--pool", type=int, default=50_000, help="at most, in all")
    parser.add_argument("--test", type=int, default=10_000, help="at most, in all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/cifar10")
    parser.add_argument("--json", action="store_true")
    options, overrides = parser.parse_known_args()
    runs = [finished_run(options, seed, overrides) for seed in range(options.seeds)]
    if len(runs) > 1:
        over_seeds.tell(runs, "test", as_json=options.json)


def finished_run(
    options: argparse.Namespace, seed: int, overrides: list[str]
) -> dict[str, Any]:
    """Runs a seed, or finds its finished run; returns the summary."""
    workdir = options.workdir.resolve()
    name = f"{options.labels}_{options.pool}_{options.test}_{seed}"
    images = workdir / f"images_{name}"
    if not images.exists():
        unfinished = images.with_name(f".{images.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        deal(options, seed, unfinished)
        unfinished.rename(images)
    run = workdir / f"run_{name}"
    command = [sys.executable, "-m", "noisy_student_jax", "run"]
    command += ["--config=configs/folder.py", f"--workdir={run}"]
    command += [f"--config.seed={seed}", f"--config.labeled={images}/labeled"]
    command += [f"--config.unlabeled={images}/unlabeled"]
    command += [f"--config.test={images}/test", *overrides]
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def deal(options: argparse.Namespace, seed: int, images: pathlib.Path) -> None:
    """Links each class's images into the labeled folder, the pool or the test."""
    pool = images / "unlabeled"
    pool.mkdir(parents=True)
    train = sorted(path for path in (options.cifar10 / "train").iterdir())
    for folder in train:
        paths = shuffled(folder, seed)
        link(paths[: options.labels], images / "labeled" / folder.name)
        most = options.labels + options.pool // len(train)
        for number, path in enumerate(paths[options.labels : most]):
            # The name must not reveal the class.
            hidden = hashlib.sha256(f"{folder.name}/{number}".encode()).hexdigest()
            (pool / f"{hidden[:16]}{path.suffix}").symlink_to(path.resolve())
        test = options.cifar10 / "test" / folder.name
        of_class = options.test // len(train)
        link(shuffled(test, 0)[:of_class], images / "test" / folder.name)


def shuffled(folder: pathlib.Path, seed: int) -> list[pathlib.Path]:
    """Returns a class's images in an order determined by their names."""

    def place(path: pathlib.Path) -> str:
        return hashlib.sha256(f"{seed}/{folder.name}/{path.name}".encode()).hexdigest()

    return sorted(folder.iterdir(), key=place)


def link(paths: list[pathlib.Path], folder: pathlib.Path) -> None:
    """Links images into a folder."""
    folder.mkdir(parents=True)
    for path in paths:
        (folder / path.name).symlink_to(path.resolve())


if __name__ == "__main__":
    main()

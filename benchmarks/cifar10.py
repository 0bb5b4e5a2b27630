"""CIFAR-10 as somebody's own images: some with labels, the others without.

    python benchmarks/cifar10.py CIFAR10 --labels=40 --pool=10000
    python benchmarks/cifar10.py CIFAR10 --config.init= --config.budget_hours=0.6

CIFAR10 holds image files as ``train/CLASS/*`` and ``test/CLASS/*``. Of each class some
training images, chosen by a hash of their names and the seed, become a labelled folder,
and of the others some a pool without classes (links, nothing is copied); the folder
road does the rest. Other flags (``--config.key=value``) go to the run.
"""

import argparse
import hashlib
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cifar10", type=pathlib.Path)
    parser.add_argument("--labels", type=int, default=400, help="of each class")
    parser.add_argument("--pool", type=int, default=50_000, help="at most, in all")
    parser.add_argument("--seed", type=int, default=0, help="which are labelled")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/cifar10")
    options, overrides = parser.parse_known_args()
    workdir = options.workdir.resolve()
    name = f"{options.labels}_{options.pool}_{options.seed}"
    images = workdir / f"images_{name}"
    if not images.exists():
        unfinished = images.with_name(f".{images.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        deal(options.cifar10.resolve() / "train", unfinished, options)
        unfinished.rename(images)
    command = [sys.executable, "-m", "noisy_student_jax", "run"]
    command += [
        "--config=configs/folder.py",
        f"--workdir={workdir}/run_{name}",
        f"--config.seed={options.seed}",
    ]
    command += [
        f"--config.labeled={images}/labeled",
        f"--config.unlabeled={images}/unlabeled",
        f"--config.test={options.cifar10.resolve()}/test",
        *overrides,
    ]
    sys.exit(subprocess.run(command, cwd=ROOT).returncode)


def deal(
    train: pathlib.Path, images: pathlib.Path, options: argparse.Namespace
) -> None:
    """Links each class's images into the labelled folder or the pool."""
    pool = images / "unlabeled"
    pool.mkdir(parents=True)
    folders = sorted(path for path in train.iterdir() if path.is_dir())
    for folder in folders:
        labelled = images / "labeled" / folder.name
        labelled.mkdir(parents=True)

        def digest(path: pathlib.Path, class_name: str = folder.name) -> str:
            text = f"{options.seed}/{class_name}/{path.name}"
            return hashlib.sha256(text.encode()).hexdigest()[:16]

        paths = sorted(folder.iterdir(), key=digest)
        for path in paths[: options.labels]:
            (labelled / path.name).symlink_to(path)
        most = options.labels + options.pool // len(folders)
        for path in paths[options.labels : most]:
            # The name must not tell the class.
            (pool / f"{digest(path)}{path.suffix}").symlink_to(path)


if __name__ == "__main__":
    main()

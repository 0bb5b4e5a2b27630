"""CIFAR-10 as somebody's own images: 4,000 with labels, the other 46,000 without.

    python benchmarks/cifar10.py CIFAR10 --config.budget_hours=0.6

CIFAR10 holds image files as ``train/CLASS/*`` and ``test/CLASS/*``. Of each class 400
training images, chosen by a hash of their names, become a labelled folder and the
others a pool without classes (links, nothing is copied); the folder road does the rest.
Other flags (``--config.key=value``) go to the run.
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
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/cifar10")
    options, overrides = parser.parse_known_args()
    workdir = options.workdir.resolve()
    images = workdir / f"images_{options.labels}"
    if not images.exists():
        unfinished = images.with_name(f".{images.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        deal(options.cifar10.resolve() / "train", unfinished, options.labels)
        unfinished.rename(images)
    command = [sys.executable, "-m", "noisy_student_jax", "run"]
    command += [
        "--config=configs/folder.py",
        f"--workdir={workdir}/run_{options.labels}",
    ]
    command += [
        f"--config.labeled={images}/labeled",
        f"--config.unlabeled={images}/unlabeled",
        f"--config.test={options.cifar10.resolve()}/test",
        *overrides,
    ]
    sys.exit(subprocess.run(command, cwd=ROOT).returncode)


def deal(train: pathlib.Path, images: pathlib.Path, labels: int) -> None:
    """Links each class's images into the labelled folder or the pool."""
    pool = images / "unlabeled"
    pool.mkdir(parents=True)
    for folder in sorted(path for path in train.iterdir() if path.is_dir()):
        labelled = images / "labeled" / folder.name
        labelled.mkdir(parents=True)
        paths = sorted(folder.iterdir(), key=lambda path: digest(folder, path))
        for number, path in enumerate(paths):
            if number < labels:
                (labelled / path.name).symlink_to(path)
            else:
                # The name must not tell the class.
                (pool / f"{digest(folder, path)}{path.suffix}").symlink_to(path)


def digest(folder: pathlib.Path, path: pathlib.Path) -> str:
    return hashlib.sha256(f"{folder.name}/{path.name}".encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()

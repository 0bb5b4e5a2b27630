"""Does Noisy Student help on the digits? Five seeds of the quickstart, and a control.

    python benchmarks/digits_seeds.py
    python benchmarks/digits_seeds.py --seeds=3 --split=validation   # to choose by

Each seed draws its own fifty labeled images, and is a whole run of
``configs/digits.py``: a teacher, its students, and the last student's architecture
on labels only with as many image draws. Validation and test images are the same for
all seeds. Runs are kept in ``--workdir`` and reused. Other flags
(``--config.key=value``) are passed on to each run.

The output is the accuracy of the EMA weights by seed, and paired differences over seeds
with Student's 95 % interval; with ``--json`` it is one object.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import over_seeds

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
    over_seeds.tell(runs, options.split, as_json=options.json)


def finished_run(workdir: pathlib.Path, seed: int, overrides: list[str]) -> dict:
    """Runs a seed, or finds its finished run; returns the summary."""
    command = [sys.executable, "-m", "noisy_student_jax", "run"]
    command += ["--config=configs/digits.py", f"--workdir={workdir.absolute()}"]
    command += [f"--config.seed={seed}", *overrides]
    print(f"seed {seed} …", file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return json.loads((workdir / "summary.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

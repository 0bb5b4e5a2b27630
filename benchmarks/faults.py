"""Faults on purpose: damaged files, signals, full disks and odd environments.

    python benchmarks/faults.py                     # all four tables, some hours
    python benchmarks/faults.py --only files --tries 40
    python benchmarks/faults.py --only signals --signals 40
    python benchmarks/faults.py --only disks --disks 20      # root, on Linux
    python benchmarks/faults.py --only environment
    python benchmarks/faults.py --replay "label shards:17"   # one try, with its output

A tiny run on a user's own images is made once, and stopped where a kind of file is
about to be read again. Each try copies it, does one seeded damage, gives the command
that reads the file, and compares what comes out (arrays, tables, numbers) with what an
undamaged copy gives. The outcomes are:

  same       the result is bit-equal; nothing was said
  mended     the result is bit-equal, and the damaged file was named
  refused    the command failed with one sentence
  WRONG      the command succeeded with another result
  TRACEBACK  an error of Python's reached the user
  HANG       the command did not end in time

The last three are failures; the exit status is 1 if there are any.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
PATIENCE = 180
"""Seconds after which a command counts as hanging."""
FAILURES = ("WRONG", "TRACEBACK", "HANG")
OUTCOMES = ("same", "mended", "refused", *FAILURES)
CLASSES = ("disc", "ring", "stripes")
SETTINGS = [
    "--config.model.name=efficientnet_test",
    "--config.model.resolution=8",
    "--config.model.crop_padding=0",
    "--config.train.steps=12",
    "--config.train.batch=8",
    "--config.train.ratio=1",
    "--config.train.ema_decay=0.5",
    "--config.noise.labeled.randaugment_layers=0",
    "--config.noise.pseudo.randaugment_layers=0",
    "--config.noise.labeled.crop_padding=1",
    "--config.noise.pseudo.crop_padding=1",
    "--config.noise.labeled.crop_area=0",
    "--config.noise.pseudo.crop_area=0",
    "--config.selection.min_score=0.1",
    "--config.evaluation.batch=16",
    "--config.labels.batch=16",
    "--config.evaluation.bootstrap=1000",
    "--config.checkpoint.every_steps=4",
    "--config.log.every_steps=4",
    "--config.data.workers=1",
    "--config.data.pool_shards=3",
]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file, and how it is read again.

    Attributes:
      name: its name in the table.
      state: the state of the run in which it is damaged, a key of `STATES`.
      patterns: glob patterns of its files, below the run directory.
      command: the command that reads it.
    """

    name: str
    state: str
    patterns: tuple[str, ...]
    command: tuple[str, ...]


TRAIN, LABEL, RUN = ("train", "--generation=0"), ("label", "--generation=0"), ("run",)
KINDS = (
    Kind("prepared pixels", "prepared", ("prepared/**/*.bin",), TRAIN),
    Kind("prepared tables", "prepared", ("prepared/**/part_*.parquet*",), TRAIN),
    Kind(
        "prepared: the rest",
        "prepared",
        ("prepared/**/*.json", "prepared/**/*.csv"),
        TRAIN,
    ),
    Kind("splits", "prepared", ("prepared/splits_*",), TRAIN),
    Kind("decisions", "prepared", ("decisions.json*",), TRAIN),
    Kind("checkpoints", "training", ("generation_0/train/checkpoints/**/*",), TRAIN),
    Kind("training logs", "training", ("generation_0/train/*.jsonl",), TRAIN),
    Kind("start record", "training", ("ledger/*.started.json",), TRAIN),
    Kind("label shards", "labeling", ("generation_0/labels/*",), LABEL),
    Kind("bundles", "finished", ("best/**/*",), ("predict",)),
    Kind(
        "plans",
        "selected",
        ("generation_0/selection/**/*",),
        ("train", "--generation=1"),
    ),
    Kind("ledger", "finished", ("ledger/*.json",), RUN),
    Kind("config of the run", "finished", ("config.json",), RUN),
    Kind("facts of the data", "finished", ("data/*",), RUN),
    Kind("finished outputs", "finished", ("generation_*/**/*", "control/**/*"), RUN),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, default=40, help="of each kind of file")
    parser.add_argument("--kinds", nargs="+", help="words in the names of kinds")
    parser.add_argument("--signals", type=int, default=40)
    parser.add_argument("--disks", type=int, default=20)
    parser.add_argument("--replay", metavar="KIND:TRY", help="one try, with its output")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults_") as scratch:
        bench = Bench(pathlib.Path(scratch), options.seed)
        if options.replay:
            name, number = options.replay.rsplit(":", 1)
            (kind,) = (kind for kind in KINDS if kind.name == name)
            found = bench.damage(kind, int(number))
            print(found.output)
            print(f"{found.what}: {found.outcome}")
            return found.outcome in FAILURES
        return any([TABLES[name](bench, options) for name in options.only])


@dataclasses.dataclass(frozen=True)
class Try:
    """One try: the damage, what became of it, and all that was printed."""

    what: str
    outcome: str
    output: str


class Bench:
    """A user's images, and runs on them in several states."""

    def __init__(self, scratch: pathlib.Path, seed: int):
        """Draws the images."""
        self.scratch, self.seed = scratch, seed
        self.images = scratch / "images"
        self.environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XDG_CACHE_HOME": str(scratch / "cache"),
            "PYTHONPATH": str(ROOT),
        }
        self._states: dict[str, pathlib.Path] = {}
        self._truths: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._usual: dict[tuple[str, tuple[str, ...]], str] = {}
        draw(self.images)

    def line(self, command: tuple[str, ...], workdir: pathlib.Path) -> list[str]:
        """Returns the arguments of a command on a run."""
        if command[0] == "predict":
            test = sorted((self.images / "unlabeled").iterdir())[:8]
            return ["predict", f"--model={workdir / 'best'}", "--json", *map(str, test)]
        return [
            *command,
            f"--config={ROOT / 'configs' / 'folder.py'}",
            f"--workdir={workdir}",
            f"--config.labeled={self.images / 'labeled'}",
            f"--config.unlabeled={self.images / 'unlabeled'}",
            *SETTINGS,
        ]

    def start(
        self, command: tuple[str, ...], workdir: pathlib.Path, **more: str
    ) -> subprocess.Popen:
        """Starts a command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "noisy_student_jax", *self.line(command, workdir)],
            env=self.environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def call(
        self, command: tuple[str, ...], workdir: pathlib.Path
    ) -> tuple[int | None, str]:
        """Runs a command in this process; returns its status, None if it crashed."""
        from noisy_student_jax.cli.main import main as noisy_student

        out = io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
            alarm(PATIENCE),
        ):
            try:
                status: int | None = noisy_student(self.line(command, workdir))
            except TooLong:
                raise
            except BaseException:
                traceback.print_exc(file=out)
                status = None
        return status, out.getvalue()

    def state(self, name: str) -> pathlib.Path:
        """Returns the directory of a run in a state; do not change it."""
        if name not in self._states:
            workdir = self.scratch / "states" / name
            STATES[name](self, workdir)
            self._states[name] = workdir
        return self._states[name]

    def copy(self, state: str) -> pathlib.Path:
        """Returns a new copy of a run in a state, always at the same place."""
        workdir = self.scratch / "try" / "run"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(self.state(state), workdir)
        return workdir

    def truth(self, state: str, command: tuple[str, ...]) -> Any:
        """Returns the result of a command on an undamaged copy."""
        if (state, command) not in self._truths:
            workdir = self.copy(state)
            status, output = self.call(command, workdir)
            assert status == 0, output
            self._truths[state, command] = result(command, workdir, output)
            self._usual[state, command] = output
        return self._truths[state, command]

    def damage(self, kind: Kind, number: int) -> Try:
        """Does one try on a kind of file."""
        truth = self.truth(kind.state, kind.command)
        workdir = self.copy(kind.state)
        paths = sorted(
            {p for g in kind.patterns for p in workdir.glob(g) if p.is_file()}
        )
        paths = [path for path in paths if path.name != ".lock"]
        assert paths, f"{kind.name}: no file"
        rng = random.Random(f"{self.seed}/{kind.name}/{number}")
        what, path = harm(rng, paths)
        what = f"{what} {path.relative_to(workdir)}"
        try:
            status, output = self.call(kind.command, workdir)
        except TooLong:
            return Try(what, "HANG", "")
        same = status == 0 and result(kind.command, workdir, output) == truth
        names = {path.name, path.parent.name, path.name.split(".")[0]}
        return Try(what, outcome(status, self.news(kind, output), same, names), output)

    def news(self, kind: Kind, output: str) -> str:
        """Returns the lines that an undamaged copy does not print."""
        usual = set(self._usual[kind.state, kind.command].splitlines())
        return "\n".join(one for one in output.splitlines() if one not in usual)


def outcome(status: int | None, output: str, same: bool, names: set[str]) -> str:
    """Names what became of a fault; see the module's docstring."""
    if status is None or "Traceback" in output:
        return "TRACEBACK"
    if status == 0:
        told = any(name in output for name in names)
        return ("mended" if told else "same") if same else "WRONG"
    errors = [one for one in output.splitlines() if one.startswith("error: ")]
    return "refused" if len(errors) == 1 else "TRACEBACK"


def harm(rng: random.Random, paths: list[pathlib.Path]) -> tuple[str, pathlib.Path]:
    """Damages one of the files; half of the time it flips one bit.

    Returns:
      What was done, and to which file.
    """
    path = rng.choice(paths)
    data = bytearray(path.read_bytes())
    others = [p for p in paths if p != path and p.suffix == path.suffix]
    how = rng.choice(["flip"] * 5 + ["cut", "zeros", "empty", "swap", "remove"])
    if how == "swap" and others:
        other = rng.choice(others)
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
        return f"swap ({other.name})", path
    if how == "remove":
        path.unlink()
        return how, path
    if how == "cut":
        del data[rng.randrange(max(len(data), 1)) :]
    elif how == "empty":
        data.clear()
    elif how == "zeros":
        start = rng.randrange(max(len(data), 1))
        data[start : start + 512] = bytes(len(data[start : start + 512]))
    elif data:
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        how = f"flip bit {bit} of"
    path.write_bytes(data)
    return how, path


def result(command: tuple[str, ...], workdir: pathlib.Path, output: str) -> Any:
    """Returns what a command is for: arrays, rows of tables, numbers."""
    if command[0] == "predict":
        return [line for line in output.splitlines() if line.startswith("{")]
    found: dict[str, Any] = {}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir).as_posix()
        if any(part.startswith(".") for part in path.relative_to(workdir).parts):
            continue
        if name.startswith(("prepared/", "superseded/")) or "/checkpoints/" in name:
            continue
        if path.suffix in (".safetensors", ".npy"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".parquet":
            found[name] = pq.read_table(path).to_pydict()
        elif path.name in ("evaluation.json", "selection.json", "model.json"):
            found[name] = json.loads(path.read_text())
    return found


# States


def prepared(bench: Bench, workdir: pathlib.Path) -> None:
    status, output = bench.call(("prepare",), workdir)
    assert status == 0, output


def finished(bench: Bench, workdir: pathlib.Path) -> None:
    status, output = bench.call(RUN, workdir)
    assert status == 0, output


def selected(bench: Bench, workdir: pathlib.Path) -> None:
    for command in ("train", "evaluate", "label", "select"):
        status, output = bench.call((command, "--generation=0"), workdir)
        assert status == 0, output


def training(bench: Bench, workdir: pathlib.Path) -> None:
    stopped(bench, TRAIN, workdir, "generation_0/train/checkpoints/step_00000004.json")


def labeling(bench: Bench, workdir: pathlib.Path) -> None:
    for command in ("train", "evaluate"):
        status, output = bench.call((command, "--generation=0"), workdir)
        assert status == 0, output
    stopped(bench, LABEL, workdir, "generation_0/labels/shard_000001.parquet")


STATES: dict[str, Callable[[Bench, pathlib.Path], None]] = {
    "prepared": prepared,
    "training": training,
    "labeling": labeling,
    "selected": selected,
    "finished": finished,
}


def stopped(
    bench: Bench, command: tuple[str, ...], workdir: pathlib.Path, sign: str
) -> None:
    """Runs a command until a file appears, and stops it there.

    Raises:
      RuntimeError: it always ended before the signal reached it.
    """
    if workdir.exists():
        shutil.copytree(workdir, workdir.with_suffix(".before"))
    for _ in range(20):
        process = bench.start(command, workdir)
        while process.poll() is None and not (workdir / sign).exists():
            time.sleep(0.0002)
        # Killed: a stop by SIGTERM would leave no half-done file to find.
        process.kill()
        output, _ = process.communicate()
        if process.returncode == -signal.SIGKILL and (workdir / sign).exists():
            return
        shutil.rmtree(workdir)
        if workdir.with_suffix(".before").exists():
            shutil.copytree(workdir.with_suffix(".before"), workdir)
    raise RuntimeError(f"{command} was never stopped at {sign}: {output}")


# Tables


def files_table(bench: Bench, options: argparse.Namespace) -> bool:
    """Damages files of every kind; prints a row a kind."""
    words = options.kinds or [""]
    kinds = [kind for kind in KINDS if any(word in kind.name for word in words)]
    print(f"| file | tries | {' | '.join(OUTCOMES)} |")
    print(f"|---|{'---|' * (len(OUTCOMES) + 1)}", flush=True)
    failed: list[str] = []
    for kind in kinds:
        counts: collections.Counter[str] = collections.Counter()
        for number in range(options.tries):
            found = bench.damage(kind, number)
            counts[found.outcome] += 1
            if found.outcome in FAILURES:
                failed.append(f"{kind.name}:{number}: {found.what}: {found.outcome}")
        told = " | ".join(str(counts[name] or "") for name in OUTCOMES)
        print(f"| {kind.name} | {options.tries} | {told} |", flush=True)
    return tell(failed)


def signals_table(bench: Bench, options: argparse.Namespace) -> bool:
    """Sends signals at random moments, from the first 50 ms on, until a run ends."""
    truth = result(RUN, bench.state("finished"), "")
    rng = random.Random(f"{bench.seed}/signals")
    workdir = bench.scratch / "signaled"
    # What a run takes, with programs compiled before.
    started = time.monotonic()
    process = bench.start(RUN, workdir)
    process.communicate()
    whole = time.monotonic() - started
    shutil.rmtree(workdir)
    failed, waits, ended, statuses = [], [], 0, collections.Counter[int]()
    for number in range(options.signals):
        early = number % 2 == 0
        after = rng.uniform(0.05, 3.0) if early else rng.uniform(0.05, 0.8 * whole)
        sent = rng.choice([signal.SIGINT, signal.SIGTERM])
        process = bench.start(RUN, workdir)
        time.sleep(after)
        process.send_signal(sent)
        at = time.monotonic()
        what = f"{sent.name} after {after:.3f} s"
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            failed.append(f"{what}: HANG")
            continue
        waits.append(time.monotonic() - at)
        statuses[process.returncode] += 1
        if "Traceback" in output:
            failed.append(f"{what}: TRACEBACK")
        elif process.returncode == 0:
            ended += 1
            if result(RUN, workdir, "") != truth:
                failed.append(f"{what}: WRONG")
            shutil.rmtree(workdir)
        elif process.returncode != 75:
            failed.append(f"{what}: status {process.returncode}: {output[-300:]}")
    process = bench.start(RUN, workdir)
    output, _ = process.communicate()
    if process.returncode != 0 or result(RUN, workdir, "") != truth:
        failed.append(f"the last resume: status {process.returncode}: {output[-300:]}")
    print("| signals | status 75 | ended before | longest wait | failures |")
    print("|---|---|---|---|---|")
    print(
        f"| {options.signals} | {statuses[75]} | {ended} | {max(waits):.1f} s |"
        f" {len(failed)} |",
        flush=True,
    )
    return tell(failed)


def disks_table(bench: Bench, options: argparse.Namespace) -> bool:
    """Fills the disk of a run at random places, then makes room and goes on."""
    truth = result(RUN, bench.state("finished"), "")
    whole = sum(p.stat().st_blocks * 512 for p in bench.state("finished").rglob("*"))
    rng = random.Random(f"{bench.seed}/disks")
    disk = bench.scratch / "disk"
    disk.mkdir()
    failed, causes = [], collections.Counter[str]()
    statuses = collections.Counter[int]()
    for _ in range(options.disks):
        size = rng.randrange(whole // 50, whole) // 4096 * 4096
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(mount, check=False).returncode:
            raise SystemExit("a small disk can be mounted by root on Linux only")
        try:
            process = bench.start(RUN, disk / "run")
            output, _ = process.communicate(timeout=PATIENCE)
            statuses[process.returncode] += 1
            what = f"a disk of {size:,} bytes"
            errors = [one for one in output.splitlines() if one.startswith("error: ")]
            causes[errors[0].split(" (")[0][:60] if errors else "none"] += 1
            if "Traceback" in output or len(errors) != 1:
                failed.append(f"{what}: TRACEBACK: {output[-600:]}")
            elif "No space left" not in errors[0]:
                failed.append(f"{what}: another cause: {errors[0]}")
            subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
            process = bench.start(RUN, disk / "run")
            output, _ = process.communicate(timeout=PATIENCE)
            if process.returncode != 0:
                failed.append(f"{what}: no resume: {output[-600:]}")
            elif result(RUN, disk / "run", "") != truth:
                failed.append(f"{what}: WRONG")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    print("| full disks | one sentence with the cause | statuses | failures |")
    print("|---|---|---|---|")
    told = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    good = options.disks - len({one.split(":")[0] for one in failed})
    print(f"| {options.disks} | {good} | {told} | {len(failed)} |", flush=True)
    return tell(failed)


VARIABLES = (
    ("JAX_ENABLE_X64", "1"),
    ("JAX_DEFAULT_PRNG_IMPL", "rbg"),
    ("JAX_THREEFRY_PARTITIONABLE", "0"),
    ("JAX_DEFAULT_MATMUL_PRECISION", "bfloat16"),
    ("JAX_NUMPY_DTYPE_PROMOTION", "strict"),
    ("JAX_NUMPY_RANK_PROMOTION", "raise"),
    ("JAX_DEBUG_NANS", "1"),
    ("JAX_DISABLE_JIT", "1"),
    ("JAX_ENABLE_CUSTOM_PRNG", "1"),
    ("JAX_ENABLE_COMPILATION_CACHE", "0"),
    ("JAX_CPU_ENABLE_ASYNC_DISPATCH", "1"),
    ("JAX_PLATFORMS", "nonsense"),
    ("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
    ("XLA_FLAGS", "--xla_force_host_platform_device_count=2"),
    ("XLA_FLAGS", "--xla_no_such_flag=1"),
    ("PYTHONHASHSEED", "7"),
    ("PYTHONOPTIMIZE", "1"),
    ("LC_ALL", "C"),
    ("TZ", "Pacific/Kiritimati"),
    ("TMPDIR", "/no/such/folder"),
    ("HOME", "/no/such/folder"),
)


def environment_table(bench: Bench, options: argparse.Namespace) -> bool:
    """Resumes a stopped training under variables that people set."""
    truth = bench.truth("training", TRAIN)
    failed = []
    print("| variable | outcome | said |")
    print("|---|---|---|")
    for name, value in VARIABLES:
        workdir = bench.copy("training")
        process = bench.start(TRAIN, workdir, **{name: value})
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            failed.append(f"{name}={value}: HANG")
            continue
        same = process.returncode == 0 and result(TRAIN, workdir, output) == truth
        words = {name, "another environment"}
        found = outcome(process.returncode, output, same, words)
        said = [
            one for one in output.splitlines() if name in one or "another env" in one
        ]
        if found == "WRONG" and said:
            found = "other bits, said"
        if found in FAILURES:
            failed.append(f"{name}={value}: {found}: {output[-800:]}")
        print(f"| `{name}={value}` | {found} | {said[0][:150] if said else ''} |")
        sys.stdout.flush()
    return tell(failed)


TABLES: dict[str, Callable[[Bench, argparse.Namespace], bool]] = {
    "files": files_table,
    "signals": signals_table,
    "disks": disks_table,
    "environment": environment_table,
}


def tell(failed: list[str]) -> bool:
    """Prints the failures; returns whether there are any."""
    for one in failed:
        print(f"FAILED {one}")
    print(flush=True)
    return bool(failed)


class TooLong(BaseException):
    """A command did not end in time."""


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raises `TooLong` after a time."""

    def ring(*_: Any) -> None:
        raise TooLong

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


def draw(folder: pathlib.Path) -> None:
    """Writes labeled images of three classes, a pool, and one torn file."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:12, :12]
    shapes = (
        (x - 6) ** 2 + (y - 6) ** 2 < 16,
        abs((x - 6) ** 2 + (y - 6) ** 2 - 20) < 8,
        x // 3 % 2 == 0,
    )
    for label, (name, shape) in enumerate(zip(CLASSES, shapes, strict=True)):
        for number in range(40):
            pixels = np.where(shape[..., None], 200, 40) + rng.integers(
                -40, 40, (12, 12, 3)
            )
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            of = f"labeled/{name}" if number < 16 else "unlabeled"
            path = folder / of / f"{label}{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    (folder / "unlabeled" / "torn.jpg").write_bytes(b"\xff\xd8\xff torn")


if __name__ == "__main__":
    sys.exit(main())

"""Killed or asked to stop at any moment, a run ends as if nothing had happened."""

import hashlib
import json
import pathlib
import random
import signal
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import TINY, command

from noisy_student_jax.core.preemption import EXIT_STATUS

PATIENCE = 120
STAGES = (
    "data",
    "contact_sheet",
    "generation_0/train",
    "generation_0/evaluate",
    "generation_0/label",
    "generation_0/select",
    "generation_1/train",
    "generation_1/evaluate",
    "control/train",
    "control/evaluate",
    "report",
)


@pytest.fixture(scope="module")
def env(tmp_path_factory) -> dict[str, str]:
    """One cache of compiled programs for all processes; one device each."""
    cache = tmp_path_factory.mktemp("cache")
    return {"XDG_CACHE_HOME": str(cache), "XLA_FLAGS": ""}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, env) -> pathlib.Path:
    """A run that nobody disturbs."""
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    to_the_end(workdir, env)
    return workdir


_started = []


@pytest.fixture(autouse=True)
def leave_no_process():
    """Ends what a test that failed has left."""
    yield
    while _started:
        with _started.pop() as process:
            process.kill()


def start(workdir, env):
    line = ["run", f"--config={TINY}", f"--workdir={workdir}"]
    _started.append(command(*line, env=env))
    return _started[-1]


def to_the_end(workdir, env) -> str:
    process = start(workdir, env)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    return out


def until_line(process, text: str) -> None:
    """Reads on until a stage begins."""
    for line in process.stdout:
        if text in line and "skipped" not in line:
            return
    raise AssertionError(f"{text!r} never came: {process.stderr.read()}")


def until_file(process, workdir, pattern: str) -> None:
    """Waits for a file or folder to appear."""
    deadline = time.monotonic() + PATIENCE
    while not any(workdir.glob(pattern)):
        assert process.poll() is None, f"{pattern} never came"
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def end(process) -> tuple[str, str]:
    """What is left of its output, once it has ended."""
    return process.communicate(timeout=PATIENCE)


def kill(process) -> None:
    process.kill()
    end(process)
    assert process.returncode in (-signal.SIGKILL, 0)


def seconds_of(workdir, stage: str) -> float:
    name = f"{stage.replace('/', '.')}.json"
    return json.loads((workdir / "ledger" / name).read_text())["seconds"]


def result(workdir) -> dict[str, object]:
    """Everything that must be equal: bytes of arrays, rows of tables, numbers."""
    found: dict[str, object] = {}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir).as_posix()
        if "/checkpoints/" in name or "/." in f"/{name}":
            continue  # names with a dot are of writes that were cut short
        if path.suffix in (".safetensors", ".npy"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".parquet":
            found[name] = pq.read_table(path).to_pydict()
        elif path.name in ("evaluation.json", "selection.json", "model.json"):
            found[name] = json.loads(path.read_text())
        elif path.name == "metrics.jsonl":
            entries = [json.loads(line) for line in path.read_text().splitlines()]
            for entry in entries:
                entry.pop("images_per_second", None)
            found[name] = entries
    return found


def assert_as_if_nothing_had_happened(workdir, unbroken) -> None:
    ours, theirs = result(workdir), result(unbroken)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == value, name
    assert not list((workdir / "ledger").glob("*.started.json"))
    assert not (workdir / "superseded").exists()
    assert_every_record_is_there_once(workdir)


def assert_every_record_is_there_once(workdir) -> None:
    splits = pq.read_table(workdir / "data/splits.parquet").to_pylist()
    pool = [row["key"] for row in splits if row["part"] == "pool"]
    shards = sorted((workdir / "generation_0/labels").glob("shard_*.parquet"))
    labeled = pa.concat_tables(pq.read_table(path) for path in shards)
    assert labeled["key"].to_pylist() == pool
    counts = json.loads((workdir / "ledger/generation_0.label.json").read_text())
    assert counts["counts"] == {
        "read": len(pool),
        "labeled": len(pool),
        "quarantined": 0,
    }


def test_the_unbroken_run_is_whole(unbroken):
    ledger = [path.name for path in (unbroken / "ledger").iterdir()]
    assert sorted(ledger) == sorted(f"{s.replace('/', '.')}.json" for s in STAGES)
    names = result(unbroken)
    for owner in ("generation_0", "generation_1", "control"):
        assert f"{owner}/model/model.safetensors" in names
    assert_every_record_is_there_once(unbroken)


def test_killed_at_a_random_moment_of_every_stage(unbroken, env, tmp_path):
    """Ten kills of one run, each at a random part of another stage."""
    rng, workdir = random.Random(0), tmp_path / "run"
    killed = 0
    for stage in STAGES:
        process = start(workdir, env)
        until_line(process, f"] {stage}")
        # Compiled programs are found in the cache now: stages are shorter.
        time.sleep(rng.random() * min(seconds_of(unbroken, stage), 2.0))
        kill(process)
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 9, "only the last stage may have ended before"
    to_the_end(workdir, env)
    assert_as_if_nothing_had_happened(workdir, unbroken)


def test_killed_at_random_moments_of_the_clock(unbroken, env, tmp_path):
    rng, workdir = random.Random(1), tmp_path / "run"
    for _ in range(5):
        process = start(workdir, env)
        time.sleep(rng.uniform(1.0, 6.0))
        kill(process)
    to_the_end(workdir, env)
    assert_as_if_nothing_had_happened(workdir, unbroken)


LANDMARKS = (
    "config.json",
    "data/splits.parquet",
    "generation_0/train/checkpoints/*step_00000004*",
    "generation_0/train/checkpoints/step_00000008.json",
    "generation_0/train/raw_model/model.safetensors",
    "generation_0/labels/shard_000000.parquet",
    "generation_0/labels/shard_000002.parquet",
    "generation_0/*selection*",
    "ledger/generation_0.select.json",
    "generation_1/model/*",
    "control/train/metrics.jsonl",
    "best",
)


def test_killed_as_soon_as_something_appears(unbroken, env, tmp_path):
    """Between a file and its manifest: random moments would hardly ever hit."""
    workdir = tmp_path / "run"
    for pattern in LANDMARKS:
        process = start(workdir, env)
        until_file(process, workdir, pattern)
        kill(process)
    to_the_end(workdir, env)
    assert_as_if_nothing_had_happened(workdir, unbroken)


STOPS = (
    ("line", "] data", signal.SIGINT),
    ("line", "] generation_0/train", signal.SIGTERM),  # at work on the compilation
    ("file", "generation_0/train/checkpoints/step_00000004.json", signal.SIGINT),
    ("line", "] generation_0/evaluate", signal.SIGTERM),
    ("file", "generation_0/labels/shard_000000.parquet", signal.SIGINT),
    ("line", "] generation_0/select", signal.SIGTERM),
    ("file", "generation_1/train/metrics.jsonl", signal.SIGTERM),
    ("line", "] control/train", signal.SIGINT),
    ("line", "] report", signal.SIGTERM),
)


def test_asked_to_stop_in_every_kind_of_stage(unbroken, env, tmp_path):
    workdir = tmp_path / "run"
    for kind, what, number in STOPS:
        process = start(workdir, env)
        if kind == "line":
            until_line(process, what)
        else:
            until_file(process, workdir, what)
        process.send_signal(number)
        out, err = end(process)
        assert process.returncode == EXIT_STATUS, (what, out, err)
        assert out.endswith(
            f"stopped by {signal.Signals(number).name}; saved; the same command"
            " resumes from here\n"
        )
        assert "Traceback" not in out + err
    assert "resuming" not in to_the_end(workdir, env)
    assert_as_if_nothing_had_happened(workdir, unbroken)

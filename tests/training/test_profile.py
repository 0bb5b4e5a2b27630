"""The trace of some steps: only where it is asked for, and of those alone."""

import gzip
import json

import jax.numpy as jnp
import pytest
from support import TINY

from noisy_student_jax.cli.main import main
from noisy_student_jax.training import profile
from noisy_student_jax.training.profile import Profile


def test_a_training_leaves_the_trace_of_its_steps(tmp_path, capsys):
    line = ["train", f"--config={TINY}", f"--workdir={tmp_path}", "--generation=0"]
    assert main([*line, "--config.log.profile_steps=2"]) == 0

    folder = tmp_path / "generation_0" / "train" / "tensorboard"
    (trace,) = folder.glob("plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {e["args"]["step_num"] for e in events if e.get("name") == "train"}
    assert steps == {"2", "3"}
    told = capsys.readouterr().out
    assert "traced steps 3 to 4: see them by tensorboard" in told
    assert "| stem_conv" in told


@pytest.fixture
def calls(monkeypatch):
    """What the profiler is asked, and before or after which step."""
    made = []
    for name in ("start", "stop"):
        monkeypatch.setattr(
            profile.profiler, name, lambda *_, name=name: made.append(name)
        )
    return made


@pytest.mark.parametrize(
    ("steps", "wanted", "expected"),
    [
        (range(9), 2, [2, 3]),
        (range(5, 9), 1, [7]),
        (range(3), 2, [1, 2]),
        (range(3), 7, [0, 1, 2]),
        (range(9), None, []),
        (range(9, 9), 2, []),
    ],
)
def test_the_first_steps_are_left_out_where_there_are_others(
    tmp_path, calls, steps, wanted, expected
):
    one, traced = Profile(tmp_path, steps, wanted=wanted), []
    for number in steps:
        one.before(number)
        if calls == ["start"]:
            traced.append(number)
        one.after(number, jnp.zeros(()))
    one.close()

    assert traced == expected
    assert calls == (["start", "stop"] if expected else [])


def test_a_training_that_ends_early_keeps_what_was_traced(tmp_path, calls):
    one = Profile(tmp_path, range(9), wanted=5)
    for number in range(4):
        one.before(number)
        one.after(number, jnp.zeros(()))
    one.close()

    assert calls == ["start", "stop"]

"""Noise that would leave targets behind is refused before training."""

import pytest
from outside.bright_square import BrightSquare
from support import ROOT, TINY

from noisy_student_jax import config
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.generation import preconditions
from noisy_student_jax.runs.run import Run

SQUARES = ROOT / "tests" / "configs" / "bright_square.py"


@pytest.fixture
def check(tmp_path):
    def checked(*overrides, path=SQUARES):
        given = [f"--config.{override}" for override in overrides]
        loaded = config.load(path, given)
        run = Run(loaded, tmp_path / "run", interruption=Interruption())
        preconditions.check(run, devices=1)

    return checked


@pytest.mark.parametrize("noise", ["zoom=1.5", "turns=true"])
def test_targets_that_stay_are_not_zoomed_or_turned(check, noise):
    with pytest.raises(UserError, match="pseudo has zoom or turns, but targets of"):
        check(f"noise.pseudo.{noise}", path=TINY)
    check("noise.pseudo.zoom=1", path=TINY)


def test_random_crops_would_leave_targets_behind(check):
    with pytest.raises(UserError, match=r"labeled.crop_area is 0\.5, but targets of"):
        check("noise.labeled.crop_area=0.5")


def test_targets_that_move_are_not_noised_on_the_host(check, monkeypatch):
    monkeypatch.setattr(preconditions, "is_encoded", lambda source: True)
    with pytest.raises(UserError, match="streamed images are noised on the host: set"):
        check()
    check("data.augment=device")


def test_a_teacher_in_the_step_sees_no_noise(check, monkeypatch):
    monkeypatch.setattr(
        BrightSquare, "taught_targets", lambda self, predictions: 0, raising=False
    )
    with pytest.raises(UserError, match=r"targets of task .* move with the noise: use"):
        check("labels.mode=on_the_fly")

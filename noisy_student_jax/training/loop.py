"""The training loop: from the newest good checkpoint to the last step."""

import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
from tensorboardX import SummaryWriter

from noisy_student_jax.config import renamed
from noisy_student_jax.core import console, files
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import NotSavedError, TrainingDivergedError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.prefetch import Prefetcher
from noisy_student_jax.core.types import Batch
from noisy_student_jax.training.checkpoints import Checkpoints
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import Metrics

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """How a training goes on; none of it changes what is learned.

    Attributes:
      steps: to train for.
      checkpoint_every: steps between checkpoints.
      checkpoints_kept: newest ones to keep.
      log_every: steps between lines of ``metrics.jsonl``.
      validate_every: steps between validations; the last step always validates.
      asynchronous: whether training goes on while a checkpoint is written.
      prefetch: batches that are made, and on their way to the devices, before the
        steps before them are over; 0 for none.
    """

    steps: int
    checkpoint_every: int
    checkpoints_kept: int
    log_every: int
    validate_every: int
    asynchronous: bool = True
    prefetch: int = 1


def train(
    step: Step,
    state: TrainState,
    batches: Callable[[int], Batch],
    options: LoopOptions,
    *,
    folder: pathlib.Path,
    batch_size: int,
    validate: Callable[[TrainState], dict[str, float]],
    records: Callable[[int], dict[str, list[str]]],
    interruption: Interruption,
    progress: Progress,
) -> TrainState:
    """Trains, or goes on training, to the last step.

    Args:
      step: compiled; the state is given away to it.
      state: a fresh state, on its devices; a checkpoint in `folder` takes its place.
      batches: the batch of each step.
      options: see `LoopOptions`.
      folder: for checkpoints, ``metrics.jsonl`` and TensorBoard events.
      batch_size: images per step, for the rate.
      validate: measures a state; its metrics are logged.
      records: names the records of a step, for the error if it diverges.
      interruption: asked at every step.
      progress: told at every step.

    Returns:
      The state after the last step, saved.

    Raises:
      TrainingDivergedError: a loss was not finite; the last good checkpoint stays.
      Interrupted: a signal arrived; the state is saved.
      NotSavedError: a checkpoint could not be written; it may be an earlier one.
    """
    checkpoints = Checkpoints(
        folder / "checkpoints",
        keep=options.checkpoints_kept,
        asynchronous=options.asynchronous,
    )
    state = checkpoints.restore_latest(state) or state
    first = int(state.step)
    if first:
        console.say(f"  continues from the checkpoint of step {first:,}")
    log = MetricsLog(folder, first)
    ready = Prefetcher(batches, ahead=options.prefetch, stop=options.steps)
    progress.start(options.steps * batch_size, "images", at=first * batch_size)
    started = time.monotonic()
    late: dict[str, Any] | None = None

    def settle(metrics: dict[str, Any] | None, number: int) -> None:
        """Looks at the metrics of a step that is surely over by now."""
        if metrics is None:
            return
        metrics = {name: float(v) for name, v in jax.device_get(metrics).items()}
        loss = metrics["loss"]
        # A loss may be fine, and what the step made of the weights not.
        for name, value in (("loss", loss), ("gradient", metrics["gradient_norm"])):
            if not math.isfinite(value):
                raise TrainingDivergedError(
                    _diverged(name, value, number, records(number), checkpoints)
                )
        if (number + 1) % options.log_every == 0 or number + 1 == options.steps:
            rate = (number + 1 - first) * batch_size / (time.monotonic() - started)
            log.write(number + 1, {**metrics, "images_per_second": rate})
        progress.update((number + 1) * batch_size, f", loss {loss:.3f}")

    try:
        for number in range(first, options.steps):
            if interruption.requested:
                settle(late, number - 1)
                checkpoints.save(state)
                interruption.check()
            try:
                batch = ready.take(number)
            except Exception:
                settle(late, number - 1)
                checkpoints.save(state)
                raise
            # What the step needs is on the devices: nothing is sent in passing.
            with jax.transfer_guard("disallow"):
                state, metrics = step(state, batch)
            del batch
            ready.fill(number + 1)
            # One step late: the device is at work while the host looks.
            settle(late, number - 1)
            late, done = metrics, number + 1
            validating = done % options.validate_every == 0 or done == options.steps
            saving = done % options.checkpoint_every == 0 or done == options.steps
            if validating or saving:
                settle(late, number)
                late = None
            if validating:
                log.write(done, validate(state))
            if saving:
                checkpoints.save(state)
    finally:
        log.close()
        checkpoints.close()
    return state


class MetricsLog:
    """``metrics.jsonl``, one object a line, and the same for TensorBoard."""

    def __init__(self, folder: pathlib.Path, first_step: int):
        """Opens the log; lines after `first_step` will be made again, so they go."""
        self.path = folder / "metrics.jsonl"
        kept = [e for e in read_metrics(self.path) if e["step"] <= first_step]
        lines = "".join(json.dumps(entry) + "\n" for entry in kept)
        files.write_atomically(self.path, lines)
        try:
            self._board = SummaryWriter(
                str(folder / "tensorboard"), purge_step=first_step + 1
            )
        except OSError as error:
            console.warn(f"no TensorBoard events are written: {error}")
            self._board = None

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds the metrics of a step."""
        files.append(self.path, json.dumps({"step": step, **metrics}) + "\n")
        if self._board:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes what TensorBoard reads."""
        if self._board:
            self._board.close()


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
    """Reads ``metrics.jsonl``; a last line that was cut short is left out."""
    entries = []
    if files.is_file(path):
        for line in files.read_text(path).splitlines():
            try:
                entries.append(renamed.respelled(json.loads(line)))
            except json.JSONDecodeError:
                break
    return entries


def _diverged(
    name: str,
    value: float,
    step: int,
    records: dict[str, list[str]],
    checkpoints: Checkpoints,
) -> str:
    try:
        checkpoints.wait()
    except NotSavedError as error:
        console.warn(str(error))
    kept = checkpoints.steps()
    named = "; ".join(
        f"{stream}: {', '.join(console.printable(key) for key in keys[:8])}"
        + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
        for stream, keys in records.items()
    )
    last = (
        f"the checkpoint of step {kept[-1]:,} is kept"
        if kept
        else ("there is no checkpoint yet")
    )
    return (
        f"the {name} became {value} at step {step + 1:,} ({last}); lower"
        f" config.train.learning_rate, or look at the records of that step: {named}"
    )

"""The training loop, from the newest intact checkpoint to the last step."""

import contextlib
import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

from noisy_student_jax.config import renamed
from noisy_student_jax.core import console, files
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import NotSavedError, TrainingDivergedError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.prefetch import Prefetcher
from noisy_student_jax.core.types import Batch
from noisy_student_jax.training.checkpoints import Checkpoints
from noisy_student_jax.training.events import Events
from noisy_student_jax.training.profile import Profile
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import Metrics
from noisy_student_jax.training.stream_losses import StreamLosses

TENSORBOARD = "tensorboard"
"""Folder of events and traces, in a training's."""
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """Options of the training loop; apart from `steps`, none affects the result.

    Attributes:
      steps: number of training steps.
      checkpoint_every: steps between checkpoints.
      checkpoints_kept: number of newest checkpoints to keep.
      log_every: steps between lines of ``metrics.jsonl``.
      validate_every: steps between validations; the last step always validates.
      prefetch: batches prepared and sent to the devices ahead of their step; 0 for
        none.
      profile_steps: steps whose trace is written; None for none.
    """

    steps: int
    checkpoint_every: int
    checkpoints_kept: int
    log_every: int
    validate_every: int
    prefetch: int = 1
    profile_steps: int | None = None


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
    made_for: str | None = None,
) -> TrainState:
    """Trains to the last step, resuming from a checkpoint if there is one.

    Args:
      step: the compiled step, which donates the state.
      state: an initial state on its devices; a checkpoint in `folder` replaces it.
      batches: returns the batch of a step.
      options: see `LoopOptions`.
      folder: for checkpoints, ``metrics.jsonl``, TensorBoard events and traces.
      batch_size: images per step, for the rate.
      validate: returns the metrics of a state, which are logged.
      records: returns the records of a step, for the error message if it diverges.
      interruption: checked at every step.
      progress: updated at every step.
      made_for: see `Checkpoints`.

    Returns:
      The state after the last step, which is saved.

    Raises:
      TrainingDivergedError: a loss was not finite; the last good checkpoint is kept.
      Interrupted: a signal arrived; the state is saved.
      NotSavedError: a checkpoint could not be written; it may be an earlier one.
    """
    checkpoints = Checkpoints(
        folder / "checkpoints", keep=options.checkpoints_kept, made_for=made_for
    )
    state = checkpoints.restore_latest(state) or state
    first = int(state.step)
    if first:
        console.say(f"  continues from the checkpoint of step {first:,}")
    log = MetricsLog(folder, first)
    losses = StreamLosses(options.steps, log.earlier)
    profile = Profile(
        folder / TENSORBOARD,
        range(first, options.steps),
        wanted=options.profile_steps,
    )
    ready = Prefetcher(batches, ahead=options.prefetch, stop=options.steps)
    progress.start(options.steps * batch_size, "images", at=first * batch_size)
    started = time.monotonic()
    late: dict[str, Any] | None = None

    def settle(metrics: dict[str, Any] | None, number: int) -> None:
        """Checks and logs the metrics of a step that should have finished."""
        if metrics is None:
            return
        metrics = {name: float(v) for name, v in jax.device_get(metrics).items()}
        loss = metrics["loss"]
        # The loss may be finite while the update of the weights is not.
        for name, value in (("loss", loss), ("gradient", metrics["gradient_norm"])):
            if not math.isfinite(value):
                raise TrainingDivergedError(
                    _diverged(name, value, number, records(number), checkpoints)
                )
        if warning := losses.add(metrics, number + 1):
            console.warn(warning)
        if (number + 1) % options.log_every == 0 or number + 1 == options.steps:
            rate = (number + 1 - first) * batch_size / (time.monotonic() - started)
            log.write(number + 1, {**metrics, "images_per_second": rate})
        progress.update((number + 1) * batch_size, f", loss {loss:.3f}")

    unsaved = contextlib.ExitStack()
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
            profile.before(number)
            # All inputs are on the devices: no implicit transfers.
            with (
                jax.transfer_guard("disallow"),
                jax.profiler.StepTraceAnnotation("train", step_num=number),
            ):
                state, metrics = step(state, batch)
            if number == first:
                # Until here there was only compiling.
                unsaved.enter_context(interruption.unsaved())
            profile.after(number, state)
            del batch
            ready.fill(number + 1)
            # One step late: the device is busy while the host checks.
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
    except BaseException:
        # The first error is the one that is raised.
        with contextlib.suppress(Exception), unsaved:
            checkpoints.close()
        for one in (profile, log):
            with contextlib.suppress(Exception):
                one.close()
        raise
    with unsaved:
        profile.close()
        log.close()
        checkpoints.close()
    return state


class MetricsLog:
    """Writes metrics to ``metrics.jsonl``, one object per line, and to TensorBoard.

    Attributes:
      earlier: the entries that were there, up to the first step.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        """Opens the log and removes entries after `first_step`, to be written again."""
        self.path = folder / "metrics.jsonl"
        entries, unread = read_metrics(self.path)
        if unread:
            console.warn(f"{unread:,} damaged lines of '{self.path}' are left out")
        self.earlier = [e for e in entries if e["step"] <= first_step]
        lines = "".join(json.dumps(entry) + "\n" for entry in self.earlier)
        files.write_atomically(self.path, lines)
        self._events = Events(folder / TENSORBOARD, first_step=first_step + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds the metrics of a step."""
        files.append(self.path, json.dumps({"step": step, **metrics}) + "\n")
        self._events.write(step, metrics)

    def close(self) -> None:
        """Closes the file of events."""
        self._events.close()


def read_metrics(path: pathlib.Path) -> tuple[list[dict[str, float]], int]:
    """Reads ``metrics.jsonl``, ignoring an incomplete last line.

    Returns:
      The entries, each with its ``step``, and the number of damaged lines.
    """
    entries: list[dict[str, float]] = []
    lines = files.read_bytes(path).split(b"\n") if files.is_file(path) else [b""]
    found = [_metrics(line) for line in lines[:-1]]
    # The last line has no end: it was not written to its end, or is empty.
    entries += [entry for entry in found if entry is not None]
    if (last := _metrics(lines[-1])) is not None:
        entries.append(last)
    return entries, found.count(None)


def _metrics(line: bytes) -> dict[str, float] | None:
    """Returns the metrics in a line, or None if there are none."""
    try:
        found = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("step"), int):
        return None
    if any(isinstance(value, bool | str | list | dict) for value in found.values()):
        return None
    return renamed.respelled(found)


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

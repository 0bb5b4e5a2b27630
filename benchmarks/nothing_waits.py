"""The overlap of host and devices in training and labeling, against none.

The peer is ours with the overlap turned off by config. On a CPU, host and device share
the cores, so work of one slows the other down: the reader of the simulated training
therefore waits (as for a disk) instead of working, and labeling is measured with a
reader that waits and with one that works.
"""

import functools
import pathlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import side_by_side

from noisy_student_jax import models
from noisy_student_jax.core import sharding
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.core.protocols import Examples
from noisy_student_jax.evaluation.predictor import Predictor, predict_batches
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.tasks.classification import Classification
from noisy_student_jax.training import loop
from noisy_student_jax.training.checkpoints import Checkpoints
from noisy_student_jax.training.state import TrainState

CLASSES = tuple("abcdefghij")
STEP_SECONDS, BATCH_SECONDS, STEPS = 0.03, (0.005, 0.045), 24
"""Seconds of a simulated step and of its fastest and slowest batch; number of steps."""
READ_SECONDS = 0.05
"""Seconds that a slow disk takes to read the images of a batch."""


def saves(size: int, *, repeats: int) -> dict[str, float]:
    """Returns the seconds that a save of `size` bytes of state stops training."""
    values = jnp.arange(size // 4 // 64, dtype=jnp.float32)
    params = {f"layer_{n}": values + n for n in range(16)}
    optimizer = optax.rmsprop(0.1, momentum=0.9)
    state = TrainState.create({"params": params}, optimizer, seed=0, generation=0)
    step = jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)
    stalls: dict[str, list[float]] = {"background": [], "waiting": []}
    with tempfile.TemporaryDirectory() as folder:
        opened = {
            name: Checkpoints(
                pathlib.Path(folder) / name, asynchronous=name == "background"
            )
            for name in stalls
        }
        for _ in range(repeats + 1):
            state = jax.block_until_ready(step(state))
            for name, checkpoints in opened.items():
                started = time.perf_counter()
                checkpoints.save(state)
                stalls[name].append(time.perf_counter() - started)
                checkpoints.wait()
        for checkpoints in opened.values():
            checkpoints.close()
    # The first save of each also creates the folders.
    return {name: statistics.median(own[1:]) for name, own in stalls.items()}


def busy(turns: int) -> jax.Array:
    square = jnp.full((256, 256), 1 / 256)
    return jax.lax.fori_loop(0, turns, lambda _, x: x @ square, square).sum()


@functools.cache
def turns_of_a_step() -> int:
    """Returns the amount of work that takes `STEP_SECONDS`, shared by all cases."""
    program = jax.jit(busy)
    rates = side_by_side.rates(
        {"busy": lambda: int(jax.block_until_ready(program(100)) * 0) + 100},
        seconds=0.3,
    )
    return int(rates["busy"] * STEP_SECONDS)


def training(prefetch: int) -> side_by_side.Work:
    """Runs the real loop on a simulated device and reader."""
    mesh = sharding.make_mesh(jax.devices()[:1])
    optimizer = optax.sgd(0.1)

    turns = np.full(8, turns_of_a_step(), np.int32)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Any) -> Any:
        done = busy(batch["turns"][0]) * 0
        after = state.replace(step=state.step + 1)
        return after, {"loss": done, "gradient_norm": done}

    def batches(number: int) -> Any:
        # Every fourth batch is slow, as from a disk.
        time.sleep(BATCH_SECONDS[number % 4 == 3])
        return sharding.put_batch({"turns": turns}, mesh)

    def work() -> int:
        folder = pathlib.Path(tempfile.mkdtemp())
        state = TrainState.create({"params": {}}, optimizer, seed=0, generation=0)
        loop.train(
            step,
            jax.device_put(state, sharding.replicated(mesh)),
            batches,
            loop.LoopOptions(
                steps=STEPS,
                checkpoint_every=STEPS,
                checkpoints_kept=1,
                log_every=STEPS,
                validate_every=STEPS // 4,
                prefetch=prefetch,
            ),
            folder=folder,
            batch_size=8,
            validate=lambda state: {},
            records=lambda step: {},
            interruption=Interruption(),
            progress=Progress(every_seconds=1e9),
        )
        shutil.rmtree(folder)
        return STEPS

    return work


class Pool:
    """Images that take time: to come from a slow disk, or to be resized."""

    def __init__(self, side: int, seconds: float):
        self._image = np.random.default_rng(0).integers(
            0, 256, (side, side, 3), np.uint8
        )
        self._seconds = seconds

    def read(self, indices: range) -> Examples:
        """See `Source`."""
        time.sleep(self._seconds)
        return Examples([self._image] * len(indices), ["ok"] * len(indices), None)


def labeling(pool: Pool, ahead: int, *, model: str, batch: int) -> side_by_side.Work:
    """Reads and predicts ten batches."""
    task = Classification(CLASSES)
    module: nn.Module = models.create(model, outputs=len(CLASSES))
    predictor = Predictor(task, module, Preprocessing(32, 0), batch=batch, ahead=ahead)
    placed = {"model": predictor.place(initialize(module, resolution=32, seed=0))}
    ranges = [range(n * batch, (n + 1) * batch) for n in range(10)]

    def work() -> int:
        done = 0
        for found, _ in predict_batches(predictor, placed, pool, ranges):
            done += len(found.indices)
        return done

    return work


def compared(
    name: str, make: Callable[[int], side_by_side.Work], options: Any, ahead: int = 1
) -> dict[str, Any]:
    works = {"ours": make(ahead), "peer": make(0)}
    found = side_by_side.rates(works, repeats=options.repeats, seconds=options.seconds)
    return side_by_side.case(name, found["ours"], found["peer"])


def main() -> None:
    options = side_by_side.parser(__doc__).parse_args()
    cases = []
    for name, size in (("B0", 65_000_000), ("B7", 1_060_000_000)):
        stall = saves(size, repeats=options.repeats)
        cases.append(
            side_by_side.case(
                f"saves, a state as large as {name}'s",
                1 / stall["background"],
                1 / stall["waiting"],
                stalls_ms=[round(1000 * s, 1) for s in stall.values()],
            )
        )
    for ahead in (1, 2):
        name = f"steps, device and reader made up, {ahead} ahead"
        cases.append(compared(name, training, options, ahead))
    for name, side, seconds in (
        ("labeled from a slow disk", 32, READ_SECONDS),
        ("labeled, resized by the same cores", 128, 0.0),
    ):
        pool = Pool(side, seconds)
        cases.append(
            compared(
                name,
                lambda ahead, pool=pool: labeling(
                    pool, ahead, model="efficientnet_mini_s", batch=64
                ),
                options,
            )
        )
    side_by_side.show(
        cases,
        unit="a second (of saves: that training waits for)",
        peers=("orbax-checkpoint",),
        as_json=options.json,
    )


if __name__ == "__main__":
    main()

r"""RandAugment on the device, and whole epochs without waiting for the host.

    python benchmarks/on_device.py
    python benchmarks/on_device.py --images=32:4096,224:512 --batch=64 \
        --model=efficientnet_b0_small

There are three kinds of cases, all on the default backend:

- *RandAugment*, two operations and a flip, on synthetic images: in the form that `auto`
  chooses here, against Pillow in one thread (that is, per core); and one image after
  the other against all together, where every operation runs for every image;
- *the host's cost of a step's draws*: batches per second of the resident pipeline on
  images of one pixel, with many steps' draws sent at a time, against each step's own;
- *whole epochs*: steps per second of a student in the training loop, from the resident
  pipeline and with the metrics read a step late, against the limit: as many steps in
  one program (`lax.scan`), whose draws are on the device.
"""

import functools
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pillow_randaugment
import side_by_side
from our_programs import Ours, wait
from side_by_side import Work

from noisy_student_jax import models
from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.noise import (
    augment_batch,
    example_keys,
    split_positions,
    stream_key,
)
from noisy_student_jax.augment.randaugment_table import RandAugmentConstants
from noisy_student_jax.core import sharding
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.data.pipelines import device_resident
from noisy_student_jax.data.pipelines.device_resident import ResidentPipeline
from noisy_student_jax.data.pipelines.stream import Noise, Stream
from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.training.compiled_step import StepProgram

CLASSES = 10
LABELED, POOL = 4_000, 41_000
"""Images of CIFAR-10 as ``configs/cifar10.py`` splits it."""


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--images", default="32:256,224:32", help="SIDE:BATCH, …")
    parser.add_argument("--model", default="efficientnet_tiny_s")
    parser.add_argument("--batch", type=int, default=8, help="labeled images a step")
    parser.add_argument("--ratio", type=int, default=7, help="others for each of them")
    parser.add_argument("--steps", type=int, default=32, help="in one program")
    options = parser.parse_args()
    timing = {"repeats": options.repeats, "seconds": options.seconds}
    layout = BatchLayout.from_ratio(options.batch, options.ratio)
    images = [tuple(map(int, one.split(":"))) for one in options.images.split(",")]
    cases = [case for one in images for case in randaugment(*one, timing)]
    cases.append(draws(BatchLayout(64, 448), timing))
    cases.append(epochs(options.model, layout, options.steps, timing))
    side_by_side.show(
        cases,
        unit="images/s, batches/s, steps/s",
        peers=("pillow",),
        as_json=options.json,
    )


def input_noise(side: int, **options: str) -> InputNoise:
    """Returns two layers and a flip; translation and cutout scale with the side."""
    constants = RandAugmentConstants(translate=side / 8, cutout=side / 8)
    return InputNoise(
        randaugment_layers=2,
        randaugment_magnitude=9.0,
        constants=constants,
        flip=True,
        **options,
    )


def randaugment(side: int, batch: int, timing: dict) -> list[dict]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, side, side, 3), np.uint8)
    placed = jax.device_put(images)
    positions = split_positions(np.arange(batch))
    keys = example_keys(stream_key(0, 0, 0), positions)

    def form(name: str) -> Work:
        augment = functools.partial(augment_batch, noise=input_noise(side, form=name))
        compiled = jax.jit(augment)

        def work() -> int:
            wait(compiled(keys, placed))
            return batch

        return work

    def pillow() -> int:
        noise = input_noise(side)
        for image in images[:32]:
            pillow_randaugment.augment(
                image,
                rng,
                layers=noise.randaugment_layers,
                magnitude=noise.randaugment_magnitude,
                constants=noise.constants,
            )
        return len(images[:32])

    names = ("auto", "together", "one_by_one")
    rate = side_by_side.rates(
        {**{name: form(name) for name in names}, "pillow": pillow}, **timing
    )

    def case(what: str, ours: str, peer: str) -> dict:
        return side_by_side.case(
            f"RandAugment, {side} px: {what}", rate[ours], rate[peer], batch=batch
        )

    return [
        case("auto / Pillow", "auto", "pillow"),
        case("one by one / together", "one_by_one", "together"),
    ]


def streams(side: int, noise: InputNoise, count: tuple[int, int]) -> list[Stream]:
    rng = np.random.default_rng(0)

    def stream(count: int) -> Stream:
        rows = np.arange(count)
        images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
        return Stream(
            source=ArraySource([str(row) for row in rows], images),
            picks=np.stack([rows, rows], axis=1),
            targets=np.eye(CLASSES, dtype=np.float32)[rows % CLASSES],
            to_target=lambda stored: stored,
            noise=Noise(noise),
        )

    return [stream(one) for one in count]


def pipeline(own: list[Stream], layout: BatchLayout, side: int) -> ResidentPipeline:
    return ResidentPipeline(
        own,
        layout,
        sharding.make_mesh(),
        Preprocessing(side, 0),
        seed=0,
        generation=1,
    )


def counting(call: Callable[[int], object]) -> Work:
    """Returns a work that calls with consecutive step numbers."""
    step = -1

    def work() -> int:
        nonlocal step
        step += 1
        wait(call(step))
        return 1

    return work


def draws(layout: BatchLayout, timing: dict) -> dict:
    own = streams(1, InputNoise(), (LABELED, POOL))
    many = pipeline(own, layout, 1)
    with mock.patch.object(device_resident, "STEPS_AT_ONCE", 1):
        single = pipeline(own, layout, 1)
    rate = side_by_side.rates(
        {"ours": counting(many), "peer": counting(single)}, **timing
    )
    for one in (many, single):
        one.close()
    return side_by_side.case(
        f"draws of {layout.total} images: many steps / each step", **rate
    )


def epochs(model: str, layout: BatchLayout, steps: int, timing: dict) -> dict:
    side = max(32, models.resolution(model))
    ours = Ours.make(model, side=side, classes=CLASSES)
    own = streams(side, input_noise(side), (LABELED, POOL))
    batches = pipeline(own, layout, side)
    mesh = sharding.make_mesh()
    step, state = ours.training(ratio=layout.pseudo / layout.labeled)
    program = StepProgram(step, mesh, state=state, batch=batches(0))
    whole = sharding.replicated(mesh)
    states = {name: jax.device_put(state, whole) for name in ("loop", "program")}
    # Each step donates its state, so each form has its own.
    states["program"] = jax.tree.map(jnp.copy, states["program"])
    number, late = 0, None

    def loop() -> int:
        nonlocal number, late
        for _ in range(steps):
            states["loop"], metrics = program(states["loop"], batches(number))
            if late is not None:
                float(late["loss"])
            late, number = metrics, number + 1
        wait(states["loop"].step)
        return steps

    def in_one(state, held, keys, drawn):
        def one(state, place):
            return step(state, batches._program(held, keys, drawn, place))

        return jax.lax.scan(one, state, jnp.arange(steps))

    all_in_one = jax.jit(in_one, donate_argnums=0, out_shardings=whole)
    batches(0)
    # No pipeline has this: only this benchmark uses a program of many steps.
    inputs = batches._resident, batches._keys, batches._current[1]

    def scanned() -> int:
        states["program"], metrics = all_in_one(states["program"], *inputs)
        wait(metrics)
        return steps

    rate = side_by_side.rates({"ours": loop, "peer": scanned}, **timing)
    batches.close()
    return side_by_side.case(
        f"epochs of {model}, {side} px, batch {layout.total}: loop / one program",
        **rate,
        epoch_s=round(POOL / layout.pseudo / rate["ours"], 2),
    )


if __name__ == "__main__":
    main()

"""The peak memory of a training step, against the estimate of `plan`.

    python benchmarks/memory.py
    python benchmarks/memory.py --only b0@96 tiny

Each case runs in a separate process. It compiles the step from shapes alone, trains for
some steps (to load everything that the process needs once), and only then measures: on
CPU, the size of state and batch plus the largest growth of the process in a step
(``VmHWM`` of Linux); elsewhere the device's own figure. In these processes the C
library maps every large buffer separately (``MALLOC_MMAP_THRESHOLD_``) and returns it
when it is freed: otherwise memory left by the step before may hide the memory of a
step. ``plan`` is the estimate of `plan` without compiling, ``compiled`` that with
``--measure``; ``held`` is the case's own value of ``planning.memory.HELD``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import side_by_side

from noisy_student_jax.config import base_config, complete
from noisy_student_jax.core import sharding
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.generation.train import step_and_state
from noisy_student_jax.generation.trainable import part
from noisy_student_jax.planning import memory, throughput
from noisy_student_jax.runs.run import Generation, Run
from noisy_student_jax.training.compiled_step import StepProgram
from noisy_student_jax.training.step import jit_train_step

B0, B3, SMALL, TINY, MINI, LITE = (
    f"efficientnet_{name}"
    for name in ("b0", "b3", "b0_small", "tiny_s", "mini_s", "lite0")
)
CASES: list[dict[str, Any]] = [
    {"model": TINY, "resolution": 32, "batch": 64},
    {"model": TINY, "resolution": 32, "batch": 64, "dtype": "bfloat16"},
    {"model": TINY, "resolution": 32, "batch": 64, "remat": True},
    {"model": TINY, "resolution": 32, "batch": 64, "microbatches": 4},
    {"model": MINI, "resolution": 32, "batch": 64},
    {"model": B0, "resolution": 64, "batch": 8},
    {"model": B0, "resolution": 64, "batch": 16},
    {"model": B0, "resolution": 96, "batch": 16},
    {"model": B0, "resolution": 96, "batch": 16, "microbatches": 2},
    {"model": B0, "resolution": 96, "batch": 16, "microbatches": 4},
    {"model": B0, "resolution": 64, "batch": 16, "dtype": "bfloat16"},
    {"model": B0, "resolution": 64, "batch": 16, "remat": True},
    {"model": SMALL, "resolution": 32, "batch": 16},
    {"model": LITE, "resolution": 96, "batch": 16},
    {"model": B0, "resolution": 224, "batch": 16},
    {"model": B3, "resolution": 300, "batch": 4},
]
WARM, MEASURED = 2, 3
"""Steps."""


def student_of(case: dict[str, Any]) -> Generation:
    config = base_config()
    config.model.update(name=case["model"], resolution=case["resolution"])
    config.model.update({k: case[k] for k in ("dtype", "remat") if k in case})
    config.train.update(batch=case["batch"], epochs=None, steps=10)
    config.train.microbatches = case.get("microbatches", 1)
    # Only the step: other arrays on the device are simple to add.
    config.data.update(resident_gigabytes=0.0, prefetch=0, labels_per_class=3)
    config.generations = ({},)
    run = Run(complete(config), "unused", interruption=Interruption(), look_only=True)
    return run.student(0)


def measured(case: dict[str, Any]) -> dict[str, float]:
    """Trains a case for some steps in this process; results are bytes or seconds."""
    student = student_of(case)
    trained, mesh = part(student), sharding.make_mesh()
    step, state = step_and_state(trained)
    image = trained.synthetic(student.spec.layout.total)
    batch = {**throughput.all_but_images(student), "image": image}
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (state, batch)
    )
    started = time.perf_counter()
    compiled = jit_train_step(step, mesh).lower(*shapes).compile()
    compiling = time.perf_counter() - started
    program = StepProgram(step, mesh, state=state, batch=batch)
    state = jax.device_put(state, program.held)
    batch = sharding.put_batch(batch, mesh)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((state, batch)))
    peaks, seconds = [], []
    for _ in range(WARM + MEASURED):
        # Another thread frees a step's temporaries, after its results are ready.
        time.sleep(0.1)
        before = side_by_side.forget_peak()
        started = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, batch))
        seconds.append(time.perf_counter() - started)
        peaks.append(peak_since(before, held))
    told = memory.of_step(compiled, student, devices=mesh.size)
    plain = student_of({k: v for k, v in case.items() if k not in ("dtype", "remat")})
    return {
        "peak": statistics.median(peaks[WARM:]),
        "compiled": memory.of_program(compiled),
        "plan": memory.estimated(student, devices=mesh.size),
        "held": told.per_image / plain.activation_bytes,
        "compiling": compiling,
        "images_per_second": student.spec.layout.total
        / statistics.median(seconds[WARM:]),
    }


def peak_since(before: int, held: int) -> int:
    """Returns the peak memory of a step, in bytes.

    Args:
      before: memory of the process before the step.
      held: the part of it that counts: state and batch.
    """
    if jax.default_backend() != "cpu":
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    return held + side_by_side.peak() - before


def in_a_process(case: dict[str, Any]) -> dict[str, float]:
    line = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(
        line,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{case} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def name_of(case: dict[str, Any]) -> str:
    model = case["model"].removeprefix("efficientnet_")
    name = f"{model}@{case['resolution']}, batch {case['batch']}"
    if "microbatches" in case:
        name += f", {case['microbatches']} microbatches"
    return name + ", bfloat16" * ("dtype" in case) + ", remat" * ("remat" in case)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    side_by_side.add_only(parser)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measured(json.loads(options.case))))
        return
    named = {name_of(case): case for case in CASES}
    found = []
    for name, case in side_by_side.chosen(named, options.only).items():
        one = in_a_process(case)
        peak, megabyte = one["peak"], 1e6
        found.append(
            side_by_side.case(
                name,
                one["compiled"] / megabyte,
                peak / megabyte,
                plan=round(one["plan"] / megabyte, 1),
                plan_to_peak=round(one["plan"] / peak, 2),
                held=round(one["held"], 2),
                images_per_second=round(one["images_per_second"], 2),
                compiling=round(one["compiling"], 1),
            )
        )
    side_by_side.show(
        found, unit="MB: ours as compiled, peer the peak", as_json=options.json
    )


if __name__ == "__main__":
    main()

"""The peak memory of a training step, against what `plan` says of it beforehand.

Each case runs in a process of its own. It compiles the step from shapes alone, trains
for a step (which loads what the process needs once), lets everything go, and only then
measures: on CPU, the most that the process holds in a step beyond what it held before
state and batch were there (``VmHWM`` of Linux); elsewhere what the device says.
``plan`` is the estimate that `plan` makes without compiling, ``compiled`` what it says
with ``--measure``; ``held`` is what ``memory.HELD`` stands for, in this case.
"""

import argparse
import ctypes
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import side_by_side

from noisy_student_jax import measuring, memory
from noisy_student_jax.config import base_config, complete
from noisy_student_jax.generation import step_and_state
from noisy_student_jax.interruption import Interruption
from noisy_student_jax.part import part
from noisy_student_jax.run import Run, Student
from noisy_student_jax.training import partitioning
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


def student_of(case: dict[str, Any]) -> Student:
    config = base_config()
    config.model.update(name=case["model"], resolution=case["resolution"])
    config.model.update({k: case[k] for k in ("dtype", "remat") if k in case})
    config.train.update(batch=case["batch"], epochs=0.0, steps=10)
    config.train.microbatches = case.get("microbatches", 1)
    # Nothing but the step; what else lies on the device is plain to add.
    config.data.update(resident_gigabytes=0.0, prefetch=0, labels_per_class=3)
    config.generations = ({},)
    run = Run(complete(config), "unused", interruption=Interruption(), look_only=True)
    return run.student(0)


def measured(case: dict[str, Any]) -> dict[str, float]:
    """Trains two steps of a case, in this process; all numbers are bytes or seconds."""
    student = student_of(case)
    trained, mesh = part(student), partitioning.make_mesh()
    whole = partitioning.replicated(mesh)
    step, state = step_and_state(trained)
    rest = measuring.all_but_images(student)
    image = trained.made_up(student.layout.total)

    def shaped(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    shapes = jax.tree.map(shaped, (state, {**rest, "image": image}))
    held = jax.device_get(state)
    del state
    started = time.perf_counter()
    compiled = jit_train_step(step, mesh).lower(*shapes).compile()
    compiling = time.perf_counter() - started

    def begun() -> Any:
        """Makes state and batch and trains a step, which makes the state its own."""
        state = jax.device_put(jax.tree.map(np.array, held), whole)
        batch = partitioning.put_batch({**rest, "image": image}, mesh)
        return jax.block_until_ready(compiled(state, batch)[0]), batch

    begun()
    before = forget_peak()
    state, batch = begun()
    forget_peak()
    started = time.perf_counter()
    jax.block_until_ready(compiled(state, batch))
    seconds = time.perf_counter() - started
    told = memory.of_step(compiled, student, devices=mesh.size)
    plain = student_of({k: v for k, v in case.items() if k not in ("dtype", "remat")})
    return {
        "peak": peak_since(before),
        "compiled": memory.of_program(compiled),
        "plan": memory.estimated(student, devices=mesh.size),
        "held": told.per_image / plain.activation_bytes,
        "compiling": compiling,
        "images_per_second": student.layout.total / seconds,
    }


def forget_peak() -> int:
    """Gives back what is free; returns what the process holds, where that counts."""
    if jax.default_backend() != "cpu":
        return 0
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def peak_since(before: int) -> int:
    """Returns the most that was held since `forget_peak`, beyond what was then."""
    if jax.default_backend() != "cpu":
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    return _status("VmHWM") - before


def _status(field: str) -> int:
    text = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def in_a_process(case: dict[str, Any]) -> dict[str, float]:
    line = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
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

"""The time to a fresh process's first training step, without and with a cache.

    python benchmarks/compile_time.py
    python benchmarks/compile_time.py --only=b7 --layers=flax

Each measurement is a separate process: imports, initial weights, optimizer, tracing,
compiling and one step, timed from its start until that step is done. It runs with an
empty compilation cache, and again with the cache that the first run has filled, as
`noisy-student` keeps it in the user's cache directory. "ours" is 1 / seconds with the
filled cache, "peer" 1 / seconds without, so the ratio is the cache's gain; the seconds
are printed after them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from side_by_side import add_only, case, chosen, parser, show

CASES = {
    # name: (model, resolution, classes, batch)
    "b0": ("b0", 224, 1000, 16),
    "b7": ("b7", 600, 1000, 1),
    "b0_small": ("b0_small", 32, 10, 64),
    "tiny_m": ("tiny_m", 16, 10, 128),
}


def main() -> None:
    command_line = parser(__doc__)
    add_only(command_line)
    command_line.add_argument("--layers", default="auto")
    command_line.add_argument("--depthwise", default="auto")
    command_line.add_argument("--child", help="measure one case in this process")
    options = command_line.parse_args()
    if options.child:
        print(json.dumps(first_step(options)), flush=True)
        return
    cases = []
    named = {
        f"{name} at {side} px, batch {batch}": name
        for name, (_, side, _, batch) in CASES.items()
    }
    for shown, name in chosen(named, options.only).items():
        with tempfile.TemporaryDirectory() as cache:
            empty, filled = (measured(name, cache, options) for _ in range(2))
        cases.append(
            case(
                shown,
                1 / filled["seconds"],
                1 / empty["seconds"],
                without=f"{empty['seconds']:.1f} s {empty['parts']}",
                cached=f"{filled['seconds']:.1f} s {filled['parts']}",
            )
        )
    show(cases, unit="1/s", peers=("flax",), as_json=options.json)


def measured(name: str, cache: str, options: argparse.Namespace) -> dict:
    started = time.perf_counter()
    with subprocess.Popen(
        [
            sys.executable,
            __file__,
            f"--child={name}",
            f"--layers={options.layers}",
            f"--depthwise={options.depthwise}",
        ],
        env=os.environ | {"XDG_CACHE_HOME": cache},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        told = child.stdout.readline()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "parts": json.loads(told)}


def first_step(options: argparse.Namespace) -> dict[str, float]:
    """Returns the seconds of each part of a first step."""
    parts, started = {}, time.perf_counter()

    def note(part: str) -> None:
        nonlocal started
        now = time.perf_counter()
        parts[part] = round(now - started, 1)
        started = now

    import jax
    from our_programs import Ours, TrainingWork

    from noisy_student_jax.core import devices

    devices.keep_freed_memory()
    devices.keep_compiled_programs()
    jax.devices()
    note("import")
    model, side, classes, batch = CASES[options.child]
    arguments = {"layers": options.layers, "depthwise": options.depthwise}
    made = Ours.make(f"efficientnet_{model}", side=side, classes=classes, **arguments)
    work = TrainingWork(made, batch)
    note("initial state")
    work()
    note("first step")
    return parts


if __name__ == "__main__":
    main()

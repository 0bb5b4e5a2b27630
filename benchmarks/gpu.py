"""Training and labeling on one GPU, against timm on the same GPU, in one command.

    pip install 'noisy-student-jax[gpu,bench]'
    python benchmarks/gpu.py --json > gpu.json
    python benchmarks/gpu.py --models=b0 --skip=flags,layouts     # minutes
    python benchmarks/gpu.py --models=b0 --resolution=64 --batch=4 --steps=2  # no GPU

For B0 at 224 px, B3 at 300, B7 at 600 and L2 at 475 with remat:

- *training* in bfloat16: the real step (`TrainStep`, `jit_train_step`) on a batch
  that is on the device, against timm's ``tf_efficientnet`` of the same size with
  channels-last, autocast to bfloat16 and `torch.compile`; both with drop path, dropout,
  label smoothing, L2, RMSProp and a moving average of the weights;
- *labeling*: the labeling program, against timm's in inference mode, compiled;
- *utilization*: FLOPs of the model (analytic; a training step counts as three forward
  passes, without the recomputation of remat) over the rate of one large bfloat16 matrix
  product, measured here by the same framework;
- *parts*: our step's time by convolution, depthwise, normalization, augmentation and
  update, from a profiler's trace of the step with RandAugment in front of it;
- *layouts*: each kind of the model's convolutions, forward and both gradients, with
  channels last and first;
- *flags*: our training again with each XLA flag of `FLAGS`.

Every measurement is a separate process, since each framework keeps all the memory that
it can get; ours and the peer's take turns. The batch is halved until it fits, for each
of them separately. Failures are listed in the result with their last message, and the
rest goes on; without timm, or if PyTorch sees no GPU and JAX does, there is no peer. A
process that takes more than `--patience` seconds is stopped.
"""

import dataclasses
import functools
import importlib.util
import inspect
import json
import os
import pathlib
import statistics
import subprocess
import sys
from typing import Any

import side_by_side

MODELS = {"b0": (224, 512), "b3": (300, 256), "b7": (600, 64), "l2": (475, 64)}
"""Resolution and initial batch."""
REMAT = ("l2",)
FLAGS = {
    "latency hiding": "--xla_gpu_enable_latency_hiding_scheduler=true",
    "channels last": "--xla_gpu_force_conv_nhwc=true",
    "channels first": "--xla_gpu_force_conv_nchw=true",
    "no triton gemm": "--xla_gpu_enable_triton_gemm=false",
    "no command buffers": "--xla_gpu_enable_command_buffer=",
    "autotune exhaustively": "--xla_gpu_exhaustive_tiling_search=true",
    "no autotuning": "--xla_gpu_autotune_level=0",
    "cublaslt": "--xla_gpu_enable_cublaslt=true",
}
"""Each is tried alone. A flag that this XLA does not know ends only its own process."""
SECTIONS = ("training", "labeling", "parts", "layouts", "flags")
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "OutOfMemory", "MemoryError")
_HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Task:
    """The options of a measurement; see ``gpu_work.py``."""

    model: str = ""
    side: int = 0
    batch: int = 0
    steps: int = 20
    remat: bool = False
    dtype: str = "bfloat16"
    size: int = 8192
    compile_peer: bool = True
    patience: float = 1800.0


class Failed(Exception):  # noqa: N818
    """A measurement failed; the message is the last that it printed."""

    out_of_memory = False


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:4])
        return
    parser = side_by_side.parser(__doc__)
    parser.set_defaults(repeats=2)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--resolution", type=int, default=0, help="of all models")
    parser.add_argument("--batch", type=int, default=0, help="to begin with, of all")
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--skip", default="", help=f"of {', '.join(SECTIONS)}; peer")
    parser.add_argument("--patience", type=float, default=1800.0)
    options = parser.parse_args()
    skip = set(filter(None, options.skip.split(",")))
    if unknown := skip - {*SECTIONS, "peer"}:
        parser.error(f"--skip knows {', '.join(SECTIONS)} and peer, not {unknown}")
    if unknown := set(options.models.split(",")) - MODELS.keys():
        parser.error(f"--models knows {', '.join(MODELS)}, not {unknown}")
    result = everything(options, skip)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


def everything(options: Any, skip: set[str]) -> dict[str, Any]:
    ours = run("our_device", Task())
    on_gpu = ours["backend"] != "cpu"
    # The work of a moment on a GPU takes a CPU long.
    base = Task(
        steps=options.steps,
        dtype=options.dtype,
        size=8192 if on_gpu else 512,
        compile_peer=on_gpu,
        patience=options.patience,
    )
    result: dict[str, Any] = {"ours": ours, "cases": [], "failed": []}
    peer = None if "peer" in skip else attempt(result, "the peer", peer_device, ours)
    result["peer"] = peer
    sides = {"our": ours} | ({"peer": peer} if peer else {})
    for who in sides:
        rate = attempt(result, f"{who} matrix", run, f"{who}_matrix_rate", base)
        sides[who] = {**sides[who], **(rate or {})}
    for model in options.models.split(","):
        side, batch = MODELS[model]
        task = dataclasses.replace(
            base,
            model=model,
            side=options.resolution or side,
            batch=options.batch or batch,
            remat=model in REMAT,
        )
        told = functools.partial(attempt, result)
        for what in ("training", "labeling"):
            if what not in skip:
                case = told(f"{model} {what}", compared, what, task, sides, options)
                result["cases"] += [case] if case else []
        fits = fitting(result, task)
        if "parts" not in skip:
            result.setdefault("parts", {})[model] = told(
                f"{model} parts", run, "our_parts", fits, NO_GRAPHS
            )
        if "layouts" not in skip:
            result.setdefault("layouts", {})[model] = told(
                f"{model} layouts", run, "our_layouts", fits
            )
        if "flags" not in skip:
            result.setdefault("flags", {})[model] = {
                name: told(f"{model} flag {flag}", run, "our_training", fits, flag)
                for name, flag in {"none": "", **FLAGS}.items()
            }
    return result


NO_GRAPHS = "--xla_gpu_enable_command_buffer="
"""Inside a CUDA graph, kernels lose the names of their operations."""


def fitting(result: dict[str, Any], task: Task) -> Task:
    """Returns the task with the batch size at which training was measured, if any."""
    for case in result["cases"]:
        if case["name"].startswith(f"{task.model} training"):
            return dataclasses.replace(task, batch=case["our_batch"])
    return task


def peer_device(ours: dict[str, Any]) -> dict[str, Any]:
    if not importlib.util.find_spec("torch") or not importlib.util.find_spec("timm"):
        raise Failed("PyTorch and timm are not installed: pip install torch timm")
    peer = run("peer_device", Task())
    if (peer["backend"] == "cpu") != (ours["backend"] == "cpu"):
        raise Failed(
            f"PyTorch works on {peer['device']} and JAX on {ours['device']}: there is"
            " nothing to compare"
        )
    return peer


def attempt(result: dict[str, Any], what: str, function: Any, *arguments: Any) -> Any:
    """Calls a function; records and reports a failure, and then returns None."""
    print(f"{what} …", file=sys.stderr, flush=True)
    try:
        return function(*arguments)
    except Failed as error:
        print(f"{what} failed: {error}", file=sys.stderr, flush=True)
        result["failed"].append({"what": what, "why": str(error)})
        return None


def compared(
    what: str, task: Task, sides: dict[str, dict[str, Any]], options: Any
) -> dict[str, Any]:
    """Measures ours and the peer's in turns, each at its largest batch that fits."""
    turns: dict[str, list[dict[str, Any]]] = {who: [] for who in sides}
    batches = dict.fromkeys(sides, task.batch)
    broken = {}
    for _ in range(options.repeats):
        for who in sides:
            if who in broken:
                continue
            try:
                own, batches[who] = largest(f"{who}_{what}", task, batches[who])
                turns[who].append(own)
            except Failed as error:
                broken[who] = str(error)
    if not turns["our"]:
        raise Failed(broken["our"])

    def median(who: str) -> float | None:
        if not turns.get(who):
            return None
        return statistics.median(one["images_per_second"] for one in turns[who])

    passes = 3 if what == "training" else 1
    flops = passes * run("our_flops", task)["flops"]
    more: dict[str, Any] = {f"{who}_batch": batches[who] for who in turns}
    for who, own in sides.items():
        if turns[who] and "flops_per_second" in own:
            used = median(who) * flops / own["flops_per_second"]
            more[f"{who}_utilization"] = round(used, 4)
        if turns[who] and "compile_seconds" in turns[who][0]:
            more[f"{who}_first_s"] = round(turns[who][0]["compile_seconds"], 1)
    if broken:
        more["broken"] = broken
    kind = f"{task.dtype}{', remat' if task.remat and what == 'training' else ''}"
    name = f"{task.model} {what} at {task.side} px, {kind}"
    ours, peer = median("our"), median("peer")
    if peer is None:
        return {"name": name, "ours": ours, "peer": None, "ratio": None, **more}
    return side_by_side.case(name, ours, peer, **more)


def largest(name: str, task: Task, batch: int) -> tuple[dict[str, Any], int]:
    """Measures at the given batch, halved until it fits."""
    while True:
        try:
            return run(name, dataclasses.replace(task, batch=batch)), batch
        except Failed as error:
            if not error.out_of_memory or batch == 1:
                raise
            batch //= 2


def run(name: str, task: Task, flags: str = "") -> Any:
    """Measures in a separate process.

    Raises:
      Failed: the process failed or timed out.
    """
    environment = dict(os.environ)
    if flags:
        given = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{given} {flags}".strip()
    command = [sys.executable, __file__, "--measure", name]
    command.append(json.dumps(dataclasses.asdict(task)))
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=task.patience,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"not over after {task.patience:g} s") from None
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = [line for line in done.stderr.splitlines() if line.strip()]
    failed = Failed(last_words(said, done.returncode))
    # The system kills a process that takes all of its memory.
    failed.out_of_memory = done.returncode == -9 or any(
        words in line for line in said for words in _OUT_OF_MEMORY
    )
    raise failed


def last_words(said: list[str], status: int) -> str:
    """Returns the most informative line of a failure."""
    telling = [
        line for line in said if any(words in line for words in _OUT_OF_MEMORY)
    ] or [line for line in said if "Unknown flag" in line]
    return (telling or said or [f"ended with {status}"])[-1].strip()[:300]


def measure(name: str, task: str) -> None:
    """Measures in the process that `run` has started."""
    import gpu_work

    given = json.loads(task)
    function = getattr(gpu_work, name)
    wanted = inspect.signature(function).parameters
    print(json.dumps(function(**{key: given[key] for key in wanted})))


def show(result: dict[str, Any]) -> None:
    print(f"ours: {result['ours']['device']}; peer: {result['peer']}")
    compared = [one for one in result["cases"] if one["ratio"]]
    if compared:
        side_by_side.show(compared, unit="images/s")
    for one in result["cases"]:
        if not one["ratio"]:
            print(f"{one['name']}: {one['ours']:.1f} images/s, and no peer")
    for model, own in result.get("parts", {}).items():
        if own:
            parts = ", ".join(f"{name} {ms:.1f}" for name, ms in own["ms"].items())
            print(
                f"{model}: {own['ms_per_step']:.1f} ms a step; of the device's time, in"
                f" ms: {parts}, without a name {own['unnamed_ms']:.1f}"
            )
    for model, kinds in result.get("layouts", {}).items():
        for kind in kinds or []:
            print(
                f"{model}: {kind['images']} by {kind['kernel']}/{kind['stride']}"
                f"{' depthwise' if kind['depthwise'] else ''}: channels last"
                f" {kind['nhwc_ms']:.2f} ms, first {kind['nchw_ms']:.2f} ms"
            )
    for model, flags in result.get("flags", {}).items():
        for name, own in flags.items():
            if own:
                print(f"{model}, {name}: {own['images_per_second']:.1f} images/s")
    for one in result["failed"]:
        print(f"failed: {one['what']}: {one['why']}")


if __name__ == "__main__":
    sys.path.insert(0, str(_HERE))
    main()

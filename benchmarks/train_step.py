"""The training step on this machine, against PyTorch on equal models.

    pip install 'noisy-student-jax[bench]'
    python benchmarks/train_step.py
    python benchmarks/train_step.py --only=b0 --plain          # what `plain` costs
    python benchmarks/train_step.py --let-go                   # memory given back
    python benchmarks/train_step.py --only resnet50 wrn_28_2   # and their losses

A step of either side takes un-normalized bytes through the forward pass with dropout
and stochastic depth, label-smoothed cross entropy with L2, the backward pass, RMSProp
and the moving average of the weights. The peer of B0 is geffnet's
``tf_efficientnet_b0``, that of the others the same table of shapes in PyTorch
(`torch_twin`); all are channels-last and eager, with as many threads as there are
cores. As in `noisy-student`, freed memory stays in the process
(`devices.keep_freed_memory`), which helps the peer too; ``--let-go`` keeps glibc's own
settings, and ``--plain`` measures ours with Flax's layers and XLA's grouped convolution
instead of the peer.

The detector's step is that of ``configs/boxes.py`` on a CPU: AdamW, and 20 boxes of
each image in 60 places. Its peer (`torch_detector`) has the same weights at first; its
loss and the norm of its gradient are compared with ours before anything is timed: the
relative differences are "loss_apart", at most 1e-4, and "gradient_apart", at most 1e-2
(PyTorch's in float32 is 1e-3 from its own in float64 where all is trained).
"recompiled" is the number of programs that steps on images of 0, 1, 20 and 60 boxes
compile after the first step.

A residual network's step is SGD with momentum on true labels. Its peer
(`torch_residual`) has the same weights at first, and before anything is timed the
losses of both over a hundred steps (``--curve``) are compared, on the same images and
without dropout and stochastic depth: "first_apart" is the largest relative difference
of the first five, at most 1e-4, "curve_apart" the mean difference over all, and
"rounding" that between PyTorch's own losses in float32 and in float64.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import geffnet
import jax
import numpy as np
import torch
from our_programs import OurDetector, OurResidual, Ours, TrainingWork
from side_by_side import Work, add_only, case, chosen, parser, rates, show
from torch_detector import detector_step, loss_and_norm
from torch_residual import curves_apart, residual_step
from torch_twin import torch_twin

from noisy_student_jax.core import devices
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.models import architectures

CASES = (
    # model, resolution, classes, batch
    ("b0", 224, 1000, 16),
    ("b0_small", 32, 10, 64),
    ("tiny_m", 16, 10, 128),
    ("mini_m", 64, 10, 64),
)
DETECTORS = (
    # backbone, resolution, classes, batch, frozen blocks
    ("lite0", 192, 3, 8, 10),
    ("lite0", 192, 3, 8, -1),
    ("lite0", 192, 3, 24, 10),
)
RESIDUAL = (
    # model, resolution, classes, batch
    ("wrn_28_2", 32, 10, 64),
    ("resnet50", 224, 1000, 16),
)
PLAIN = {"depthwise": "grouped", "layers": "flax"}
TOLERANCES = {"loss": 1e-4, "gradient": 1e-2}
COMPILES = "/jax/core/compile/backend_compile_duration"


def main() -> None:
    command_line = parser(__doc__)
    add_only(command_line)
    command_line.add_argument("--plain", action="store_true")
    command_line.add_argument("--let-go", action="store_true")
    command_line.add_argument("--curve", type=int, default=100, help="steps compared")
    options = command_line.parse_args()
    if not options.let_go:
        devices.keep_freed_memory()
    cases = []
    for name, (make, batch) in chosen(made(), options.only).items():
        ours, found = make(), {}
        work = TrainingWork(ours, batch)
        if options.plain:
            peer: Work = TrainingWork(make(**PLAIN), batch)
        elif isinstance(ours, OurDetector):
            found = checked(ours, work, batch)
            peer = detector_step(ours, batch)
        elif isinstance(ours, OurResidual):
            found = curves_apart(ours, work, batch, options.curve)
            peer = residual_step(ours, batch)
        else:
            peer = torch_step(ours, batch)
        rate = rates(
            {"ours": work, "peer": peer},
            repeats=options.repeats,
            seconds=options.seconds,
        )
        cases.append(case(name, **rate, **found))
    show(
        cases, unit="images/s", peers=("flax", "torch", "geffnet"), as_json=options.json
    )


def made() -> dict[str, tuple[Callable[..., Ours], int]]:
    """Returns what makes our side of each case, given its layers, and its batch."""
    named = {}
    for model, side, classes, batch in CASES:
        make = functools.partial(
            Ours.make, f"efficientnet_{model}", side=side, classes=classes
        )
        named[f"{model} at {side} px, batch {batch}"] = make, batch
    for model, side, classes, batch in RESIDUAL:
        make = functools.partial(
            OurResidual.make, model, side=side, classes=classes, dropout_rate=0.2
        )
        named[f"{model} at {side} px, batch {batch}"] = make, batch
    for model, side, classes, batch, frozen in DETECTORS:
        make = functools.partial(
            OurDetector.make,
            f"fcos_{model}",
            side=side,
            classes=classes,
            frozen_blocks=frozen,
        )
        part = f"{frozen} blocks frozen" if frozen >= 0 else "all trained"
        named[f"fcos_{model} at {side} px, batch {batch}, {part}"] = make, batch
    return named


def checked(ours: OurDetector, work: TrainingWork, count: int) -> dict[str, Any]:
    """Compares a detector's first step with PyTorch's, and counts compilations.

    Args:
      ours: the detector.
      work: its step, not taken yet.
      count: images of a step.

    Returns:
      ``loss_apart``, ``gradient_apart`` and ``recompiled``, see the module.

    Raises:
      SystemExit: the two do not compute the same.
    """
    batch = ours.batch(BatchLayout(count, 0))
    quiet = {name: np.zeros_like(value) for name, value in batch["noise"].items()}
    first = work.step(work.placed({**batch, "noise": quiet}))
    mine = first["labeled/loss"], first["gradient_norm"]
    theirs, found = loss_and_norm(ours, count), {}
    for (what, most), own, other in zip(TOLERANCES.items(), mine, theirs, strict=True):
        apart = abs(float(own) / other - 1)
        if not apart <= most:
            raise SystemExit(f"{what}: ours is {float(own)}, PyTorch's {other}")
        found[f"{what}_apart"] = f"{apart:.0e}"
    with compilations() as compiled:
        for boxes in (0, 1, ours.BOXES, ours.PLACES):
            labels = ours.labels(count, boxes)
            work.step(work.placed({**batch, "target": ours.task.targets(labels)}))
    return {**found, "recompiled": len(compiled)}


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Lists the programs that are compiled meanwhile."""
    found: list[str] = []

    def listen(event: str, seconds: float, fun_name: str = "", **_: Any) -> None:
        if event == COMPILES:
            found.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def torch_step(ours: Ours, batch: int) -> Work:
    """Returns a work that does the same step in PyTorch."""
    torch.manual_seed(0)
    model = ours.name.removeprefix("efficientnet_")
    if model == "b0":
        module = geffnet.create_model(
            "tf_efficientnet_b0", drop_rate=0.2, drop_connect_rate=0.2
        )
    else:
        module = torch_twin(architectures.MEMBERS[model], outputs=ours.task.outputs)
    module = module.to(memory_format=torch.channels_last).train()
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) * 255
        for values in (ours.preprocessing.mean, ours.preprocessing.std)
    )
    weights = list(module.parameters())
    average = [weight.detach().clone() for weight in weights]
    decayed, rest = (
        [w for w in weights if (w.ndim > 1) == matrix] for matrix in (True, False)
    )
    optimizer = torch.optim.RMSprop(
        [{"params": decayed, "weight_decay": 1e-5}, {"params": rest}],
        lr=0.016,
        alpha=0.9,
        eps=1e-3,
        momentum=0.9,
        foreach=True,
    )
    # Channels-last in memory.
    pixels = torch.from_numpy(ours.images(batch)).permute(0, 3, 1, 2)
    targets = torch.randint(ours.task.outputs, (batch,))

    def work() -> int:
        optimizer.zero_grad(set_to_none=True)
        logits = module((pixels.float() - mean) / std)
        torch.nn.functional.cross_entropy(
            logits, targets, label_smoothing=0.1
        ).backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, [w.detach() for w in weights], 1e-4)
        return batch

    return work


if __name__ == "__main__":
    main()

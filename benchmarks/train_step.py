"""The training step on this machine against PyTorch's, on equal models.

    pip install 'noisy-student-jax[bench]'
    python benchmarks/train_step.py
    python benchmarks/train_step.py --only=b0 --plain          # what `plain` costs
    python benchmarks/train_step.py --let-go                   # memory given back

One step of either side: un-normalised bytes in, forward pass with dropout and
stochastic depth, label-smoothed cross entropy with L2, backward pass, RMSProp, moving
average of the weights. The peer of B0 is geffnet's ``tf_efficientnet_b0``, that of the
others the same table of shapes in PyTorch (`torch_twin`); all channels-last, eager,
with as many threads as there are cores. As in `noisy-student`, freed memory stays in
the process (`devices.keep_freed_memory`), which helps the peer too; ``--let-go`` leaves
glibc as it is, and ``--plain`` measures ours with Flax's layers and XLA's grouped
convolution instead of the peer.
"""

import functools
from collections.abc import Callable

import geffnet
import jax
import numpy as np
import torch
from side_by_side import case, parser, rates, show
from torch_twin import torch_twin

from noisy_student_jax import devices, models
from noisy_student_jax.models import architectures
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.tasks.base import LossOptions
from noisy_student_jax.tasks.classification import Classification
from noisy_student_jax.training import optimizer as optimizers
from noisy_student_jax.training import partitioning
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import StepOptions, jit_train_step, make_train_step

CASES = {
    # name: (model, resolution, classes, batch)
    "b0": ("b0", 224, 1000, 16),
    "b0_small": ("b0_small", 32, 10, 64),
    "tiny_m": ("tiny_m", 16, 10, 128),
    "mini_m": ("mini_m", 64, 10, 64),
}


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--only", nargs="*", default=list(CASES))
    command_line.add_argument("--plain", action="store_true")
    command_line.add_argument("--let-go", action="store_true")
    options = command_line.parse_args()
    if not options.let_go:
        devices.keep_freed_memory()
    cases = []
    for name in options.only:
        model, side, classes, batch = CASES[name]
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (batch, side, side, 3), np.uint8)
        labels = rng.integers(0, classes, batch)
        ours = our_step(model, images, labels, classes)
        if options.plain:
            plain = {"depthwise": "grouped", "layers": "flax"}
            peer = our_step(model, images, labels, classes, **plain)
        else:
            peer = torch_step(model, images, labels, classes)
        rate = rates(
            {"ours": ours, "peer": peer},
            repeats=options.repeats,
            seconds=options.seconds,
        )
        cases.append(case(f"{model} at {side} px, batch {batch}", **rate))
    show(
        cases, unit="images/s", peers=("flax", "torch", "geffnet"), as_json=options.json
    )


def our_step(
    model: str, images: np.ndarray, labels: np.ndarray, classes: int, **arguments: str
) -> Callable[[], int]:
    module = models.create(f"efficientnet_{model}", outputs=classes, **arguments)
    mean, std = models.normalization(f"efficientnet_{model}")
    task = Classification(tuple(str(number) for number in range(classes)))
    options = optimizers.OptimizerOptions(
        "rmsprop", 0.016, "constant", 2.4, 0.97, 5, 0.9, 1e-5
    )
    schedule = optimizers.make_schedule(options, batch=256, steps=1, steps_per_epoch=1)
    optimizer = optimizers.make_optimizer(options, schedule)
    step = make_train_step(
        module,
        functools.partial(task.loss, options=LossOptions(label_smoothing=0.1)),
        optimizer,
        schedule,
        StepOptions(ratio=0.0, weight_decay=1e-5),
        mean=mean,
        std=std,
    )
    mesh = partitioning.make_mesh()
    compiled = jit_train_step(step, mesh)
    state = TrainState.create(
        initialize(module, resolution=images.shape[1], seed=0),
        optimizer,
        seed=0,
        generation=0,
    )
    state = jax.device_put(state, partitioning.replicated(mesh))
    ones = np.ones(len(images), np.float32)
    batch = partitioning.put_batch(
        {
            "image": images,
            "target": task.targets(labels),
            "weight": ones,
            "stream": np.zeros(len(images), np.int32),
            "noise": {"dropout": ones, "stochastic_depth": ones},
        },
        mesh,
    )

    def work() -> int:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics["loss"])
        return len(images)

    return work


def torch_step(
    model: str, images: np.ndarray, labels: np.ndarray, classes: int
) -> Callable[[], int]:
    torch.manual_seed(0)
    if model == "b0":
        module = geffnet.create_model(
            "tf_efficientnet_b0", drop_rate=0.2, drop_connect_rate=0.2
        )
    else:
        module = torch_twin(architectures.MEMBERS[model], outputs=classes)
    module = module.to(memory_format=torch.channels_last).train()
    mean = (
        torch.tensor(models.normalization(f"efficientnet_{model}")[0]).view(1, 3, 1, 1)
        * 255
    )
    std = (
        torch.tensor(models.normalization(f"efficientnet_{model}")[1]).view(1, 3, 1, 1)
        * 255
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
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels-last in memory
    targets = torch.from_numpy(labels)

    def work() -> int:
        optimizer.zero_grad(set_to_none=True)
        logits = module((pixels.float() - mean) / std)
        torch.nn.functional.cross_entropy(
            logits, targets, label_smoothing=0.1
        ).backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, [w.detach() for w in weights], 1e-4)
        return len(images)

    return work


if __name__ == "__main__":
    main()

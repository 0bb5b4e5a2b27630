"""The training step on this machine, against PyTorch on equal models.

    pip install 'noisy-student-jax[bench]'
    python benchmarks/train_step.py
    python benchmarks/train_step.py --only=b0 --plain          # what `plain` costs
    python benchmarks/train_step.py --let-go                   # memory given back

A step of either side takes un-normalized bytes through the forward pass with dropout
and stochastic depth, label-smoothed cross entropy with L2, the backward pass, RMSProp
and the moving average of the weights. The peer of B0 is geffnet's
``tf_efficientnet_b0``, that of the others the same table of shapes in PyTorch
(`torch_twin`); all are channels-last and eager, with as many threads as there are
cores. As in `noisy-student`, freed memory stays in the process
(`devices.keep_freed_memory`), which helps the peer too; ``--let-go`` keeps glibc's own
settings, and ``--plain`` measures ours with Flax's layers and XLA's grouped convolution
instead of the peer.
"""

import geffnet
import torch
from our_programs import Ours, training_work
from side_by_side import Work, add_only, case, chosen, parser, rates, show
from torch_twin import torch_twin

from noisy_student_jax.core import devices
from noisy_student_jax.models import architectures

CASES = (
    # model, resolution, classes, batch
    ("b0", 224, 1000, 16),
    ("b0_small", 32, 10, 64),
    ("tiny_m", 16, 10, 128),
    ("mini_m", 64, 10, 64),
)


def main() -> None:
    command_line = parser(__doc__)
    add_only(command_line)
    command_line.add_argument("--plain", action="store_true")
    command_line.add_argument("--let-go", action="store_true")
    options = command_line.parse_args()
    if not options.let_go:
        devices.keep_freed_memory()
    cases = []
    named = {f"{one[0]} at {one[1]} px, batch {one[3]}": one for one in CASES}
    for name, (model, side, classes, batch) in chosen(named, options.only).items():
        made = {"side": side, "classes": classes}
        ours = Ours.make(f"efficientnet_{model}", **made)
        if options.plain:
            plain = {"depthwise": "grouped", "layers": "flax"}
            plain = Ours.make(f"efficientnet_{model}", **made, **plain)
            peer = training_work(plain, batch)
        else:
            peer = torch_step(ours, batch)
        ours = training_work(ours, batch)
        rate = rates(
            {"ours": ours, "peer": peer},
            repeats=options.repeats,
            seconds=options.seconds,
        )
        cases.append(case(name, **rate))
    show(
        cases, unit="images/s", peers=("flax", "torch", "geffnet"), as_json=options.json
    )


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

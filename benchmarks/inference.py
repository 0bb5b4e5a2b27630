"""The forward pass of labeling on this machine, against PyTorch and onnxruntime.

    pip install 'noisy-student-jax[bench,onnx]'
    python benchmarks/inference.py

All take bytes and return probabilities, in batches, with as many threads as there are
cores. Ours is the labeling program (`evaluation.predictor.Predictor`). The peers are
geffnet's ``tf_efficientnet_b0`` channels-last and eager; the same shapes with batch
norm folded into the convolutions (`torch_twin`); and onnxruntime with our exported
model, which it optimizes and folds itself. Each case compares with one peer.
"""

import geffnet
import numpy as np
import onnxruntime
import torch
from our_programs import Ours
from side_by_side import Work, add_only, case, chosen, parser, rates, show
from torch_twin import fold_batch_norm, torch_twin

from noisy_student_jax.core import devices
from noisy_student_jax.interop.export.to_onnx import INPUT, model_bytes
from noisy_student_jax.models import architectures
from noisy_student_jax.models.bundle import Bundle

CASES = (
    # model, resolution, classes, batch
    ("b0", 224, 1000, 32),
    ("b0_small", 32, 10, 256),
    ("tiny_m", 16, 10, 256),
)
BATCHES = 4


def main() -> None:
    command_line = parser(__doc__)
    add_only(command_line)
    command_line.add_argument("--batch", type=int, help="images at once, in all cases")
    options = command_line.parse_args()
    devices.keep_freed_memory()
    cases = []
    asked = [(*one, options.batch or batch) for *one, batch in CASES]
    named = {f"{one[0]} at {one[1]} px, batch {one[3]}": one for one in asked}
    for name, (model, side, classes, batch) in chosen(named, options.only).items():
        made = Ours.make(f"efficientnet_{model}", side=side, classes=classes)
        works = {
            "ours": predicting(made, batch),
            "PyTorch": pytorch(made, batch, folded=False),
            "PyTorch, folded": pytorch(made, batch, folded=True),
            "onnxruntime": onnx(made, batch),
        }
        rate = rates(works, repeats=options.repeats, seconds=options.seconds)
        cases += [
            case(f"{name}, {peer}", rate["ours"], rate[peer])
            for peer in list(works)[1:]
        ]
    peers = ("flax", "torch", "geffnet", "onnxruntime")
    show(cases, unit="images/s", peers=peers, as_json=options.json)


def predicting(made: Ours, batch: int) -> Work:
    """Returns a work that labels some batches as the loop does."""
    predictor, placed = made.predictor(batch)
    images = made.images(BATCHES * batch)

    def work() -> int:
        predictor(placed, images)
        return len(images)

    return work


def pytorch(made: Ours, batch: int, *, folded: bool) -> Work:
    """Returns a work that does the same in PyTorch."""
    model = made.name.removeprefix("efficientnet_")
    if model == "b0" and not folded:
        module = geffnet.create_model("tf_efficientnet_b0")
    else:
        module = torch_twin(architectures.MEMBERS[model], outputs=made.task.outputs)
    module = module.eval()
    if folded:
        fold_batch_norm(module)
    module = module.to(memory_format=torch.channels_last)
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) * 255
        for values in (made.preprocessing.mean, made.preprocessing.std)
    )
    # Channels-last in memory.
    pixels = torch.from_numpy(made.images(batch)).permute(0, 3, 1, 2)

    def work() -> int:
        with torch.inference_mode():
            module((pixels.float() - mean) / std).softmax(-1).numpy()
        return batch

    return work


def onnx(made: Ours, batch: int) -> Work:
    """Returns a work that does the same in onnxruntime, with our exported model."""
    bundle = Bundle(
        made.name,
        {"outputs": made.task.outputs},
        made.preprocessing,
        task="classification",
        classes=made.task.classes,
        variables=made.variables,
        origin={},
        trained_on=np.zeros(0, np.uint64),
    )
    session = onnxruntime.InferenceSession(
        model_bytes(bundle, preprocess=False), providers=["CPUExecutionProvider"]
    )
    mean, std = (
        np.float32(values) * 255
        for values in (made.preprocessing.mean, made.preprocessing.std)
    )
    images = made.images(batch)

    def work() -> int:
        normalized = (images.astype(np.float32) - mean) / std
        sent = {INPUT: np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))}
        session.run(["probabilities"], sent)
        return batch

    return work


if __name__ == "__main__":
    main()

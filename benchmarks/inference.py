"""Labelling's forward pass on this machine against PyTorch and onnxruntime.

    pip install 'noisy-student-jax[bench,onnx]'
    python benchmarks/inference.py

Bytes in, probabilities out, in batches, with as many threads as there are cores. Ours
is the program that labels (`evaluation.predictor.Predictor`). The peers: geffnet's
``tf_efficientnet`` channels-last and eager, as it is and with batch norm folded into
its convolutions (`torch.fx`); onnxruntime with our exported model, which it optimises
and folds for itself. Each case is one peer's.
"""

from collections.abc import Callable

import geffnet
import numpy as np
import onnxruntime
import torch
from side_by_side import case, parser, rates, show
from torch.fx.experimental.optimization import fuse
from torch_twin import torch_twin

from noisy_student_jax import devices, models
from noisy_student_jax.checkpoints.bundle import Bundle
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.exporting.to_onnx import INPUT, model_bytes
from noisy_student_jax.models import architectures
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.preprocessing import Preprocessing
from noisy_student_jax.tasks.classification import Classification

CASES = {
    # name: (model, resolution, classes, batch)
    "b0": ("b0", 224, 1000, 32),
    "b0_small": ("b0_small", 32, 10, 256),
    "tiny_m": ("tiny_m", 16, 10, 256),
}


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--only", nargs="*", default=list(CASES))
    options = command_line.parse_args()
    devices.keep_freed_memory()
    cases = []
    for name in options.only:
        model, side, classes, batch = CASES[name]
        images = np.random.default_rng(0).integers(
            0, 256, (batch, side, side, 3), np.uint8
        )
        module = models.create(f"efficientnet_{model}", outputs=classes)
        variables = initialize(module, resolution=side, seed=0)
        mean, std = models.normalization(f"efficientnet_{model}")
        preprocessing = Preprocessing(side, mean=mean, std=std)
        task = Classification(tuple(str(number) for number in range(classes)))
        works = {
            "ours": ours(task, module, variables, preprocessing, images),
            "PyTorch": pytorch(model, classes, preprocessing, images, folded=False),
            "PyTorch, folded": pytorch(
                model, classes, preprocessing, images, folded=True
            ),
            "onnxruntime": onnx(model, task, module, variables, preprocessing, images),
        }
        rate = rates(works, repeats=options.repeats, seconds=options.seconds)
        cases += [
            case(f"{model} at {side} px, {peer}", rate["ours"], rate[peer])
            for peer in list(works)[1:]
        ]
    peers = ("flax", "torch", "geffnet", "onnxruntime")
    show(cases, unit="images/s", peers=peers, as_json=options.json)


def ours(task, module, variables, preprocessing, images) -> Callable[[], int]:
    predictor = Predictor(task, module, preprocessing, batch=len(images))
    placed = predictor.place(variables)

    def work() -> int:
        predictor(placed, images)
        return len(images)

    return work


def pytorch(model, classes, preprocessing, images, *, folded) -> Callable[[], int]:
    if model == "b0":
        module = geffnet.create_model("tf_efficientnet_b0")
    else:
        module = torch_twin(architectures.MEMBERS[model], outputs=classes)
    module = module.eval()
    if folded:
        module = fuse(module)
    module = module.to(memory_format=torch.channels_last)
    mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1) * 255
    std = torch.tensor(preprocessing.std).view(1, 3, 1, 1) * 255
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels-last in memory

    def work() -> int:
        with torch.inference_mode():
            module((pixels.float() - mean) / std).softmax(-1).numpy()
        return len(images)

    return work


def onnx(model, task, module, variables, preprocessing, images) -> Callable[[], int]:
    bundle = Bundle(
        f"efficientnet_{model}",
        {"outputs": task.outputs},
        preprocessing,
        task="classification",
        classes=task.classes,
        variables=variables,
    )
    session = onnxruntime.InferenceSession(
        model_bytes(bundle, preprocess=False), providers=["CPUExecutionProvider"]
    )
    mean, std = (np.float32(v) * 255 for v in (preprocessing.mean, preprocessing.std))

    def work() -> int:
        normalized = (images.astype(np.float32) - mean) / std
        sent = {INPUT: np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))}
        session.run(["probabilities"], sent)
        return len(images)

    return work


if __name__ == "__main__":
    main()

"""Imported weights against geffnet, the origin of timm's names and layouts.

    pip install torch geffnet
    python benchmarks/parity.py                          # B0-B7, Lite0-2
    python benchmarks/parity.py --models=b0,lite0 --json
    python benchmarks/parity.py --golden=tests/interop/golden_geffnet.json

For each model every tensor is drawn at random. Batch statistics are drawn within a
tenth of those of the images, since deep networks with any others are chaotic, and
float32 does not determine their logits (the distance of geffnet from its own float64 is
printed). geffnet's model takes the tensors and saves them with `torch.save` (in its old
format for Lite); the file is imported; and both models read the same random images at
the model's own resolution and at the next odd one. The output is the largest difference
between their logits relative to the largest logit and, for scale, the difference
between the logits of the two images. The exit status is 1 if any difference is above
1e-4.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import io
import json
import pathlib
import sys
import tempfile
import time

import geffnet
import jax
import numpy as np
import torch

from noisy_student_jax import models
from noisy_student_jax.interop import foreign, published, timm_names
from noisy_student_jax.models.bundle import Bundle

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from foreign_weights import seeded, seeded_images, shapes_there  # noqa: E402

MODELS = (*(f"b{number}" for number in range(8)), "lite0", "lite1", "lite2")
TOLERANCE = 1e-4
GOLDEN_MODELS, GOLDEN_SIDES, GOLDEN_OUTPUTS = ("b0", "lite0"), (64, 75), 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--golden", type=pathlib.Path, help="write what tests expect")
    options = parser.parse_args()
    if options.golden:
        options.golden.write_text(json.dumps(golden(), indent=1) + "\n")
        return 0
    cases = []
    for member in options.models.split(","):
        for case in measure(f"efficientnet_{member}"):
            cases.append(case)
            if not options.json:
                print(
                    f"{case['model']:<20}{case['side']:>5}  difference"
                    f" {case['difference']:.1e}  geffnet and its float64"
                    f" {case['theirs']:.1e}  between images {case['spread']:.2f}"
                    f"  geffnet {case['theirs_s']:.1f} s, ours {case['ours_s']:.1f} s"
                    " with compilation",
                    flush=True,
                )
    if options.json:
        print(json.dumps({"cases": cases}))
    return int(any(case["difference"] > TOLERANCE for case in cases))


def geffnet_model(model: str, outputs: int) -> torch.nn.Module:
    """Makes geffnet's model; it has L2 only under its weights' name."""
    name = timm_names.model_name(model)
    name += "_ns" if name.endswith("l2") else ""
    with contextlib.redirect_stdout(io.StringIO()):
        return getattr(geffnet, name)(num_classes=outputs).eval()


def loaded(model: str, outputs: int) -> torch.nn.Module:
    module = geffnet_model(model, outputs)
    tensors = seeded(shapes_there(model, outputs))
    missing, unexpected = module.load_state_dict(
        {name: torch.from_numpy(array) for name, array in tensors.items()},
        strict=False,
    )
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return module


def settle(module: torch.nn.Module, images: np.ndarray) -> None:
    """Sets batch statistics at random around those of the images."""
    norms = [one for one in module.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    module.train()
    their_logits(module, images)
    module.eval()
    rng = np.random.default_rng(0)
    for norm in norms:
        shape = norm.running_var.shape
        off = torch.from_numpy(rng.random((2, *shape)).astype(np.float32) - 0.5)
        norm.running_mean += 0.2 * off[0] * norm.running_var.sqrt()
        norm.running_var *= 1 + 0.2 * off[1]


def their_logits(module: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return module(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def measure(model: str) -> list[dict]:
    resolution = models.resolution(model)
    return [compare(model, side) for side in (resolution, resolution + 1)]


def compare(model: str, side: int) -> dict:
    images = seeded_images(2, side)
    theirs = loaded(model, 1000)
    settle(theirs, images)
    bundle = imported(theirs, model)
    ours = models.create(model, **bundle.arguments)
    apply = jax.jit(lambda images: ours.apply(bundle.variables, images)["logits"])
    started = time.perf_counter()
    expected = their_logits(theirs, images)
    between = time.perf_counter()
    got = np.asarray(apply(images))
    ended = time.perf_counter()
    exact = their_logits(theirs.double(), images.astype(np.float64))
    largest = np.abs(expected).max()
    return {
        "model": model,
        "side": side,
        "difference": float(np.abs(got - expected).max() / largest),
        "theirs": float(np.abs(expected - exact).max() / largest),
        "spread": float(np.abs(expected[0] - expected[1]).max() / largest),
        "theirs_s": between - started,
        "ours_s": ended - between,
    }


def imported(theirs: torch.nn.Module, model: str) -> Bundle:
    """Imports the file that `torch.save` wrote of geffnet's model."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "weights.pth"
        torch.save(
            theirs.state_dict(),
            path,
            _use_new_zipfile_serialization="lite" not in model,
        )
        return foreign.from_tensors(
            foreign.read(path),
            model,
            preprocessing=published.preprocessing(model, layout="timm"),
            source=path.name,
            layout="timm",
        )


def golden() -> dict:
    """Returns the values that tests compare with, so that they need no PyTorch."""
    structure = {}
    for model in timm_names.MODELS:
        with torch.device("meta"):
            tensors = geffnet_model(model, 1000).state_dict()
        lines = sorted(
            f"{name} {list(tensor.shape)}"
            for name, tensor in tensors.items()
            if not name.endswith("num_batches_tracked")
        )
        structure[model] = {
            "tensors": len(lines),
            "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        }
    logits = []
    for member in GOLDEN_MODELS:
        theirs = loaded(f"efficientnet_{member}", GOLDEN_OUTPUTS)
        for side in GOLDEN_SIDES:
            values = their_logits(theirs, seeded_images(2, side))
            rounded = [[float(f"{one:.7g}") for one in row] for row in values]
            logits.append({"member": member, "side": side, "logits": rounded})
    return {
        "written_by": "benchmarks/parity.py --golden",
        "torch": torch.__version__,
        "geffnet": importlib.metadata.version("geffnet"),
        "structure": structure,
        "logits": logits,
    }


if __name__ == "__main__":
    sys.exit(main())

"""torchvision's FCOS beside the control of `detection`, on the same weights and images.

    pip install 'noisy-student-jax[bench,pretrained]'
    python benchmarks/detection.py DATA --seeds=0
    python benchmarks/torchvision_fcos.py DATA --seeds=0

The runs of `detection` in ``--workdir`` are to be finished. For each, this trains
``torchvision.models.detection.FCOS`` on the labeled images (`torchvision_detector`):
the same ImageNet weights in the same backbone, the same blocks frozen, input size and
number of image draws as C; pyramid and head of torchvision's own design and width;
AdamW with warm-up and cosine; and as noise the mirror, color, scale and place of
``torchvision.transforms.v2``. Of ``--rates``, the one with the highest AP on validation
images is tested. Our `average_precision` measures both. C predicts from an image and
its mirror, torchvision from the image.
"""

import argparse
import json
import pathlib
import sys
import time
from typing import Any

import box_sets
import numpy as np
import torch
from detection import METRICS, RESULTS, difference, write
from torchvision_detector import MODEL, check_features, detector, predictions, train

from noisy_student_jax import models
from noisy_student_jax.images.decode import Decoding
from noisy_student_jax.images.preprocessing import LETTERBOX, Preprocessing
from noisy_student_jax.tasks.detection.task import Detection


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--sets", default=",".join(box_sets.STOCKS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/detection")
    parser.add_argument("--rates", default="0.0005,0.0015,0.004")
    parser.add_argument("--width", type=int, default=256, help="of pyramid and head")
    parser.add_argument("--batch", type=int, help="images of a step; else as many as C")
    parser.add_argument("--draws", type=int, help="for a trial; else as many as C")
    options = parser.parse_args()
    for name in options.sets.split(","):
        seeds = map(int, options.seeds.split(","))
        rows = [results(name, seed, options) for seed in seeds]
        print(table(name, rows), flush=True)


def results(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Returns a row of metrics of C and of torchvision's, which is kept."""
    workdir, labels = options.workdir.resolve(), options.labels
    folder = box_sets.deal(name, options.data, workdir / "sets", seed, labels)
    run, row = workdir / name / f"run_{seed}_of_{labels}", f"{name}_{seed}_of_{labels}"
    finished = RESULTS / f"{row}.json"
    if not (finished.is_file() and run.is_dir()):
        sys.exit(f"there is no '{finished}' or '{run}': run benchmarks/detection.py")
    asked = like(read(run / "config.json")["control"], options)
    kept = workdir if options.draws else RESULTS
    kept /= f"torchvision_{options.width}_{row}.json"
    if not kept.is_file() or read(kept)["asked"] != asked:
        classes = tuple(read(run / "summary.json")["classes"])
        found = {"asked": asked, **rival(folder, classes, seed=seed, **asked)}
        write(kept, found)
    return {"C": read(finished)["arms"]["C"], **read(kept)}


def like(control: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `rival` that give it as many image draws as C."""
    train, side = control["train"], control["model"]["resolution"]
    drawn = round(train["batch"] * (1 + train["ratio"]))
    batch = options.batch or drawn
    frozen = train["frozen_blocks"]
    return {
        "side": side,
        "batch": batch,
        "steps": (options.draws or train["steps"] * drawn) // batch,
        "rates": [float(rate) for rate in options.rates.split(",")],
        "width": options.width,
        "frozen_blocks": -1 if frozen is None else frozen,
    }


def read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rival(
    folder: pathlib.Path,
    classes: tuple[str, ...],
    *,
    seed: int,
    side: int,
    steps: int,
    batch: int,
    rates: list[float],
    **built: int,
) -> dict[str, Any]:
    """Trains torchvision's detector at each rate, and tests the best one.

    Args:
      folder: of a dealt set.
      classes: their names.
      seed: of weights and noise.
      side: of the images, in pixels.
      steps: of a training.
      batch: images of a step.
      rates: peak learning rates.
      **built: see `detector`.
    """
    begun, task = time.monotonic(), Detection(classes)
    images = {
        part: opened(task, folder / part, side)
        for part in ("labeled", "validation", "test")
    }

    def judged(model: torch.nn.Module, part: str) -> dict[str, float]:
        pixels, labels = images[part]
        return task.metrics(predictions(model, pixels), labels)

    validation, trained = {}, {}
    for rate in rates:
        torch.manual_seed(seed)
        model = detector(classes=len(classes), side=side, **built)
        check_features(model, images["labeled"][0][:4])
        train(model, *images["labeled"], steps=steps, batch=batch, rate=rate)
        trained[rate], validation[rate] = model, judged(model, "validation")["AP"]
        told = f"AP {100 * validation[rate]:.1f} on validation images"
        print(f"  rate {rate:g}: {told}", flush=True)
    best = max(rates, key=validation.__getitem__)
    return {
        "rate": best,
        "validation": {str(rate): value for rate, value in validation.items()},
        "test": judged(trained[best], "test"),
        "seconds": time.monotonic() - begun,
    }


def opened(
    task: Detection, place: pathlib.Path, side: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Returns letterboxed images, uint8 ``[n, 3, side, side]``, and labels."""
    source = task.labeled_source(place, side=side, decoding=Decoding())
    mean, std = models.normalization(MODEL)
    framed = Preprocessing(
        side, crop_padding=0, mean=mean, std=std, framing=LETTERBOX
    ).apply_all(source.read(range(len(source))).images)
    return torch.from_numpy(framed).permute(0, 3, 1, 2).contiguous(), source.labels


def table(name: str, rows: list[dict[str, Any]]) -> str:
    """Formats the metrics on test images, and the paired differences."""
    minutes = np.median([row["seconds"] for row in rows]) / 60
    rates = ", ".join(f"{row['rate']:g}" for row in rows)
    tried = ", ".join(f"{rate:g}" for rate in rows[0]["asked"]["rates"])
    lines = [
        f"\n{name}: {len(rows)} seeds; rate {rates} of {tried}, in {minutes:.1f} min",
        f"{'':<12}" + "".join(f"{metric:>8}" for metric in METRICS),
    ]
    for arm, key in (("C", "C"), ("torchvision", "test")):
        means = (np.mean([row[key][metric] for row in rows]) for metric in METRICS)
        lines.append(f"{arm:<12}" + "".join(f"{100 * mean:8.1f}" for mean in means))
    for metric in METRICS:
        gaps = np.array([row["C"][metric] - row["test"][metric] for row in rows])
        lines.append(f"C − torchvision, {metric}: {difference(100 * gaps)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

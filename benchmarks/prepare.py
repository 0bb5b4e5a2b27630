"""Preparing a folder of photographs once, against decoding it in every epoch.

    python benchmarks/prepare.py FOLDER            # images of any size
    python benchmarks/prepare.py FOLDER --large    # and the same at 12 megapixels

The timings, in images per second and taken in turns, are of preparing (reading,
hashing, checking, decoding at a reduced scale, writing), of an epoch of random crops
from the prepared cache, and of the same epoch decoded from the files by Pillow in as
many threads, without and with its reduced-scale decoding. The crops, the resizing and
the threads are the same in all epochs; the results are medians of several repeats.
Nothing else should run meanwhile.
"""

import argparse
import concurrent.futures
import io
import json
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np
from PIL import Image

from noisy_student_jax.augment.crops import crop_boxes
from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.cache.build import PrepareOptions, prepare
from noisy_student_jax.data.cache.listing import list_images
from noisy_student_jax.images.preprocessing import Preprocessing

RESOLUTION, PADDING = 224, 32
LARGE = (4000, 3000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--large", action="store_true", help="add 12-megapixel files")
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cases = []
        kinds = {"as they are": options.folder}
        if options.large:
            kinds["12 megapixels"] = enlarged(options, pathlib.Path(scratch) / "large")
        for kind, folder in kinds.items():
            cases += measure(kind, folder, pathlib.Path(scratch), options)
    if options.json:
        print(json.dumps({"cases": cases}))
        return
    print(f"{len(os.sched_getaffinity(0))} cores; images per second")
    for case in cases:
        print(
            f"{case['name']:<58}{case['ours']:>9.1f}{case['peer']:>9.1f}"
            f"{case['ratio']:>8.2f}×"
        )


def measure(
    kind: str, folder: pathlib.Path, scratch: pathlib.Path, options: argparse.Namespace
) -> list[dict]:
    paths = [folder / path for path in list_images(folder).paths][: options.images]
    times: dict[str, list[float]] = {}
    for repeat in range(options.repeats):
        cache = scratch / f"cache {kind} {repeat}"
        started = time.perf_counter()
        source = prepared(folder, cache)
        note(times, "prepare", started)
        readers = {
            "cache": lambda index, source=source: source.read([index]).images[0],
            "Pillow": lambda index: whole(paths[index]),
            "Pillow, reduced": lambda index: reduced(paths[index]),
        }
        for name, reader in readers.items():
            started = time.perf_counter()
            epoch(reader, len(paths), repeat)
            note(times, name, started)
    count = {name: len(paths) for name in times} | {"prepare": len(source)}
    rate = {
        name: count[name] / statistics.median(seconds)
        for name, seconds in times.items()
    }
    pairs = [("prepare", "Pillow"), ("cache", "Pillow"), ("cache", "Pillow, reduced")]
    return [
        {
            "name": f"{kind}: {ours} against an epoch of {peer}",
            "ours": rate[ours],
            "peer": rate[peer],
            "ratio": rate[ours] / rate[peer],
        }
        for ours, peer in pairs
    ]


def prepared(folder: pathlib.Path, cache: pathlib.Path):
    return prepare(
        list_images(folder),
        cache,
        PrepareOptions(side=RESOLUTION + PADDING),
        name="images",
        interruption=Interruption(),
        progress=Progress(every_seconds=1e9),
    )


def note(times: dict[str, list[float]], name: str, started: float) -> None:
    times.setdefault(name, []).append(time.perf_counter() - started)


def epoch(reader, count: int, seed: int) -> None:
    """Reads, crops and resizes every image once, in threads."""
    preprocessing = Preprocessing(RESOLUTION, PADDING)

    def one(index: int) -> None:
        image = reader(index)
        (box,) = crop_boxes(
            seed=seed,
            generation=0,
            stream=0,
            positions=np.array([index]),
            sizes=np.array([image.shape[:2]]),
            least_area=0.08,
        ).tolist()
        preprocessing.apply_crop(image, box)

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(one, range(count)))


def whole(path: pathlib.Path) -> np.ndarray:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return np.asarray(image.convert("RGB"))


def reduced(path: pathlib.Path) -> np.ndarray:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        image.draft("RGB", (RESOLUTION + PADDING, RESOLUTION + PADDING))
        return np.asarray(image.convert("RGB"))


def enlarged(options: argparse.Namespace, folder: pathlib.Path) -> pathlib.Path:
    """Writes a tenth of the images enlarged to twelve megapixels."""
    folder.mkdir()
    paths = list_images(options.folder).paths[: max(8, options.images // 10)]
    for number, path in enumerate(paths):
        with Image.open(options.folder / path) as image:
            large = image.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC)
            large.save(folder / f"{number}.jpg", quality=92)
    return folder


if __name__ == "__main__":
    main()

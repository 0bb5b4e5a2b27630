"""Labeling a whole pool, against a PyTorch loop and against the forward pass alone.

    pip install 'noisy-student-jax[bench]'
    python benchmarks/labeling.py
    python benchmarks/labeling.py --model=b0 --side=224 --images=256 --batch=32

Ours is `pseudo_labels.label.label_pool` as the loop calls it: read the records, crop
and resize them, predict, write the sidecars. The peer is the same model of geffnet's in
a usual loop: a `DataLoader` over the same images with the same crop and resize by
Pillow, channels-last, `torch.inference_mode`, softmax, and the same columns written by
pyarrow; its number of workers is the better of none and one for each core but one.
Images are in memory as bytes, a seventh larger than the model reads them, as `prepare`
keeps them. The limit is the labeling program alone on images that are on the device.
"""

import os
import pathlib
import shutil
import tempfile

import geffnet
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import side_by_side
import torch
from our_programs import Ours
from side_by_side import Work

from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.sources import ArraySource, shard_bounds
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.pseudo_labels import label

TOP = 10


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--model", default="b0")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--shards", type=int, default=4)
    options = parser.parse_args()
    ours = Ours.make(f"efficientnet_{options.model}", side=options.side)
    rng = np.random.default_rng(0)
    kept = options.side * 8 // 7
    images = rng.integers(0, 256, (options.images, kept, kept, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        works = {
            "ours": our_labeling(ours, images, options, pathlib.Path(folder)),
            "limit": forward_alone(ours, options.batch),
        }
        cores = len(os.sched_getaffinity(0))
        for workers in sorted({0, cores - 1}):
            works[f"peer {workers}"] = their_labeling(
                options, images, pathlib.Path(folder), workers
            )
        rate = side_by_side.rates(
            works, repeats=options.repeats, seconds=options.seconds
        )
    best = max((name for name in rate if name.startswith("peer")), key=rate.get)
    what = f"{options.model} at {options.side} px, batch {options.batch}"
    side_by_side.show(
        [
            side_by_side.case(
                f"{what}: against PyTorch",
                rate["ours"],
                rate[best],
                workers=best.removeprefix("peer "),
            ),
            side_by_side.case(
                f"{what}: against its forward pass", rate["ours"], rate["limit"]
            ),
        ],
        unit="images/s",
        peers=("torch", "geffnet", "pyarrow"),
        as_json=options.json,
    )


def keys(count: int) -> list[str]:
    return [f"pool/{number:09d}.jpg" for number in range(count)]


def preprocessing(side: int) -> Preprocessing:
    return Preprocessing(side, crop_padding=side // 7)


def our_labeling(ours: Ours, images: np.ndarray, options, folder) -> Work:
    pool = ArraySource(keys(len(images)), images)
    predictor, _ = ours.predictor(options.batch)
    predictor.preprocessing = preprocessing(options.side)
    bounds = shard_bounds(len(images), options.shards)
    shards = [label.Shard(number, *ends) for number, ends in enumerate(bounds)]
    made = folder / "ours"

    def work() -> int:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        counts = label.label_pool(
            predictor,
            ours.variables,
            ours.task,
            pool,
            shards,
            made,
            top_k=TOP,
            metadata={
                "task": "classification",
                "model": ours.name,
                "model_sha256": "0" * 64,
                "classes": str(ours.task.outputs),
            },
            interruption=Interruption(),
            progress=Progress(every_seconds=1e9),
        )
        return counts["labeled"]

    return work


def forward_alone(ours: Ours, batch: int) -> Work:
    predictor, placed = ours.predictor(batch)
    images = ours.images(4 * predictor.batch)

    def work() -> int:
        predictor(placed, images)
        return len(images)

    return work


class TheirImages(torch.utils.data.Dataset):
    """Crops, resizes and normalizes as torchvision's transforms do."""

    def __init__(self, images: np.ndarray, side: int):
        self.images, self.preprocessing = images, preprocessing(side)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = torch.from_numpy(self.preprocessing.apply(self.images[index]).copy())
        image = image.permute(2, 0, 1).float().div_(255)
        mean = torch.tensor(self.preprocessing.mean).view(3, 1, 1)
        return image.sub_(mean).div_(torch.tensor(self.preprocessing.std).view(3, 1, 1))


def their_labeling(options, images: np.ndarray, folder, workers: int) -> Work:
    model = geffnet.create_model(f"tf_efficientnet_{options.model}")
    model = model.to(memory_format=torch.channels_last).eval()
    loader = torch.utils.data.DataLoader(
        TheirImages(images, options.side),
        batch_size=options.batch,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    path = folder / f"peer_{workers}.parquet"

    @torch.inference_mode()
    def work() -> int:
        label, score, ids, probabilities = [], [], [], []
        for batch in loader:
            batch = batch.contiguous(memory_format=torch.channels_last)
            top, which = model(batch).softmax(1).topk(TOP)
            label += which[:, 0].tolist()
            score += top[:, 0].tolist()
            ids.append(which.int().numpy())
            probabilities.append(top.half().numpy())
        offsets = pa.array(np.arange(0, TOP * len(label) + 1, TOP, dtype=np.int32))

        def lists(parts: list[np.ndarray]) -> pa.Array:
            flat = pa.array(np.concatenate(parts).ravel())
            return pa.ListArray.from_arrays(offsets, flat)

        table = pa.table(
            {
                "key": keys(len(label)),
                "status": ["ok"] * len(label),
                "label": pa.array(label, pa.int32()),
                "score": pa.array(score, pa.float32()),
                "top_ids": lists(ids),
                "top_probabilities": lists(probabilities),
            }
        )
        pq.write_table(table, path, compression="zstd")
        return len(label)

    return work


if __name__ == "__main__":
    main()

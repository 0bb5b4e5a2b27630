"""The paper's L2 recipe in miniature: its images, and the flags that shrink it.

    python launch/miniature.py --workdir=runs/miniature

``configs/imagenet_l2.py`` runs as it is: four generations, their ratios, noise,
selection, relabeling, FixRes and bfloat16. The flags make models and images small, and
the schedule short. The images are drawn here, and kept as TFRecord files in ImageNet's
layout beside the run, in ``WORKDIR_records``. What it learns is beside the point.
"""

import argparse
import io
import pathlib
import sys

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "imagenet_l2.py"
LABELED, TEST, POOL = (16, 16, 16), (8, 8, 8), (90, 40, 15)
"""Images of each class."""
FLAGS = (
    "--config.model.name=efficientnet_tiny_s",
    "--config.generations[0].model.name=efficientnet_test",
    # FixRes freezes a block of three, which is about L2's 28 of 88.
    *(
        f"--config.generations[{student}].fixres.{field}"
        for student in (1, 2, 3)
        for field in ("resolution=96", "frozen_blocks=1")
    ),
    # Lengths in pixels follow the images.
    "--config.model.resolution=64",
    "--config.model.crop_padding=4",
    *(
        f"--config.noise.{stream}.randaugment_{field}"
        for stream in ("labeled", "pseudo")
        for field in ("translate=13", "cutout=5")
    ),
    # The batch suits one, two, four or eight devices.
    "--config.train.batch=8",
    "--config.train.epochs=3",
    "--config.generations[0].train.epochs=12",
    "--config.train.warmup_epochs=1",
    # In so few steps, weights move only at a high rate, and averages follow only with
    # a short memory.
    "--config.train.learning_rate=0.125",
    "--config.train.ema_decay=0.9",
    "--config.model.batch_norm_momentum=0.9",
    # The pool has more images of the first class, so that the others are repeated.
    "--config.selection.per_class=60",
    "--config.data.pool_shards=3",
    "--config.data.validation_fraction=0.2",
    "--config.labels.batch=32",
    "--config.evaluation.batch=32",
    "--config.log.every_steps=5",
)


def line(workdir: pathlib.Path) -> list[str]:
    """Writes the records of a run, if there are none; returns its command line."""
    records = workdir.with_name(f"{workdir.name}_records")
    if not records.exists():
        write_records(records)
    return [
        "run",
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        f"--config.labeled=tfrecord:{records}/train-*",
        "--config.validation=none",
        f"--config.test=tfrecord:{records}/validation-*",
        f"--config.unlabeled=tfrecord:{records}/unlabeled-*",
        *FLAGS,
    ]


def write_records(folder: pathlib.Path) -> None:
    """Draws the images, and writes them to a folder that appears once it is full."""
    # TensorFlow is slow to import.
    from noisy_student_jax.data.streaming import tf

    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, counts, shards in (
        ("train", LABELED, 4),
        ("validation", TEST, 2),
        ("unlabeled", POOL, 3),
    ):
        labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        for shard, own in enumerate(np.array_split(labels, shards)):
            path = unfinished / f"{name}-{shard:05d}-of-{shards:05d}"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for label in own:
                    known = None if name == "unlabeled" else int(label) + 1
                    writer.write(example(tf, draw(rng, label), known))
    unfinished.rename(folder)


def example(tf, image: bytes, label: int | None) -> bytes:
    """Returns a record in ImageNet's layout, its label counted from 1."""
    held = tf.train.BytesList(value=[image])
    feature = {"image/encoded": tf.train.Feature(bytes_list=held)}
    if label is not None:
        number = tf.train.Int64List(value=[label])
        feature["image/class/label"] = tf.train.Feature(int64_list=number)
    features = tf.train.Features(feature=feature)
    return tf.train.Example(features=features).SerializeToString()


def draw(rng: np.random.Generator, label: int) -> bytes:
    """Draws a JPEG of its class's color and stripes, which survive noise and crops."""
    height, width = rng.integers(96, 129, 2)
    y, x = np.mgrid[:height, :width]
    along = (x, y, x + y)[label]
    pixels = rng.integers(0, 80, (height, width, 3))
    pixels[..., label] += 80 * (1 + (along // (4 + label) % 2))
    held = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(held, "JPEG")
    return held.getvalue()


def main() -> int:
    """Writes the records, and runs the recipe on them."""
    from noisy_student_jax.cli.main import main as noisy_student

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/miniature")
    options, more = parser.parse_known_args()
    return noisy_student([*line(options.workdir), *more])


if __name__ == "__main__":
    sys.exit(main())

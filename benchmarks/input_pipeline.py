"""Training images per second of the streamed input pipeline, against other pipelines.

    python benchmarks/input_pipeline.py IMAGES            # a folder, or a tar, of JPEGs
    python benchmarks/input_pipeline.py IMAGES --json

Every pipeline runs in a separate process restricted to one core (two for the rows on
scaling). The processes take turns, a turn is at least `--seconds` long, and the result
is the median over `--repeats` turns. The first batches of a turn do not count, since
all pipelines work ahead. Batches have 32 images of 224 pixels, with two operations of
RandAugment at magnitude 27. Nothing else should run meanwhile.

- *whole*: the streamed pipeline of a run (`StreamingFeed`): reading, decoding, crop,
  resize, flip, RandAugment; *plain* is the same with ``data.decoder=plain``.
- *crops*: the same with ``data.augment=device``, which leaves RandAugment out.
- *Pillow*: ``pillow_pipeline.py``; *graph*: ``reference_graph.py``.
- *decode*: every image is decoded whole and nothing else is done, which is the limit.
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from time import perf_counter

SIDE, BATCH, LAYERS, MAGNITUDE = 224, 32, 2, 27.0
DISCARDED = 10
"""Uncounted batches at the start of a turn, more than any pipeline works ahead."""
EPOCHS = 30
NOT_THERE = "not there"

Step = Callable[[], int]


def main() -> None:
    import side_by_side

    parser = side_by_side.parser(__doc__)
    parser.add_argument("images", type=pathlib.Path, help="folder or tar of JPEGs")
    parser.add_argument("--pipeline", help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pipeline:
        serve(options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpacked(options.images, pathlib.Path(scratch))
        cases = measure(folder, options)
    side_by_side.show(
        cases,
        unit="images/s",
        peers=("pillow", "tensorflow-cpu"),
        as_json=options.json,
    )


def unpacked(images: pathlib.Path, scratch: pathlib.Path) -> pathlib.Path:
    if images.is_dir():
        return images
    with tarfile.open(images) as tar:
        tar.extractall(scratch, filter="data")
    return scratch


def measure(folder: pathlib.Path, options: argparse.Namespace) -> list[dict]:
    from side_by_side import case

    rows = [(name, 1) for name in PIPELINES]
    if len(os.sched_getaffinity(0)) > 1:
        rows += [("whole", 2), ("crops", 2)]
    children = {row: Child(folder, *row) for row in rows}
    children = {row: child for row, child in children.items() if child.there}
    try:
        turns: dict[tuple[str, int], list[float]] = {row: [] for row in children}
        for _ in range(options.repeats):
            for row, child in children.items():
                turns[row].append(child.ask(seconds=options.seconds)["rate"])
        rate = {row: statistics.median(found) for row, found in turns.items()}
        memory = children["whole", 1].ask(epochs=EPOCHS)
    finally:
        for child in children.values():
            child.close()
    pairs = [
        ("whole", "pillow", "whole, against Pillow"),
        ("whole", "graph", "whole, against the authors' graph"),
        ("whole", "plain", "whole, against our plain form"),
        ("crops", "decode (TensorFlow)", "crops, against TensorFlow's decode alone"),
        ("crops", "decode (libjpeg-turbo)", "crops, against libjpeg-turbo's alone"),
        ("whole", "decode (TensorFlow)", "whole, against TensorFlow's decode alone"),
    ]
    cases = [
        case(name, rate[ours, 1], rate[peer, 1])
        for ours, peer, name in pairs
        if {(ours, 1), (peer, 1)} <= rate.keys()
    ]
    cases += [
        case(f"{name}, two cores against one", rate[name, 2], rate[name, 1])
        for name in ("whole", "crops")
        if (name, 2) in rate
    ]
    early, late = memory["megabytes"]
    name = f"memory after 2 epochs, against {EPOCHS} (MB)"
    return [*cases, case(name, early, late)]


class Child:
    """A pipeline in a separate process, on some of our cores."""

    def __init__(self, folder: pathlib.Path, pipeline: str, cores: int):
        command = [sys.executable, __file__, str(folder), f"--pipeline={pipeline}"]
        self._process = subprocess.Popen(
            [*command, f"--cores={cores}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.there = self._process.stdout.readline().strip() != NOT_THERE
        if not self.there:
            self.close()

    def ask(self, **what) -> dict:
        """Requests a measurement: over ``seconds``, or of memory after ``epochs``."""
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def serve(options: argparse.Namespace) -> None:
    """Answers requests on standard input; a child's main program."""
    # This precedes any import that counts the cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    try:
        step = PIPELINES[options.pipeline](options.images)
    except ImportError:
        print(NOT_THERE, flush=True)
        return
    step()
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = (
            {"rate": timed(step, asked["seconds"])}
            if "seconds" in asked
            else {"megabytes": grown(step, options.images, asked["epochs"])}
        )
        print(json.dumps(answer), flush=True)


def timed(step: Step, seconds: float) -> float:
    for _ in range(DISCARDED):
        step()
    items, started = 0, perf_counter()
    while (elapsed := perf_counter() - started) < seconds:
        items += step()
    return items / elapsed


def grown(step: Step, folder: pathlib.Path, epochs: int) -> tuple[float, float]:
    """Returns the resident memory after two more epochs, and after all of them."""
    count, found = len(read_all(folder)), []
    for wanted in (2, epochs - 2):
        items = 0
        while items < wanted * count:
            items += step()
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        found.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
    return tuple(found)


def read_all(folder: pathlib.Path) -> list[bytes]:
    from noisy_student_jax.data.cache.listing import list_images

    return [(folder / path).read_bytes() for path in list_images(folder).paths]


def noise():
    from noisy_student_jax.augment.input_noise import InputNoise

    return InputNoise(
        randaugment_layers=LAYERS,
        randaugment_magnitude=MAGNITUDE,
        flip=True,
        crop_area=0.08,
    )


def ours(folder: pathlib.Path, **options) -> Step:
    import jax
    import numpy as np

    from noisy_student_jax.core import sharding
    from noisy_student_jax.core.batch_layout import BatchLayout
    from noisy_student_jax.data.cache.listing import list_images
    from noisy_student_jax.data.encoded import FolderSource
    from noisy_student_jax.data.pipelines.stream import Noise, Stream
    from noisy_student_jax.data.streaming.feed import StreamingFeed
    from noisy_student_jax.images.preprocessing import Preprocessing

    source = FolderSource(list_images(folder), "images")
    rows = np.arange(len(source))
    stream = Stream(
        source=source,
        picks=np.stack([rows, rows], axis=1),
        targets={"row": rows},
        to_target=lambda stored: stored["row"],
        noise=Noise(noise()),
    )
    feed = StreamingFeed(
        [stream],
        BatchLayout(BATCH, 0),
        sharding.make_mesh(jax.devices()[:1]),
        Preprocessing(SIDE, 32),
        seed=0,
        generation=0,
        **options,
    )
    steps = itertools.count()
    return lambda: len(feed(next(steps))[0].images)


def pillow(folder: pathlib.Path) -> Step:
    import numpy as np
    import pillow_pipeline

    batches = drawn(read_all(folder))

    def step() -> int:
        images = [
            pillow_pipeline.image(data, box, draws, side=SIDE, magnitude=MAGNITUDE)
            for data, box, draws in next(batches)
        ]
        return len(np.stack(images))

    return step


def drawn(files: list[bytes]) -> Iterator[list[tuple]]:
    """Yields batches of files, boxes and draws, drawn as ours are."""
    import numpy as np

    from noisy_student_jax.augment import numpy_draws
    from noisy_student_jax.augment.crops import crop_boxes
    from noisy_student_jax.data.order.shuffle import order
    from noisy_student_jax.images.decode import header

    sizes = np.array([header(data) for data in files])
    for step in itertools.count():
        at = np.arange(step * BATCH, (step + 1) * BATCH)
        where = {"seed": 0, "generation": 0, "stream": 0, "positions": at}
        rows = order(0, 0, at, len(files))[1]
        boxes = crop_boxes(**where, sizes=sizes[rows], least_area=0.08).tolist()
        draws = numpy_draws.draw(**where, noise=noise(), height=SIDE, width=SIDE)
        yield [
            (files[row], boxes[n], {name: v[n] for name, v in draws.items()})
            for n, row in enumerate(rows)
        ]


def graph(folder: pathlib.Path) -> Step:
    import reference_graph

    images = reference_graph.dataset(
        read_all(folder),
        side=SIDE,
        layers=LAYERS,
        magnitude=MAGNITUDE,
        threads=len(os.sched_getaffinity(0)),
    )
    batches = images.batch(BATCH).prefetch(2).as_numpy_iterator()
    return lambda: len(next(batches))


def decode_tensorflow(folder: pathlib.Path) -> Step:
    from noisy_student_jax.data.streaming import tf

    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    images = tf.data.Dataset.from_tensor_slices(read_all(folder)).repeat()
    images = images.map(lambda data: tf.size(tf.io.decode_jpeg(data, channels=3)))
    batches = images.batch(BATCH).with_options(options).as_numpy_iterator()
    return lambda: len(next(batches))


def decode_turbo(folder: pathlib.Path) -> Step:
    import simplejpeg

    files = itertools.cycle(read_all(folder))

    def step() -> int:
        for data in itertools.islice(files, BATCH):
            simplejpeg.decode_jpeg(data)
        return BATCH

    return step


PIPELINES: dict[str, Callable[[pathlib.Path], Step]] = {
    "whole": ours,
    "plain": lambda folder: ours(folder, decoder="plain"),
    "crops": lambda folder: ours(folder, noised=False),
    "pillow": pillow,
    "graph": graph,
    "decode (TensorFlow)": decode_tensorflow,
    "decode (libjpeg-turbo)": decode_turbo,
}


if __name__ == "__main__":
    main()

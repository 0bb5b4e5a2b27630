"""Images per second of the streamed input pipeline, against other pipelines.

    python benchmarks/input_pipeline.py IMAGES            # a folder, or a tar, of JPEGs
    python benchmarks/input_pipeline.py IMAGES --earlier=CHECKOUT
    python benchmarks/input_pipeline.py IMAGES --json

Every pipeline runs in a separate process restricted to one core, and ours on two as
well. The processes take turns, a turn is at least `--seconds` long, and the result is
the median over `--repeats` turns. The first batches of a turn do not count, since all
pipelines work ahead. Batches have 128 images of 224 pixels; images come from TFRecord
files. Nothing else should run meanwhile.

- *whole*: the streamed pipeline of a run (`StreamingFeed`): reading, decoding, crop,
  bicubic resize, flip, two operations of RandAugment at magnitude 27;
- *crops*: the same with ``data.augment=device``, which leaves flip and RandAugment out;
- *authors' crops*: crops with ``bicubic_tf1``, the resize of the paper's recipes;
- *evaluation*: the center crops that labeling and evaluation read;
- *earlier …*: the same in another checkout of this project (``--earlier``);
- *Pillow*: ``pillow_pipeline.py``; *graph*: ``reference_graph.py``;
- *decode*: every image is decoded whole and nothing else is done;
- *spin*: a loop of arithmetic, which tells what a second core of this machine is worth.

With py-spy installed, the share of samples in which a thread holds Python's lock is
measured on two cores, and the rate at which that lock alone would be the limit. A
thread that waits for a core while it holds the lock counts too, and sampling slows it
down: beside it stands the processor time of the calling thread and of the pipeline's
Python calls, without what our own decoder's threads take.
"""

import argparse
import itertools
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from time import perf_counter, thread_time

SIDE, BATCH, LAYERS, MAGNITUDE = 224, 128, 2, 27.0
DISCARDED = 4
"""Uncounted batches at the start of a turn, more than any pipeline works ahead."""
EPOCHS = 30
NOT_THERE = "not there"
OURS = ("whole", "crops", "authors' crops", "evaluation")
SAMPLES_PER_SECOND, SAMPLED = 25, 10

Step = Callable[[], int]


def main() -> None:
    import side_by_side

    parser = side_by_side.parser(__doc__)
    parser.add_argument("images", type=pathlib.Path, help="folder or tar of JPEGs")
    parser.add_argument("--earlier", type=pathlib.Path, help="another checkout")
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
    """Returns a folder with the images in ``images`` and as records."""
    if images.is_dir():
        shutil.copytree(images, scratch / "images")
    else:
        with tarfile.open(images) as tar:
            tar.extractall(scratch / "images", filter="data")
    # In a process of its own: TensorFlow must not be imported here.
    command = [sys.executable, __file__, str(scratch), "--pipeline=write records"]
    subprocess.run(command, check=True)
    return scratch


def write_records(folder: pathlib.Path) -> None:
    from noisy_student_jax.data.streaming import tf

    files = read_all(folder)
    for part in range(4):
        with tf.io.TFRecordWriter(str(folder / f"train-{part:05}-of-00004")) as writer:
            for data in files[part::4]:
                held = tf.train.BytesList(value=[data])
                features = {"image/encoded": tf.train.Feature(bytes_list=held)}
                features = tf.train.Features(feature=features)
                writer.write(tf.train.Example(features=features).SerializeToString())


def measure(folder: pathlib.Path, options: argparse.Namespace) -> list[dict]:
    from side_by_side import case

    cases, locks = [], []
    for group in groups(earlier=options.earlier is not None):
        children = {row: Child(folder, *row, options.earlier) for row in group}
        children = {row: child for row, child in children.items() if child.there}
        try:
            turns: dict[tuple[str, int], list[float]] = {row: [] for row in children}
            for _ in range(options.repeats):
                for row, child in children.items():
                    turns[row].append(child.ask(seconds=options.seconds)["rate"])
            rate = {row: statistics.median(found) for row, found in turns.items()}
            (name, _), *peers = children
            cases += [
                case(f"{name}, against {peer}", rate[name, 1], rate[peer, 1])
                for peer, cores in peers
                if cores == 1
            ]
            cases += [
                case(f"{name}, two cores against one", rate[name, 2], rate[name, 1])
                for name, cores in rate
                if cores == 2
            ]
            if shutil.which("py-spy"):
                locks += [
                    case(*children[row].lock(row[0], folder / "lock"))
                    for row in children
                    if row[1] == 2 and row[0] != "spin"
                ]
            if name == "whole":
                early, late = children[name, 1].ask(epochs=EPOCHS)["megabytes"]
                title = f"memory after 2 epochs, against {EPOCHS} (MB)"
                locks.append(case(title, early, late))
        finally:
            for child in children.values():
                child.close()
    return cases + locks


def groups(*, earlier: bool) -> list[list[tuple[str, int]]]:
    """Returns what is measured in turns: ours first, then its peers."""
    turbo, whole_decode = "decode (libjpeg-turbo)", "decode (TensorFlow)"
    peers = {
        "whole": ["pillow", "graph"],
        "crops": [whole_decode, turbo],
        "authors' crops": [whole_decode],
        "evaluation": [whole_decode],
    }
    made = []
    for name, others in peers.items():
        if earlier and name != "evaluation":
            others = [*others, f"earlier {name}"]
        group = [(one, 1) for one in (name, *others)]
        if len(os.sched_getaffinity(0)) > 1:
            group += [(one, 2) for one in (name, *others[-1:]) if "decode" not in one]
        made.append(group)
    if len(os.sched_getaffinity(0)) > 1:
        made.append([("spin", 1), ("spin", 2)])
    return made


class Child:
    """A pipeline in a separate process, on some of our cores."""

    def __init__(
        self,
        folder: pathlib.Path,
        pipeline: str,
        cores: int,
        earlier: pathlib.Path | None,
    ):
        name = pipeline.removeprefix("earlier ")
        command = [sys.executable, __file__, str(folder), f"--pipeline={name}"]
        environment = dict(os.environ)
        if name != pipeline:
            environment["PYTHONPATH"] = str(earlier)
        self._process = subprocess.Popen(
            [*command, f"--cores={cores}"],
            env=environment,
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

    def lock(self, name: str, found: pathlib.Path) -> tuple[str, float, float]:
        """Returns a case's title, the rate where the lock ends it, and today's."""
        asked = json.dumps({"seconds": SAMPLED + 4})
        print(asked, file=self._process.stdin, flush=True)
        command = ["py-spy", "record", "--gil", "--format=raw", f"--output={found}"]
        command += [f"--rate={SAMPLES_PER_SECOND}", f"--duration={SAMPLED}"]
        command += [f"--pid={self._process.pid}"]
        subprocess.run(command, check=True, capture_output=True)
        samples = sum(int(line.rsplit(" ", 1)[1]) for line in found.open())
        answer = json.loads(self._process.stdout.readline())
        held = max(samples, 1) / (SAMPLES_PER_SECOND * SAMPLED)
        title = f"{name}, lock held {held:.1%} (processor time {answer['python']:.1%})"
        return f"{title}: its limit, against now", answer["rate"] / held, answer["rate"]

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def serve(options: argparse.Namespace) -> None:
    """Answers requests on standard input; a child's main program."""
    # This precedes any import that counts the cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    if options.pipeline == "write records":
        write_records(options.images)
        return
    answers, sys.stdout = sys.stdout, sys.stderr
    if options.cores > 1:
        count_calls()
    try:
        step = PIPELINES[options.pipeline](options.images, options.cores)
    except ImportError:
        print(NOT_THERE, file=answers, flush=True)
        return
    step()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = (
            timed(step, asked["seconds"])
            if "seconds" in asked
            else {"megabytes": grown(step, options.images, asked["epochs"])}
        )
        print(json.dumps(answer), file=answers, flush=True)


def timed(step: Step, seconds: float) -> dict[str, float]:
    """Returns the rate, and the share of Python's processor time in the time."""
    for _ in range(DISCARDED):
        step()
    items, started, spent = 0, perf_counter(), sum(CALLS)
    own = thread_time()
    while (elapsed := perf_counter() - started) < seconds:
        items += step()
    spent = thread_time() - own + sum(CALLS) - spent
    return {"rate": items / elapsed, "python": spent / elapsed}


CALLS: list[float] = []
"""Processor time of each call of Python from the graph."""


def count_calls() -> None:
    """Notes the processor time of the calls that the streamed pipeline makes."""
    try:
        from noisy_student_jax.data.streaming.images import ImageStream
    except ImportError:  # an earlier checkout
        return
    read = ImageStream._read

    def noted(self, start):
        before = thread_time()
        found = read(self, start)
        CALLS.append(thread_time() - before)
        return found

    ImageStream._read = noted


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

    images = folder / "images"
    return [(images / path).read_bytes() for path in list_images(images).paths]


def noise():
    from noisy_student_jax.augment.input_noise import InputNoise

    return InputNoise(
        randaugment_layers=LAYERS,
        randaugment_magnitude=MAGNITUDE,
        flip=True,
        crop_area=0.08,
    )


def records(folder: pathlib.Path):
    from noisy_student_jax.data.streaming.tfrecord import TFRecordSource

    # Other checkouts keep other indices.
    index = tempfile.mkdtemp(dir=folder)
    return TFRecordSource(str(folder / "train-*"), index, name="images", labeled=False)


def ours(folder: pathlib.Path, interpolation: str = "bicubic", **options) -> Step:
    import jax
    import numpy as np

    from noisy_student_jax.core import sharding
    from noisy_student_jax.core.batch_layout import BatchLayout
    from noisy_student_jax.data.pipelines.stream import Noise, Stream
    from noisy_student_jax.data.streaming.feed import StreamingFeed
    from noisy_student_jax.images.preprocessing import Preprocessing

    source = records(folder)
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
        Preprocessing(SIDE, 32, interpolation),
        seed=0,
        generation=0,
        **options,
    )
    steps = itertools.count()
    return lambda: len(feed(next(steps))[0].images)


def evaluation(folder: pathlib.Path) -> Step:
    from noisy_student_jax.images.preprocessing import Preprocessing

    source = records(folder)
    batches = [range(len(source))] * 10_000
    reader = source.reader(Preprocessing(SIDE, 32), batches)
    return lambda: len(reader.take(BATCH)[1])


def spin(cores: int) -> Step:
    """A loop in a process for each core; counts a million rounds as one item."""
    import concurrent.futures

    pool = concurrent.futures.ProcessPoolExecutor(cores)
    return lambda: sum(pool.map(rounds, range(cores)))


def rounds(_: int) -> int:
    return len([None for _ in range(1_000_000)]) // 1_000_000


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

    from noisy_student_jax.augment import host_draws
    from noisy_student_jax.augment.crops import crop_boxes
    from noisy_student_jax.data.order.shuffle import order
    from noisy_student_jax.images.decode import header

    sizes = np.array([header(data) for data in files])
    for step in itertools.count():
        at = np.arange(step * BATCH, (step + 1) * BATCH)
        where = {"seed": 0, "generation": 0, "stream": 0, "positions": at}
        rows = order(0, 0, at, len(files))[1]
        boxes = crop_boxes(**where, sizes=sizes[rows], least_area=0.08).tolist()
        draws = host_draws.draw(**where, noise=noise(), height=SIDE, width=SIDE)
        yield [
            (files[row], boxes[n], {name: v[n] for name, v in draws.items()})
            for n, row in enumerate(rows)
        ]


def graph(folder: pathlib.Path, cores: int) -> Step:
    import reference_graph

    images = reference_graph.dataset(
        read_all(folder),
        side=SIDE,
        layers=LAYERS,
        magnitude=MAGNITUDE,
        threads=cores,
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


PIPELINES: dict[str, Callable[[pathlib.Path, int], Step]] = {
    "whole": lambda folder, _: ours(folder),
    "crops": lambda folder, _: ours(folder, noised=False),
    "authors' crops": lambda folder, _: ours(folder, "bicubic_tf1", noised=False),
    "evaluation": lambda folder, _: evaluation(folder),
    "pillow": lambda folder, _: pillow(folder),
    "graph": graph,
    "decode (TensorFlow)": lambda folder, _: decode_tensorflow(folder),
    "decode (libjpeg-turbo)": lambda folder, _: decode_turbo(folder),
    "spin": lambda _, cores: spin(cores),
}


if __name__ == "__main__":
    main()

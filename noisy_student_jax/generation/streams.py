"""Builds a student's labeled and second streams, and chooses their input pipeline."""

import dataclasses

import numpy as np
from jax.sharding import Mesh

from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.config import ConfigDict
from noisy_student_jax.core import files, unusable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Preprocessor, Source
from noisy_student_jax.core.types import STREAMS
from noisy_student_jax.data.encoded import is_encoded
from noisy_student_jax.data.order.block_shuffle import Lanes
from noisy_student_jax.data.pipelines.device_resident import ResidentPipeline
from noisy_student_jax.data.pipelines.host_fed import Feed, HostedPipeline, SourceFeed
from noisy_student_jax.data.pipelines.stream import Noise, Stream
from noisy_student_jax.data.quarantine import Quarantine
from noisy_student_jax.data.sources import key_hashes, labels_of, record_bytes
from noisy_student_jax.features.source import FeatureSource
from noisy_student_jax.generation import init_weights
from noisy_student_jax.generation.trainable import HeadOnFeatures, Part
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.pseudo_labels import selection
from noisy_student_jax.runs.run import Generation, Run

QUARANTINE = "quarantine.csv"


@dataclasses.dataclass(frozen=True)
class Streams:
    """Both streams of a student.

    Attributes:
      labeled: the labeled images.
      second: the pseudo-labeled images; for the baselines the labeled images again, so
        that they draw as many images as the student; None for a first teacher.
      trained_on: hashes of the keys of all records that the student, or one of its
        teachers, learns from.
    """

    labeled: Stream
    second: Stream | None
    trained_on: np.ndarray

    def read_by(self, part: Part) -> "Streams":
        """Returns the streams as the trained part of a model reads them."""
        if not isinstance(part, HeadOnFeatures):
            return self

        def read(stream: Stream, name: str) -> Stream:
            # Features are computed once, from images without noise.
            noise = dataclasses.replace(stream.noise, input=InputNoise())
            source = part.source(stream.source, name)
            picks = usable(source, stream.picks, name, part.student.run.config.data)
            return dataclasses.replace(stream, source=source, picks=picks, noise=noise)

        labeled, second = read(self.labeled, "labeled"), self.second
        if second:
            name = "labeled" if second.source is self.labeled.source else "pool"
            second = read(second, name)
        return dataclasses.replace(self, labeled=labeled, second=second)

    @property
    def both(self) -> list[Stream]:
        """The streams that exist, as a list."""
        return [self.labeled] + ([self.second] if self.second else [])


def make(student: Generation) -> Streams:
    """Builds a student's streams from the dataset and its teacher's selected labels.

    Raises:
      UserError: the selection is missing, or was made from another pool.
    """
    labeled = _labeled(student)
    own = key_hashes(student.run.dataset.labeled)
    if start := init_weights.given(student):
        own = np.union1d(own, start.trained_on)
    spec = student.spec
    if spec.fine_tunes:
        before = bundles.read(student.trained.paths.averaged)
        return Streams(labeled, None, before.trained_on)
    if not spec.layout.pseudo:
        return Streams(labeled, None, own)
    if spec.role.labels_only:
        noise = make_noise(spec.config.noise.pseudo)
        return Streams(labeled, dataclasses.replace(labeled, noise=noise), own)
    teacher = student.teacher
    assert teacher is not None, "only models on labels alone have no teacher"
    pseudo, drawn = _pseudo_labeled(student, teacher)
    bundle = bundles.read(teacher.paths.model)
    if spec.taught_by:
        pseudo = dataclasses.replace(pseudo, teacher=bundle.preprocessing)
    learned = np.concatenate([own, drawn, bundle.trained_on])
    return Streams(labeled, pseudo, np.unique(learned))


def make_noise(section: ConfigDict) -> Noise:
    """Returns the noise that a stream's config section describes."""
    return Noise(
        InputNoise.from_config(section),
        dropout=section.dropout,
        stochastic_depth=section.stochastic_depth,
    )


def usable(
    source: FeatureSource, picks: np.ndarray, name: str, data: ConfigDict
) -> np.ndarray:
    """Returns the picks of records that have features, and warns of the others.

    Args:
      source: the features.
      picks: int64 ``[draws, 2]``, see `Stream`.
      name: name of the part of the dataset.
      data: the config's ``data`` section.

    Raises:
      UserError: too many records have no features.
    """
    good = np.array(source.status) == "ok"
    drawn = np.unique(picks[:, 0])
    bad = drawn[~good[drawn]]
    unusable.tell(
        [(source.key(record), source.status[record]) for record in bad.tolist()],
        len(drawn),
        f"{name} images",
        most=data.max_quarantined,
    )
    return picks[good[picks[:, 0]]]


def input_noise(student: Generation, stream: str) -> InputNoise:
    """Returns the input noise of a stream; none where images are not noised."""
    if not student.spec.noises_images:
        return InputNoise()
    return make_noise(student.spec.config.noise[stream]).input


def make_lanes(section: ConfigDict) -> Lanes | None:
    """Returns the block shuffle of the config's ``data`` section, or None."""
    if section.lanes is None:
        return None
    return Lanes(section.lanes, section.lane_block, section.lane_window)


def open_pipeline(
    student: Generation, learned: Streams, mesh: Mesh, preprocessing: Preprocessor
) -> ResidentPipeline | HostedPipeline:
    """Chooses a student's input pipeline and opens it.

    Encoded images are streamed. Other images reside on the devices if they fit and are
    not randomly cropped; otherwise the host feeds them.

    Args:
      student: the student to be trained.
      learned: its streams.
      mesh: the devices.
      preprocessing: preprocessing of the streams' images.
    """
    data = student.run.config.data
    numbers = {"seed": student.run.config.seed, "generation": student.spec.number}
    shared = (learned.both, student.spec.layout, mesh, preprocessing)
    sources = [stream.source for stream in learned.both]
    images = sum(_distinct(stream) for stream in learned.both)
    if is_resident(student, sources, images):
        return ResidentPipeline(*shared, **numbers)
    feed: Feed
    if any(is_encoded(source) for source in sources):
        # TensorFlow is optional, and slow to import.
        from noisy_student_jax.data.streaming.feed import StreamingFeed

        assert isinstance(preprocessing, Preprocessing), "features are not encoded"
        noised = data.augment == "host"
        feed = StreamingFeed(
            learned.both,
            student.spec.layout,
            mesh,
            preprocessing=preprocessing,
            **numbers,
            noised=noised,
            decoder=data.decoder,
        )
    else:
        feed = SourceFeed(*shared, **numbers, decoder=data.decoder)
    quarantine = Quarantine(
        student.paths.training / QUARANTINE,
        records=images,
        most=data.max_quarantined,
    )
    return HostedPipeline(
        learned.both, student.spec.layout, mesh, feed, quarantine, **numbers
    )


def is_resident(student: Generation, sources: list[Source], images: int) -> bool:
    """Whether a student's images reside on the devices.

    Args:
      student: the student.
      sources: the sources of its streams.
      images: number of distinct images that it draws.
    """
    spec = student.spec
    noise = spec.config.noise
    if spec.config.train.part == "all":
        if any(noise[stream].crop_area for stream in STREAMS[: len(sources)]):
            return False
        if any(is_encoded(source) for source in sources):
            return False
    each = record_bytes(sources[0])
    if each is None:
        each = 3 * spec.model.resolution**2
    if spec.taught_by:
        each += 3 * spec.taught_by.resolution**2
    held = images * each
    return held <= student.run.config.data.resident_gigabytes * 1e9


def _distinct(stream: Stream) -> int:
    return len(np.unique(stream.picks[:, 0]))


def labeled_draws(run: Run) -> np.ndarray:
    """Returns the labeled record of each draw of an epoch, int64 ``[draws]``."""
    source = run.dataset.labeled
    records = np.arange(len(source))
    if not hasattr(run.task, "repeats"):
        return records
    keys = [source.key(record) for record in records.tolist()]
    return np.repeat(records, run.task.repeats(labels_of(source), keys))


def _labeled(student: Generation) -> Stream:
    source, rows = student.run.dataset.labeled, labeled_draws(student.run)
    return Stream(
        source=source,
        picks=np.stack([rows, rows], axis=1),
        targets=student.run.task.targets(labels_of(source)),
        to_target=lambda stored: stored,
        noise=make_noise(student.spec.config.noise.labeled),
        lanes=make_lanes(student.run.config.data),
        moved=getattr(student.run.task, "moved", None),
    )


def _check_keys(teacher: Generation, picks: np.ndarray, pool: Source) -> None:
    """Checks that each label belongs to the image that it is joined to.

    Args:
      teacher: the generation whose labels were selected.
      picks: int64 ``[records, 2]``: record of the pool, row of the plan.
      pool: the unlabeled images.

    Raises:
      UserError: the plan was made from labels of another pool.
    """
    folder = teacher.paths.selection
    planned = files.read_parquet(folder / selection.PLAN, columns=["key"])["key"]
    planned = planned.combine_chunks()
    for record, row in picks.tolist():
        key = planned[row].as_py()
        if record >= len(pool) or pool.key(record) != key:
            raise UserError(
                f"'{folder}' gives record {record} of the pool the label of '{key}',"
                " which is another image: there are files in the labels' folder that"
                " are not of this run; take them out, and select again"
            )


def _pseudo_labeled(
    student: Generation, teacher: Generation
) -> tuple[Stream, np.ndarray]:
    """Returns the pseudo-labeled stream and the hashes of its records' keys."""
    pool = student.run.dataset.pool
    picks, targets = selection.load_picks(teacher.paths.selection)
    drawn, first = np.unique(picks[:, 0], return_index=True)
    _check_keys(teacher, picks[first], pool)
    stream = Stream(
        source=pool,
        picks=picks,
        targets=targets,
        to_target=student.run.task.pseudo_targets,
        noise=make_noise(student.spec.config.noise.pseudo),
        lanes=make_lanes(student.run.config.data),
        moved=getattr(student.run.task, "moved", None),
    )
    return stream, key_hashes(pool, drawn.tolist())

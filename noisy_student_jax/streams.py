"""What a student learns from: its labelled stream, and its second one."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from noisy_student_jax.augment.noise import InputNoise
from noisy_student_jax.checkpoints import bundle as bundles
from noisy_student_jax.data.resident import Noise, Stream
from noisy_student_jax.data.sources import Source, key_hashes, read_all_good
from noisy_student_jax.errors import UserError
from noisy_student_jax.pseudo_labels import selection
from noisy_student_jax.randaugment import RandAugmentConstants
from noisy_student_jax.run import CONTROL, Student


@dataclasses.dataclass(frozen=True)
class Streams:
    """Both streams of a student.

    Attributes:
      labelled: the labelled images.
      second: the pseudo-labelled images; for the control the labelled ones again,
        so that it makes as many image draws as the student; None for a teacher
        that learns from labels only.
      trained_on: hashes of the keys of all records that the student, or a teacher
        before it, learns from.
    """

    labelled: Stream
    second: Stream | None
    trained_on: np.ndarray


def make(student: Student) -> Streams:
    """Reads a student's images, and the labels that its teacher gave.

    Raises:
      UserError: an image cannot be used, or there is no selection yet.
    """
    labelled = _labelled(student)
    own = key_hashes(student.run.dataset.labelled)
    if not student.layout.pseudo:
        return Streams(labelled, None, own)
    if student.generation == CONTROL:
        noise = make_noise(student.config.noise.pseudo)
        return Streams(labelled, dataclasses.replace(labelled, noise=noise), own)
    pseudo, drawn = _pseudo_labelled(student)
    teacher = bundles.read(student.teacher.folder / "model")
    learnt = np.concatenate([own, drawn, teacher.trained_on])
    return Streams(labelled, pseudo, np.unique(learnt))


def make_noise(section: Any) -> Noise:
    """Reads one stream's noise from its section of the config."""
    return Noise(
        InputNoise(
            randaugment_layers=section.randaugment_layers,
            randaugment_magnitude=section.randaugment_magnitude,
            constants=RandAugmentConstants(
                translate=section.randaugment_translate,
                cutout=section.randaugment_cutout,
            ),
            flip=section.flip,
            crop_padding=section.crop_padding,
            cutout_size=section.cutout_size,
        ),
        dropout=section.dropout,
        stochastic_depth=section.stochastic_depth,
    )


def _labelled(student: Student) -> Stream:
    source = student.run.dataset.labelled
    images, labels = read_all_good(source, student.preprocessing, part="labelled")
    rows = np.arange(len(source))
    return Stream(
        images=images,
        picks=np.stack([rows, rows], axis=1),
        targets=student.run.task.targets(labels),
        to_target=lambda stored: stored,
        noise=make_noise(student.config.noise.labelled),
        keys=source.key,
    )


def _check_keys(student: Student, picks: np.ndarray, pool: Source) -> None:
    """Makes sure that each label is of the image that it is joined to.

    Args:
      student: to be trained on them.
      picks: int64 ``[records, 2]``: record of the pool, row of the plan.
      pool: the unlabelled images.

    Raises:
      UserError: the plan was made from labels of another pool.
    """
    folder = student.teacher.folder / "selection"
    planned = pq.read_table(folder / selection.PLAN, columns=["key"])[
        "key"
    ].combine_chunks()
    for record, row in picks.tolist():
        key = planned[row].as_py()
        if record >= len(pool) or pool.key(record) != key:
            raise UserError(
                f"'{folder}' gives record {record} of the pool the label of '{key}',"
                " which is another image: there are files in the labels' folder that"
                " are not of this run; take them out, and select again"
            )


def _pseudo_labelled(student: Student) -> tuple[Stream, np.ndarray]:
    """Returns the stream, and the hashes of the keys in it."""
    pool = student.run.dataset.pool
    picks, targets = selection.load_picks(student.teacher.folder / "selection")
    drawn, first, rows = np.unique(picks[:, 0], return_index=True, return_inverse=True)
    _check_keys(student, picks[first], pool)
    images, _ = read_all_good(pool, student.preprocessing, drawn, part="pool")
    stream = Stream(
        images=images,
        picks=np.stack([rows, picks[:, 1]], axis=1),
        targets={name: np.asarray(array) for name, array in targets.items()},
        to_target=student.run.task.pseudo_targets,
        noise=make_noise(student.config.noise.pseudo),
        keys=lambda row: pool.key(int(drawn[row])),
    )
    return stream, key_hashes(pool, drawn)

"""Writes what a training ends with: the bundles of its averaged and raw weights."""

import pathlib

import numpy as np

from noisy_student_jax.core.types import PyTree
from noisy_student_jax.generation import init_weights
from noisy_student_jax.generation.trainable import Part
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.runs import fixres


def write_bundles(
    trained: Part,
    *,
    averaged: PyTree,
    raw: PyTree,
    trained_on: np.ndarray,
    views: int | None = None,
) -> str:
    """Writes the EMA and raw bundles; returns the SHA-256 of the EMA weights.

    Args:
      trained: the part of the model that was trained.
      averaged: its averaged variables, on the host.
      raw: its raw variables, on the host.
      trained_on: hashes of the keys of the records that it has learned from.
      views: number of views that it predicts from; None for the config's.
    """
    student = trained.student
    run, spec, paths = student.run, student.spec, student.paths
    teacher, start = student.teacher, init_weights.given(student)
    taught_by = bundles.read(teacher.paths.model).sha256 if teacher else None
    model = spec.model if views is None else spec.model.in_views(views)
    refined = {}
    if spec.fine_tunes:
        refined["fixres"] = fixres.origin(
            resolution=spec.model.resolution,
            trained_at=student.trained.spec.model.resolution,
            frozen_blocks=spec.config.fixres.frozen_blocks,
            steps=spec.schedule.steps,
            sha256=bundles.read(student.trained.paths.averaged).sha256,
        )
    if scales := run.decoding_scales:
        refined["scales"] = scales

    def write(variables: PyTree, weights: str, folder: pathlib.Path) -> str:
        bundle = Bundle(
            architecture=model.name,
            arguments=model.arguments,
            preprocessing=model.preprocessing,
            task=run.config.task,
            classes=run.dataset.classes,
            variables=trained.whole(variables),
            origin={
                "generation": spec.generation,
                "dataset": run.dataset.name,
                "steps": student.trained.spec.schedule.steps,
                "seed": run.config.seed,
                "weights": weights,
                "teacher": taught_by,
                "started_from": start.sha256 if start else None,
                "part_trained": spec.config.train.part,
                **refined,
            },
            trained_on=trained_on,
        )
        return bundles.write(bundle, folder).sha256

    write(raw, "raw", paths.raw_model)
    return write(averaged, "ema", paths.averaged)

"""A study of transfer: models on one target, by probes and by fine-tuning."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from noisy_student_jax.core.console import Progress
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.data.sources import labels_of
from noisy_student_jax.features.store import FOLDER as FEATURES
from noisy_student_jax.features.store import FeatureStore
from noisy_student_jax.generation.evaluate import refuse_overlap
from noisy_student_jax.runs.paths import PREPARED
from noisy_student_jax.runs.run import with_places
from noisy_student_jax.studies.transfer import probe as probing
from noisy_student_jax.studies.transfer import target as targets
from noisy_student_jax.studies.transfer.checkpoints import CONTROL, TEACHER, Checkpoint
from noisy_student_jax.studies.transfer.differences import Measure, effects
from noisy_student_jax.studies.transfer.fine_tuning import FineTuned, fine_tune
from noisy_student_jax.studies.transfer.probe import Probed

SCHEMA = 1
FINE_TUNED = "fine-tuned"


def compare(
    models: Sequence[Checkpoint],
    place: str,
    shots: Sequence[int],
    workdir: pathlib.Path,
    *,
    fine_tuned: bool,
    interruption: Interruption,
) -> dict[str, Any]:
    """Compares models on a target.

    Args:
      models: the models.
      place: the target, see `target.section`.
      shots: numbers of images of each class that probes learn from.
      workdir: keeps prepared images, features and fine-tunings.
      fine_tuned: whether the models are fine-tuned as well.
      interruption: polled in all that takes long.

    Returns:
      For JSON: the ``models`` with what was measured of each, the paired
      ``differences`` from teacher and control, and the ``effects`` in words.

    Raises:
      UserError: the target cannot be used, or a model has learned from its test images.
    """
    progress = Progress()
    side = max(one.side for one in models)
    data = targets.section(place, workdir, side=side)
    target = targets.opened(
        with_places(data, workdir, side=side),
        interruption=interruption,
        progress=progress,
    )
    probing.check_shots(target, shots)
    for one in models:
        try:
            refuse_overlap(one.bundle, target.test)
        except UserError as error:
            raise UserError(f"{one.name}: {error}") from None
    store = FeatureStore(workdir / PREPARED / FEATURES, interruption, progress)
    truth = labels_of(target.test)
    probed: dict[str, dict[int, Probed]] = {}
    for one in models:
        progress.begin(one.name, work=0.0)
        train = probing.features(store, one, target.train, "training")
        test = probing.features(store, one, target.test, "test")
        probed[one.name] = probing.probe(
            train, test, target, truth, shots, check=interruption.check
        )
    tuned: dict[str, FineTuned] = {}
    for one in models if fine_tuned else ():
        tuned[one.name] = fine_tune(
            one, data, target, workdir, interruption=interruption
        )
    measures = {
        shots_of(count): Measure(
            {name: own[count].right for name, own in probed.items()}
        )
        for count in shots
    }
    if tuned:
        own = {name: one.right for name, one in tuned.items()}
        measures[FINE_TUNED] = Measure(own)
    return {
        "schema": SCHEMA,
        "target": {
            "name": target.name,
            "classes": list(target.classes),
            "train": len(target.train),
            "test": len(target.test),
        },
        "draws": probing.DRAWS,
        "models": [
            _entry(one, probed[one.name], tuned.get(one.name)) for one in models
        ],
        "differences": _differences(models, measures),
        "effects": _effects(models, measures),
    }


def shots_of(count: int) -> str:
    """Names the probe with so many shots."""
    return f"{count}-shot"


def _entry(
    one: Checkpoint, probed: dict[int, Probed], tuned: FineTuned | None
) -> dict[str, Any]:
    measured = {}
    for count, own in probed.items():
        accuracies = own.right.mean(axis=1)
        measured[shots_of(count)] = {
            "mean": float(accuracies.mean()),
            "sd": float(accuracies.std(ddof=1)),
            "accuracies": accuracies.tolist(),
            "penalties": own.penalties,
        }
    entry = {
        "name": one.name,
        "architecture": one.bundle.architecture,
        "parameters": one.parameters,
        "sha256": one.bundle.sha256,
        "source": one.source(),
        "probe": measured,
    }
    if tuned is not None:
        entry[FINE_TUNED] = {
            "accuracy": float(tuned.right.mean()),
            "learning_rate": tuned.rate,
            "validation": {
                f"{rate:g}": top1 for rate, top1 in tuned.validation.items()
            },
        }
    return entry


def _differences(
    models: Sequence[Checkpoint], measures: dict[str, Measure]
) -> list[dict[str, Any]]:
    names = [one.name for one in models]
    found = []
    for rival in (TEACHER, CONTROL):
        for name in names if rival in names else ():
            for measure, own in measures.items() if name != rival else ():
                gap = own.difference(name, rival)
                found.append(
                    {
                        "model": name,
                        "against": rival,
                        "measure": measure,
                        **dataclasses.asdict(gap),
                        "outcome": gap.outcome,
                    }
                )
    return found


def _effects(
    models: Sequence[Checkpoint], measures: dict[str, Measure]
) -> list[dict[str, str]]:
    """Returns the effects by the probe of most shots, and by fine-tuning if it was."""
    last = list(measures)[-2:] if FINE_TUNED in measures else list(measures)[-1:]
    found = []
    for one in effects(models):
        told = []
        for measure in last:
            gap = measures[measure].difference(one.ours, one.theirs)
            told.append(f"{measure} {gap}, {gap.outcome}")
        found.append(
            {
                "name": one.name,
                "model": one.ours,
                "against": one.theirs,
                "says": f"effect of {one.name} ({one.ours} − {one.theirs}):"
                f" {'; '.join(told)}",
            }
        )
    return found

"""A folder laid out for the Hugging Face hub: weights, config, bundle, model card."""

import pathlib
from typing import Any

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Task
from noisy_student_jax.interop import timm_names
from noisy_student_jax.interop.export import model_card, to_timm
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle

CONFIG = "config.json"
README = "README.md"
OWN = "noisy_student"
"""Where the bundle is, if the folder's own weights are for timm."""


def export(
    bundle: Bundle, output: pathlib.Path, *, task: Task, source: pathlib.Path
) -> str:
    """Writes a folder to push.

    Where timm has the model, the folder is timm's, and the bundle is in `OWN`;
    otherwise the folder is the bundle.

    Args:
      bundle: to be written.
      output: the directory to be.
      task: the bundle's own.
      source: where the bundle is; an evaluation is looked for beside it.

    Returns:
      What was written.
    """
    for_timm = _for_timm(bundle)
    evaluation = find_evaluation(source, bundle.sha256)
    with files.atomic_directory(output) as folder:
        own = folder / OWN if for_timm else folder
        bundles.write(bundle, own)
        if for_timm:
            to_timm.export(bundle, folder / bundles.WEIGHTS)
            config = to_timm.config(bundle)
        else:
            config = _config(bundle)
        files.write_json(folder / CONFIG, config)
        files.write_atomically(
            folder / README,
            model_card.text(
                bundle,
                evaluation,
                primary_metric=task.primary_metric,
                timm=config["architecture"] if for_timm else None,
                own=OWN if for_timm else ".",
            ),
        )
    how = (
        "timm's names, and the bundle itself" if for_timm else "the bundle's own names"
    )
    found = "with" if evaluation else "without"
    return (
        f"weights under {how}; a model card {found} metrics: fill in what it calls"
        " unknown before you push it"
    )


def find_evaluation(source: pathlib.Path, sha256: str) -> dict[str, Any] | None:
    """Looks for the run's evaluation of exactly these weights.

    Args:
      source: a bundle's directory: ``generation_N/model`` or ``best`` of a run, or a
        copy with an ``evaluation.json`` in it or beside it.
      sha256: of the weights.
    """
    folder = source.parent if source.is_file() else source
    folder = folder.absolute()
    name = "evaluation.json"
    places = [folder / name, folder.parent / name]
    places += sorted(folder.parent.glob(f"*/{name}"))
    for place in places:
        if place.is_file():
            found = files.read_json(place)
            if isinstance(found, dict) and found.get("sha256") == sha256:
                return found
    return None


def _for_timm(bundle: Bundle) -> bool:
    """Whether timm computes what the bundle's model computes."""
    if bundle.task != "classification" or bundle.architecture not in timm_names.MODELS:
        return False
    try:
        to_timm.model_name(bundle)
    except UserError:
        return False
    return True


def _config(bundle: Bundle) -> dict[str, Any]:
    return {
        "library_name": "noisy-student-jax",
        "model": bundles.CARD,
        "num_classes": len(bundle.classes),
        "label_names": list(bundle.classes),
    }

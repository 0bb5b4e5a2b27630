"""Exports to a folder for the Hugging Face Hub: weights, config, bundle, model card."""

import pathlib
from typing import Any

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Task
from noisy_student_jax.interop.export import model_card, to_timm
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.bundle import Bundle

CONFIG = "config.json"
README = "README.md"
OWN = "noisy_student"
"""Subfolder of the bundle, if the weights at the top are for timm."""


def export(
    bundle: Bundle, output: pathlib.Path, *, task: Task, source: pathlib.Path
) -> str:
    """Writes a folder to push to the Hub.

    If timm has the model, the folder has timm's layout, with the bundle in `OWN`;
    otherwise the folder is the bundle.

    Args:
      bundle: the bundle to export.
      output: the directory to create.
      task: the bundle's task.
      source: location of the bundle; its evaluation is searched for nearby.

    Returns:
      A description of the result, for the console.
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
                task=task,
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
    """Finds the evaluation of exactly these weights; None if there is none.

    Args:
      source: a bundle's directory: ``generation_N/model`` or ``best`` of a run, or a
        copy with an ``evaluation.json`` in it or beside it.
      sha256: SHA-256 of the weights.
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
    """Whether timm has an equivalent model."""
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

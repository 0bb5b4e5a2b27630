"""Pairs of images that should not be alike: in two classes, or near test images."""

from typing import Any

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.sources import Alike
from noisy_student_jax.report.gallery import one_line, tile
from noisy_student_jax.runs.run import Run


def alike(run: Run) -> dict[str, Any]:
    """Returns the pairs that the dataset names, by kind, with their pictures."""
    try:
        kinds: dict[str, list[dict[str, Any]]] = {}
        for pair in run.dataset.alike:
            kinds.setdefault(pair.what, []).append(_shown(pair))
    except (UserError, OSError, ValueError, LookupError, RuntimeError) as error:
        # Data may be unavailable by now; the report is written without it.
        return {"missing": one_line(error), "kinds": {}}
    return {"missing": None, "kinds": kinds}


def _shown(pair: Alike) -> dict[str, Any]:
    tiles = []
    for key, caption, source in zip(pair.keys, pair.captions, pair.images, strict=True):
        examples = source.read([0])
        shown = tile(key, examples.images[0], examples.status[0])
        tiles.append(shown | {"caption": caption})
    if pair.distance is None:
        return {"says": "the same pixels", "tiles": tiles}
    bits = "bit" if pair.distance == 1 else "bits"
    return {"says": f"{pair.distance} {bits} apart", "tiles": tiles}

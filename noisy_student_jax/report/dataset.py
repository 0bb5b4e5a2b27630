"""The report's section on the dataset: its parts, quarantine and contact sheet."""

import base64
import io
import pathlib
from typing import Any

from PIL.PngImagePlugin import PngImageFile

from noisy_student_jax.config import renamed
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.report.contact_sheet import CONTACT_SHEET
from noisy_student_jax.report.formatting import NOTHING, count
from noisy_student_jax.report.gallery import data_url
from noisy_student_jax.report.provenance import written
from noisy_student_jax.report.quarantine import quarantine
from noisy_student_jax.runs.paths import DATASET
from noisy_student_jax.runs.write_splits import QUARANTINE

_MOST_BYTES = 500_000
"""Pictures of photographs take several times fewer bytes as JPEG."""


def dataset(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns parts, facts, quarantined files and the contact sheet."""
    return {
        **_parts(workdir / DATASET),
        "quarantine": quarantine(workdir / QUARANTINE),
        "contact_sheet": _picture(workdir / CONTACT_SHEET),
    }


def _parts(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = renamed.respelled(files.read_json(path))
        rows = [
            {
                "part": part,
                "images": count(number),
                "fingerprint": (found.get("fingerprints") or {}).get(part, NOTHING)[
                    :16
                ],
            }
            for part, number in found["splits"].items()
        ]
    except FileNotFoundError:
        return {"missing": f"{DATASET} is not there", "rows": [], "facts": []}
    except (UserError, KeyError, TypeError, AttributeError):
        return {"missing": f"{DATASET} is damaged", "rows": [], "facts": []}
    facts = [(name, written(v)) for name, v in (found.get("facts") or {}).items()]
    return {"missing": None, "rows": rows, "facts": facts}


def _picture(path: pathlib.Path) -> str | None:
    """Returns a PNG file as a data URL, a large one as JPEG; None if it is missing."""
    try:
        data = files.read_bytes(path)
        if len(data) > _MOST_BYTES:
            with PngImageFile(io.BytesIO(data)) as picture:
                return data_url(picture.convert("RGB"), "JPEG", quality=85)
    except OSError:
        return None
    return "data:image/png;base64," + base64.b64encode(data).decode()

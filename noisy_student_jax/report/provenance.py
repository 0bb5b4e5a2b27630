"""The report's section on provenance: config, environments and stages."""

import json
import re
from typing import Any

from noisy_student_jax.config import GENERATION_SECTIONS, flatten, plain, renamed
from noisy_student_jax.config.schema import LABELS_ONLY
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.report.formatting import NOTHING, seconds
from noisy_student_jax.runs.run import Run
from noisy_student_jax.runs.spec import Role


def provenance(run: Run) -> dict[str, Any]:
    """Returns config, environments and stages."""
    manifests = _manifests(run)
    return {
        "config": _config(run),
        "environments": _environments(manifests),
        "stages": _stages(manifests),
    }


def _config(run: Run) -> dict[str, Any]:
    """Returns the config as two tables: shared fields, and fields of each model."""
    config = plain(run.config)
    shared = {
        name: value
        for name, value in config.items()
        if name not in (*GENERATION_SECTIONS, "generations", *LABELS_ONLY)
    }
    trained = {
        f"generation {number}": flatten(one)
        for number, one in enumerate(config["generations"])
    }
    for name in run.compared_with:
        own = {k: v for k, v in config[name].items() if k != "enabled"}
        trained[Role(name).display_name] = flatten(own)
    fields = list(dict.fromkeys(name for one in trained.values() for name in one))
    rows = []
    for field in fields:
        values = [written(one.get(field, NOTHING)) for one in trained.values()]
        rows.append({"field": field, "cells": values, "same": len(set(values)) == 1})
    switches = {f"{name}.enabled": config[name]["enabled"] for name in LABELS_ONLY}
    run_level = {**flatten(shared), **switches}
    return {
        "run": [(name, written(value)) for name, value in run_level.items()],
        "columns": list(trained),
        "rows": rows,
    }


def _manifests(run: Run) -> list[dict[str, Any]]:
    """Returns the manifests of the finished stages, in order."""
    found = []
    for path in files.list_folder(run.ledger.folder, pattern="*.json"):
        if path.name.endswith(".started.json"):
            continue
        try:
            manifest = renamed.respelled(files.read_json(path))
        except UserError:
            continue
        # A manifest of the report stage belongs to an earlier report.
        if isinstance(manifest, dict) and manifest.get("stage", "report") != "report":
            found.append(manifest)
    return sorted(found, key=lambda one: _place(one["stage"]))


def _place(stage: str) -> tuple[int, int, str]:
    owner, _, kind = stage.partition("/")
    kinds = ("train", "fixres", "evaluate", "label", "select")
    number = re.fullmatch(r"generation_(\d+)", owner)
    order = kinds.index(kind) if kind in kinds else len(kinds)
    if number:
        return int(number[1]), order, stage
    return (-1 if owner == "data" else 1 << 30), order, stage


def _stages(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    longest = max((one.get("seconds") or 0 for one in manifests), default=0) or 1
    return [
        {
            "name": one["stage"].replace("_", " "),
            "seconds": seconds(one.get("seconds")),
            "share": f"{100 * (one.get('seconds') or 0) / longest:.1f}",
            "started": (one.get("started") or NOTHING).replace("T", " "),
            "finished": (one.get("finished") or NOTHING).replace("T", " "),
        }
        for one in manifests
    ]


def _environments(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns each distinct environment and its stages."""
    found: dict[str, dict[str, Any]] = {}
    for one in manifests:
        environment = one.get("environment") or {}
        same = found.setdefault(
            json.dumps(environment, sort_keys=True),
            {
                "facts": [
                    (name.removeprefix("versions."), written(value))
                    for name, value in flatten(environment).items()
                ],
                "stages": [],
            },
        )
        same["stages"].append(one["stage"].replace("_", " "))
    return list(found.values())


def written(value: Any) -> str:
    """Formats a config value for reading."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(written, value)) or "none"
    if isinstance(value, dict):
        return "none" if not value else json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)

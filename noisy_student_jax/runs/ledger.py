"""The ledger: which stages happened, from what, and what came out.

``WORKDIR/ledger/NAME.json`` is written last, after everything a stage makes. A
stage without it did not happen; one with it is skipped, as long as the config
fields and the inputs that it read are unchanged and its files are what they were.
``NAME.started.json`` says what an unfinished stage was started with, so that it is
never continued as something else. Nothing is deleted: what has to be made again is
moved to ``WORKDIR/superseded``.
"""

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import time
from typing import Any

from noisy_student_jax.config import flatten, renamed
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError

VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Identity:
    """Everything a stage's result depends on.

    Attributes:
      config: the identity fields of the config that the stage reads.
      inputs: digest of each input, by name.
    """

    config: dict[str, Any]
    inputs: dict[str, str]

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Says how a recorded identity differs from this one, a phrase each."""
        phrases = []
        ours, theirs = flatten(_jsonable(self.config)), flatten(other["config"])
        for key in sorted(ours.keys() | theirs.keys()):
            old, new = theirs.get(key, "(absent)"), ours.get(key, "(absent)")
            if old != new:
                old, new = ("none" if one is None else one for one in (old, new))
                phrases.append(f"config.{key}: {old} → {new}")
        for name in sorted(self.inputs.keys() | other["inputs"].keys()):
            if self.inputs.get(name) != other["inputs"].get(name):
                phrases.append(f"input '{name}'")
        return phrases

    def record(self) -> dict[str, Any]:
        """Returns what the ledger keeps of it."""
        return {"config": _jsonable(self.config), "inputs": self.inputs}


class Ledger:
    """The ledger of one run directory."""

    def __init__(self, workdir: pathlib.Path):
        """Opens it; makes nothing until a stage begins."""
        self.workdir = workdir
        self.folder = workdir / "ledger"

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """Returns the manifest of a finished stage, or None."""
        return _read(self._path(stage))

    def finished(self, stage: str) -> dict[str, Any]:
        """Returns the manifest of a stage that must have finished.

        Raises:
          UserError: the stage has not finished.
        """
        manifest = self.manifest(stage)
        if manifest is None:
            raise UserError(
                f"stage {stage} has not finished in '{self.workdir}': run it first"
            )
        return manifest

    def started(self, stage: str) -> dict[str, Any] | None:
        """Returns what an unfinished stage was started with, or None."""
        return _read(self._path(stage, ".started"))

    def outputs_digest(self, stage: str) -> str:
        """Returns one digest over all files that a finished stage made.

        Raises:
          UserError: the stage has not finished.
        """
        return files.digest(self.finished(stage)["outputs"])

    def changed_outputs(self, stage: str, outputs: list[str]) -> list[str]:
        """Returns files of a finished stage that changed, went, or came.

        Args:
          stage: its name.
          outputs: files and folders that it makes, relative to the run directory.
        """
        recorded = self.finished(stage)["outputs"]
        found = files.tree_hashes(self.workdir, outputs)
        return sorted(
            path
            for path in recorded.keys() | found.keys()
            if recorded.get(path) != found.get(path)
        )

    def begin(self, stage: str, identity: Identity) -> None:
        """Notes that a stage starts with this identity."""
        record = {
            "stage": stage,
            **identity.record(),
            "environment": environment(),
            "at": _now(),
        }
        files.write_json(self._path(stage, ".started"), record)

    def forget_start(self, stage: str) -> None:
        """Removes the note of a start that a finished stage no longer needs."""
        files.remove(self._path(stage, ".started"))

    def spend(self, stage: str, seconds: float) -> None:
        """Adds time to what an unfinished stage has taken so far."""
        if record := self.started(stage):
            record["seconds"] = record.get("seconds", 0.0) + seconds
            files.write_json(self._path(stage, ".started"), record)

    def finish(
        self,
        stage: str,
        identity: Identity,
        *,
        outputs: list[str],
        counts: dict[str, Any],
        seconds: float,
    ) -> None:
        """Hashes the stage's files and writes its manifest, the last thing it does."""
        started = self.started(stage) or {}
        record = {
            "schema": 1,
            "stage": stage,
            **identity.record(),
            "outputs": files.tree_hashes(self.workdir, outputs),
            "counts": counts,
            "seconds": round(started.get("seconds", 0.0) + seconds, 3),
            "environment": environment(),
            "started": started.get("at"),
            "finished": _now(),
        }
        files.write_json(self._path(stage), record)
        self.forget_start(stage)

    def supersede(self, stage: str, outputs: list[str]) -> pathlib.Path | None:
        """Moves a stage's files and records out of the way; deletes nothing.

        Returns:
          The folder they are in now, or None if there were none.
        """
        moved = [self._path(stage), self._path(stage, ".started")]
        moved += [self.workdir / path for path in outputs]
        if not any(map(files.exists, moved)):
            return None
        number = 1
        while (folder := self.workdir / "superseded" / str(number)) and any(
            files.exists(folder / path.relative_to(self.workdir)) for path in moved
        ):
            number += 1
        # Folders before what is in them.
        for path in sorted(moved):
            if not files.exists(path):
                continue  # moved already, with the folder it was in
            files.move(path, folder / path.relative_to(self.workdir))
        return folder

    def misplaced(self, stage: str, elsewhere: dict[str, str]) -> dict[str, str]:
        """Returns the outputs of a finished stage that have another name so far.

        Args:
          stage: its name.
          elsewhere: the other name of an output, by the name that it should have.

        Returns:
          Some of `elsewhere`.
        """
        recorded = self.finished(stage)["outputs"]
        return {
            new: old
            for new, old in elsewhere.items()
            if any(path.startswith(f"{old}/") for path in recorded)
        }

    def relocate(self, stage: str, old: str, new: str) -> None:
        """Gives an output of a finished stage another name.

        It is copied, so that at every moment its manifest is true; what remains under
        the old name belongs to nobody. What another stage had made under the new name
        is moved to ``superseded``, with the rest of that stage.

        Args:
          stage: its name.
          old: the output, a folder, relative to the run directory.
          new: what it is to be called.
        """
        for path in files.list_folder(self.folder, pattern="*.json"):
            record = files.read_json(path)
            made = record.get("outputs", {})
            if any(name.startswith(f"{new}/") for name in made):
                folders = {"/".join(name.split("/")[:2]) for name in made}
                self.supersede(record["stage"], sorted(folders))
        files.remove(self.workdir / new)
        files.copy_folder(self.workdir / old, self.workdir / new)
        manifest = self.finished(stage)
        manifest["outputs"] = {
            f"{new}/{path.removeprefix(f'{old}/')}"
            if path.startswith(f"{old}/")
            else path: digest
            for path, digest in manifest["outputs"].items()
        }
        files.write_json(self._path(stage), manifest)

    def _path(self, stage: str, suffix: str = "") -> pathlib.Path:
        return self.folder / f"{stage.replace('/', '.')}{suffix}.json"


def environment() -> dict[str, Any]:
    """What bit-equality depends on: machine, cores, devices, versions."""
    import jax

    return {
        "platform": jax.default_backend(),
        "devices": jax.device_count(),
        "device_kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }


def environment_changes(before: dict[str, Any]) -> list[str]:
    """Says what of a recorded environment is different now, a phrase each."""
    now, before = flatten(environment()), flatten(before)
    return [
        f"{key}: {before.get(key)} → {now.get(key)}"
        for key in sorted(now.keys() | before.keys())
        if now.get(key) != before.get(key)
    ]


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    return renamed.record(files.read_json(path)) if files.is_file(path) else None


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(member) for member in value]
    return value


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")

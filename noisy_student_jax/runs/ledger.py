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
import shutil
import time
from typing import Any

from noisy_student_jax.core import files
from noisy_student_jax.config import flatten, renamed
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

    def started(self, stage: str) -> dict[str, Any] | None:
        """Returns what an unfinished stage was started with, or None."""
        return _read(self._path(stage, ".started"))

    def outputs_digest(self, stage: str) -> str:
        """Returns one digest over all files that a finished stage made.

        Raises:
          UserError: the stage has not finished.
        """
        manifest = self.manifest(stage)
        if manifest is None:
            raise UserError(
                f"stage {stage} has not finished in '{self.workdir}': run it first"
            )
        return files.digest(manifest["outputs"])

    def changed_outputs(self, stage: str, outputs: list[str]) -> list[str]:
        """Returns files of a finished stage that changed, went, or came.

        Args:
          stage: its name.
          outputs: files and folders that it makes, relative to the run directory.
        """
        recorded = self.manifest(stage)["outputs"]
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
        self._path(stage, ".started").unlink(missing_ok=True)

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
        if not any(path.exists() for path in moved):
            return None
        number = 1
        while (folder := self.workdir / "superseded" / str(number)) and any(
            (folder / path.relative_to(self.workdir)).exists() for path in moved
        ):
            number += 1
        # Folders before what is in them.
        for path in sorted(moved):
            if not path.exists():
                continue  # moved already, with the folder it was in
            target = folder / path.relative_to(self.workdir)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        return folder

    def misplaced(self, stage: str, elsewhere: dict[str, str]) -> dict[str, str]:
        """Returns the outputs of a finished stage that have another name so far.

        Args:
          stage: its name.
          elsewhere: the other name of an output, by the name that it should have.

        Returns:
          Some of `elsewhere`.
        """
        recorded = self.manifest(stage)["outputs"]
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
        for path in self.folder.glob("*.json"):
            record = files.read_json(path)
            made = record.get("outputs", {})
            if any(name.startswith(f"{new}/") for name in made):
                folders = {"/".join(name.split("/")[:2]) for name in made}
                self.supersede(record["stage"], sorted(folders))
        shutil.rmtree(self.workdir / new, ignore_errors=True)
        with files.atomic_directory(self.workdir / new) as temporary:
            shutil.copytree(self.workdir / old, temporary, dirs_exist_ok=True)
        manifest = self.manifest(stage)
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
    return renamed.record(files.read_json(path)) if path.is_file() else None


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(member) for member in value]
    return value


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")

"""The ledger: records the finished stages of a run, their inputs and their outputs.

``WORKDIR/ledger/NAME.json`` is written last, after all outputs of a stage. A stage
without it has not finished; a stage with it is skipped, as long as its config fields,
its inputs and its output files are unchanged. ``NAME.started.json`` records the
identity of an unfinished stage, so that it is never continued under another one. Each
record carries a sum; one that is damaged, or another stage's, is not believed, and
files without a record are made again. Nothing is deleted: outdated files are moved to
``WORKDIR/superseded``.
"""

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import time
from collections.abc import Sequence
from typing import Any

from noisy_student_jax.config import flatten, renamed
from noisy_student_jax.core import environment as variables
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import DamagedFileError, UserError

STARTED = ".started"
"""Suffix of the name of an unfinished stage's record."""
VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

OBJECTS = ("config", "inputs", "environment")
"""Fields of a record that are objects."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """Everything that a stage's result depends on.

    Attributes:
      config: the config's identity fields that the stage reads.
      inputs: digest of each input, by name.
    """

    config: dict[str, Any]
    inputs: dict[str, str]

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Returns a phrase for each difference from a recorded identity."""
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

    def digest(self, stage: str) -> str:
        """Returns one digest of the identity of a stage of this name."""
        return files.digest({"stage": stage, **self.record()})

    def record(self) -> dict[str, Any]:
        """Returns the identity as the ledger stores it."""
        return {"config": _jsonable(self.config), "inputs": self.inputs}


class Ledger:
    """The ledger of one run directory."""

    def __init__(self, workdir: pathlib.Path):
        """Opens the ledger; nothing is written before a stage begins."""
        self.workdir = workdir
        self.folder = workdir / "ledger"

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """Returns the manifest of a finished stage; None if there is no whole one."""
        return self._believed(stage)

    def finished(self, stage: str) -> dict[str, Any]:
        """Returns the manifest of a finished stage.

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
        """Returns the start record of an unfinished stage; None without a whole one."""
        return self._believed(stage, STARTED)

    def fault(self, stage: str) -> str | None:
        """Returns why a record of a stage cannot be believed, as a phrase, or None."""
        for suffix in ("", STARTED):
            path = self._path(stage, suffix)
            try:
                if self._read(stage, suffix):
                    return None
            except DamagedFileError as error:
                where = path.relative_to(self.workdir)
                return f"its record '{where}' is damaged: {files.reason(error)}"
        return None

    def made_for(self, stage: str) -> str | None:
        """Returns a digest of the identity that an unfinished stage was started with.

        Files that a stage leaves for its own continuation carry it. None if the stage
        was started by an older version, whose files carry none.
        """
        return (self.started(stage) or {}).get("made_for")

    def outputs_digest(self, stage: str) -> str:
        """Returns one digest over all output files of a finished stage.

        Raises:
          UserError: the stage has not finished.
        """
        return files.digest(self.finished(stage)["outputs"])

    def changed_outputs(self, stage: str, outputs: list[str]) -> list[str]:
        """Returns the files of a finished stage that were changed, removed or added.

        Args:
          stage: name of the stage.
          outputs: its output files and folders, relative to the run directory.
        """
        recorded = self.finished(stage)["outputs"]
        found = files.tree_hashes(self.workdir, outputs)
        return sorted(
            path
            for path in recorded.keys() | found.keys()
            if recorded.get(path) != found.get(path)
        )

    def begin(self, stage: str, identity: Identity) -> None:
        """Records the start of a stage with this identity."""
        record = {
            "stage": stage,
            **identity.record(),
            "made_for": identity.digest(stage),
            "environment": environment(),
            "at": _now(),
        }
        self._write(stage, record, STARTED)

    def forget_start(self, stage: str) -> None:
        """Removes the start record of a finished stage."""
        files.remove(self._path(stage, STARTED))

    def end(self, stage: str, why: str) -> None:
        """Records that a stage which was started cannot give anything, and why."""
        if record := self.started(stage):
            self._write(stage, {**record, "ended": why}, STARTED)

    def spend(self, stage: str, seconds: float) -> None:
        """Adds seconds to the time that an unfinished stage has taken so far."""
        if record := self.started(stage):
            record["seconds"] = record.get("seconds", 0.0) + seconds
            self._write(stage, record, STARTED)

    def finish(
        self,
        stage: str,
        identity: Identity,
        *,
        outputs: list[str],
        counts: dict[str, Any],
        seconds: float,
    ) -> None:
        """Hashes the stage's outputs, then writes its manifest."""
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
        self._write(stage, record)
        self.forget_start(stage)

    def adopt(self, stage: str, manifest: dict[str, Any]) -> None:
        """Writes the manifest of a stage that another run has finished."""
        self._write(stage, manifest)
        self.forget_start(stage)

    def supersede(self, stage: str, outputs: list[str]) -> pathlib.Path | None:
        """Moves a stage's files and records to ``superseded``; deletes nothing.

        Returns:
          The folder that holds them now, or None if there were none.
        """
        # Records are moved last: until then they tell that the stage is outdated.
        moved = sorted(self.workdir / path for path in outputs)
        return self.set_aside([*moved, self._path(stage), self._path(stage, STARTED)])

    def set_aside(self, moved: Sequence[pathlib.Path]) -> pathlib.Path | None:
        """Moves files and folders of a run to ``superseded``; deletes nothing.

        Args:
          moved: their paths, folders before their files.

        Returns:
          The folder that holds them now, or None if there were none.
        """
        if not any(map(files.exists, moved)):
            return None
        number = 1
        while (folder := self.workdir / "superseded" / str(number)) and any(
            files.exists(folder / path.relative_to(self.workdir)) for path in moved
        ):
            number += 1
        for path in moved:
            if not files.exists(path):
                continue  # moved with its folder
            files.move(path, folder / path.relative_to(self.workdir))
        return folder

    def misplaced(self, stage: str, elsewhere: dict[str, str]) -> dict[str, str]:
        """Returns the outputs of a finished stage that still have another name.

        Args:
          stage: name of the stage.
          elsewhere: the other name of each output, by its current name.

        Returns:
          The entries of `elsewhere` that apply.
        """
        recorded = self.finished(stage)["outputs"]
        return {
            new: old
            for new, old in elsewhere.items()
            if any(path.startswith(f"{old}/") for path in recorded)
        }

    def relocate(self, stage: str, old: str, new: str) -> None:
        """Gives an output of a finished stage another name.

        The output is copied, so that its manifest is true at every moment; the files
        under the old name then belong to no stage. A stage with outputs under the new
        name is moved to ``superseded`` as a whole.

        Args:
          stage: name of the stage.
          old: the output folder, relative to the run directory.
          new: its new name.
        """
        for path in files.list_folder(self.folder, pattern="*.json"):
            try:
                record = files.read_json(path)
                made = record.get("outputs", {})
            except (DamagedFileError, AttributeError):
                continue  # `fault` names it
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
        self._write(stage, manifest)

    def _believed(self, stage: str, suffix: str = "") -> dict[str, Any] | None:
        try:
            return self._read(stage, suffix)
        except DamagedFileError:
            return None

    def _read(self, stage: str, suffix: str = "") -> dict[str, Any] | None:
        """Reads a record of a stage.

        Raises:
          DamagedFileError: it is damaged, or another stage's.
        """
        path = self._path(stage, suffix)
        if not files.is_file(path):
            return None
        found = files.read_json(path)
        objects = OBJECTS if suffix else (*OBJECTS, "outputs", "counts")
        reason = "it is no such record"
        if isinstance(found, dict) and all(
            isinstance(found.get(name), dict) for name in objects
        ):
            if found.get("stage") == stage:
                return renamed.record(found)
            reason = f"it is the record of {found.get('stage')}"
        raise DamagedFileError(f"'{path}' is damaged", reason)

    def _write(self, stage: str, record: dict[str, Any], suffix: str = "") -> None:
        files.write_json(self._path(stage, suffix), record, with_sum=True)

    def _path(self, stage: str, suffix: str = "") -> pathlib.Path:
        return self.folder / f"{stage.replace('/', '.')}{suffix}.json"


def environment() -> dict[str, Any]:
    """Returns the conditions of bit-equality: machine, cores, devices and versions."""
    import jax

    return {
        "platform": jax.default_backend(),
        "devices": jax.device_count(),
        "device_kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "variables": variables.recorded(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }


def environment_changes(before: dict[str, Any]) -> list[str]:
    """Returns a phrase for each difference between a recorded environment and now."""
    now, before = flatten(environment()), flatten(before)
    return [
        f"{key}: {before.get(key, 'none')} → {now.get(key, 'none')}"
        for key in sorted(now.keys() | before.keys())
        if now.get(key) != before.get(key)
    ]


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(member) for member in value]
    return value


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")

"""Stages that several runs share: what one of them has made, the others link.

A finished stage is kept in ``FOLDER/DIGEST``, where the digest is that of its name, its
config fields and its inputs: all that its result depends on. A run that needs a stage
of the same digest gets its output files and its manifest. Files are never changed in
place, so they are hard links where the file system has them.
"""

import pathlib

from noisy_student_jax.core import console, files
from noisy_student_jax.core.errors import DamagedFileError
from noisy_student_jax.runs.ledger import Identity, Ledger

MANIFEST = "manifest.json"
OUTPUTS = "outputs"


class SharedStages:
    """The finished stages that runs share."""

    def __init__(self, folder: pathlib.Path):
        """Opens a folder of stages; it is made when the first one is kept."""
        self.folder = folder

    def take(self, ledger: Ledger, stage: str, identity: Identity) -> bool:
        """Gives a run the files and the manifest of a stage, if it has been made.

        A kept stage whose files were changed is named and removed.

        Args:
          ledger: of the run.
          stage: name of the stage.
          identity: what its result depends on.

        Returns:
          Whether it had been made.
        """
        kept = self._place(stage, identity)
        if not files.exists(kept):
            return False
        try:
            manifest = files.read_json(kept / MANIFEST)
            whole = (
                files.tree_hashes(kept / OUTPUTS, list(manifest["outputs"]))
                == manifest["outputs"]
            )
        except (DamagedFileError, FileNotFoundError, KeyError, TypeError):
            whole = False
        if not whole:
            console.warn(f"'{kept}' is damaged: {stage} is made again")
            files.remove(kept)
            return False
        for path in manifest["outputs"]:
            files.link_file(kept / OUTPUTS / path, ledger.workdir / path)
        ledger.adopt(stage, manifest)
        return True

    def keep(self, ledger: Ledger, stage: str, identity: Identity) -> None:
        """Keeps a finished stage of a run for the others."""
        kept = self._place(stage, identity)
        if files.exists(kept):
            return  # two runs made it at the same time
        manifest = ledger.finished(stage)
        with files.atomic_directory(kept) as folder:
            for path in manifest["outputs"]:
                files.link_file(ledger.workdir / path, folder / OUTPUTS / path)
            files.write_json(folder / MANIFEST, manifest)

    def _place(self, stage: str, identity: Identity) -> pathlib.Path:
        return self.folder / identity.digest(stage)

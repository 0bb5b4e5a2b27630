"""The list of records that turned out to be unusable during training."""

import csv
import io
import pathlib

from noisy_student_jax.core import files, unusable
from noisy_student_jax.core.console import printable


class Quarantine:
    """An append-only CSV file of unusable records and reasons."""

    def __init__(self, path: pathlib.Path, *, records: int, most: float):
        """Loads the entries that an earlier start of the run has written.

        Args:
          path: the CSV file, created with the first entry.
          records: total number of records.
          most: largest fraction of them that may be unusable.
        """
        self._path, self._records, self._most = path, records, most
        self.reasons: dict[str, str] = {}
        if files.is_file(path):
            rows = csv.DictReader(io.StringIO(files.read_text(path), newline=""))
            self.reasons = {row["key"]: row["reason"] for row in rows}

    def __len__(self) -> int:
        return len(self.reasons)

    def note(self, key: str, reason: str) -> None:
        """Adds a record unless it is listed already.

        Raises:
          UserError: too many records are unusable.
        """
        key, reason = printable(key), printable(reason)
        if key in self.reasons:
            return
        text = io.StringIO(newline="")
        if not files.is_file(self._path):
            csv.writer(text).writerow(["key", "reason"])
        csv.writer(text).writerow([key, reason])
        files.append(self._path, text.getvalue())
        self.reasons[key] = reason
        unusable.refuse(
            self.reasons.items(),
            self._records,
            "records",
            most=self._most,
            listed=self._path,
        )

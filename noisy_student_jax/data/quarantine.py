"""The list of records that turned out to be unusable during training."""

import csv
import io
import pathlib

from noisy_student_jax.core import console, files, unusable
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
            self.reasons = _reasons(path)

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


def _reasons(path: pathlib.Path) -> dict[str, str]:
    """Reads the list; rows that are damaged are noted again when they are met again."""
    text = files.read_bytes(path).decode("utf-8", errors="replace")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    reasons = {}
    try:
        for row in rows:
            if (key := row.get("key")) and (reason := row.get("reason")):
                reasons[key] = reason
    except csv.Error:
        console.warn(f"'{path}' is damaged: not all of its rows could be read")
    return reasons

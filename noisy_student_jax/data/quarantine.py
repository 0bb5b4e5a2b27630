"""Records that turned out to be unusable during training, counted and named."""

import csv
import pathlib

from noisy_student_jax.core import unusable
from noisy_student_jax.core.console import printable


class Quarantine:
    """A growing list of records and reasons, kept in a CSV file."""

    def __init__(self, path: pathlib.Path, *, records: int, most: float):
        """Goes on with the list that an earlier start has left.

        Args:
          path: of the CSV file, made when there is something to write.
          records: how many there are in all.
          most: the fraction of them that may be unusable.
        """
        self._path, self._records, self._most = path, records, most
        self.reasons: dict[str, str] = {}
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                self.reasons = {
                    row["key"]: row["reason"] for row in csv.DictReader(file)
                }

    def __len__(self) -> int:
        return len(self.reasons)

    def note(self, key: str, reason: str) -> None:
        """Adds a record, once.

        Raises:
          UserError: there are too many.
        """
        key, reason = printable(key), printable(reason)
        if key in self.reasons:
            return
        new = not self._path.is_file()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["key", "reason"])
            writer.writerow([key, reason])
        self.reasons[key] = reason
        unusable.refuse(
            self.reasons.items(),
            self._records,
            "records",
            most=self._most,
            listed=self._path,
        )

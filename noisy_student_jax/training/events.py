"""Events for TensorBoard, written in the calling thread.

tensorboardX's own `SummaryWriter` writes in a thread, which ends with a traceback where
the disk is full; the next calls would wait for it forever.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import directory_check
from tensorboardX.summary import scalar

from noisy_student_jax.core import console


class Events:
    """Writes scalars to a new file of events.

    If it cannot be written, a warning says so, and nothing more is written.
    """

    def __init__(self, folder: pathlib.Path, *, first_step: int):
        """Opens a file.

        Args:
          folder: created if necessary.
          first_step: TensorBoard drops earlier events from this step on.
        """
        self._writer: EventsWriter | None = None

        def start() -> None:
            directory_check(str(folder))
            self._writer = EventsWriter(str(folder / "events"))
            log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            event = event_pb2.Event(step=first_step, session_log=log)
            self._writer.write_event(event)

        self._try(start)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds the metrics of a step."""
        if (writer := self._writer) is None:
            return

        def add() -> None:
            for name, value in metrics.items():
                summary = scalar(name, value)
                writer.write_event(
                    event_pb2.Event(step=step, wall_time=time.time(), summary=summary)
                )
            writer.flush()

        self._try(add)

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._try(self._writer.close)
        self._writer = None

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError as error:
            if self._writer is not None:
                # `EventsWriter.close` flushes first, which fails again.
                with contextlib.suppress(OSError):
                    self._writer._py_recordio_writer.close()
            self._writer = None
            console.warn(
                f"no more TensorBoard events are written: {error.strerror or error}"
            )

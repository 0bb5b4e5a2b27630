"""Events reach TensorBoard's files; a disk that is full ends them with a warning."""

import errno
import os

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from noisy_student_jax.training.events import Events


def read(folder):
    (path,) = folder.glob("events.out.tfevents.*")
    data, found = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_what_is_written_is_in_the_file_at_once(tmp_path):
    events = Events(tmp_path / "new" / "board", first_step=5)
    events.write(5, {"loss": 0.5, "accuracy": 0.25})

    _, start, loss, accuracy = read(tmp_path / "new" / "board")

    assert (start.step, start.session_log.status) == (5, event_pb2.SessionLog.START)
    assert (loss.step, loss.summary.value[0].tag) == (5, "loss")
    assert loss.summary.value[0].simple_value == 0.5
    assert accuracy.summary.value[0].simple_value == 0.25
    events.close()
    events.write(6, {"loss": 0.1})
    assert len(read(tmp_path / "new" / "board")) == 4


def test_a_full_disk_ends_the_events_with_one_warning(tmp_path, monkeypatch, capsys):
    events = Events(tmp_path, first_step=1)

    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(EventsWriter, "flush", full)
    for step in (1, 2):
        events.write(step, {"loss": 0.5})
    events.close()

    assert capsys.readouterr().out == (
        "WARNING: no more TensorBoard events are written: No space left on device\n"
    )


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path, capsys):
    (tmp_path / "board").write_text("")
    events = Events(tmp_path / "board", first_step=1)
    events.write(1, {"loss": 0.5})
    events.close()
    assert capsys.readouterr().out.count("no more TensorBoard events") == 1

"""The wing's door: what is said where there is no TensorFlow."""

import os
import subprocess
import sys

from support import ROOT

PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError("No module named 'tensorflow'", name=name)

sys.meta_path.insert(0, Absent())
from noisy_student_jax.core.errors import UserError
try:
    import noisy_student_jax.data.streaming.feed
except UserError as error:
    print(error)
"""


def test_a_missing_tensorflow_is_told_with_what_to_do():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.count("\n") == 1
    assert "Streaming needs TensorFlow" in done.stdout
    assert "pip install 'noisy-student-jax[streaming]'" in done.stdout

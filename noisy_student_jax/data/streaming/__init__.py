"""Streaming of record files and image files with TensorFlow.

Only a run that streams imports this package, so everything else works without
TensorFlow. TensorFlow runs on the CPU alone; accelerators are left to JAX.
"""

import contextlib
import os

from noisy_student_jax.core.errors import UserError, one_line

__all__ = ["tf"]

# TensorFlow reads these on import: they silence its build notices, and disable oneDNN,
# which prints a notice of its own and does not affect image ops.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

try:
    import tensorflow as tf
except ImportError as error:
    raise UserError(
        f"Streaming needs TensorFlow, which cannot be imported ({one_line(error)}): "
        "pip install 'noisy-student-jax[streaming]'."
    ) from error

# These raise once TensorFlow is initialized; they were then chosen elsewhere.
with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")
    # Images are worked on side by side; an op that is split costs thread switches.
    tf.config.threading.set_intra_op_parallelism_threads(1)

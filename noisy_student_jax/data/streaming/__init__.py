"""Streaming of record files and their like: the only rooms that import TensorFlow.

Nothing else imports this package before a run streams, so that everything else works
without TensorFlow. It decodes and augments on the CPU alone; accelerators are JAX's.
"""

import contextlib
import os

from noisy_student_jax.core.errors import UserError, one_line

__all__ = ["tf"]

# TensorFlow reads both once, when it is imported: no notices of what it was built with,
# and no oneDNN, which announces itself and has nothing to do for images.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

try:
    import tensorflow as tf
except ImportError as error:
    raise UserError(
        f"Streaming needs TensorFlow, which cannot be imported ({one_line(error)}): "
        "pip install 'noisy-student-jax[streaming]'."
    ) from error

# It refuses once TensorFlow runs; whoever started it has already said what it sees.
with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")

"""``python -m noisy_student_jax``."""

import sys

from noisy_student_jax.cli.main import main

sys.exit(main())

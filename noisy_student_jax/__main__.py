"""``python -m noisy_student_jax`` and ``noisy-student``."""

import sys

from noisy_student_jax.core.preemption import Interruption


def main() -> int:
    """Runs the command of the process's arguments; returns its exit status."""
    with Interruption(alone=True) as interruption:
        # A signal is heard before anything else is imported.
        from noisy_student_jax.cli import main as cli

        status = cli.main(interruption=interruption)
        interruption.end(status)
        return status


if __name__ == "__main__":
    sys.exit(main())

"""Estimates the memory of training steps, to choose the programs worth compiling."""

from noisy_student_jax.models import cost
from noisy_student_jax.planning.memory import state_bytes
from noisy_student_jax.planning.topology.compiling import Outcome
from noisy_student_jax.planning.topology.slices import Slice
from noisy_student_jax.runs.run import Generation

HOPELESS = 1.5
"""Estimate, as a multiple of the memory, above which a program is not compiled."""
TYPICAL = {True: 2.2, False: 0.75}
"""Compiled activation memory relative to `cost.activation_bytes`, with and without
remat: the count omits the recomputed block and includes fused activations. B7 at 600
px, 32 images on a TPU v5e, with remat, took 2.2."""


class MemoryEstimator:
    """Estimates memory, and corrects itself by the results of the compiler."""

    def __init__(self, where: Slice):
        """Starts with the factors of `TYPICAL`."""
        self._where = where
        self._scale: dict[tuple[str, bool], float] = {}
        self._activations: dict[str, int] = {}

    def needed(self, student: Generation) -> float:
        """Returns the estimated bytes per device of a student's step."""
        remat = student.spec.config.model.remat
        scale = self._scale.get((student.spec.stage, remat), TYPICAL[remat])
        return state_bytes(student, len(self._where.devices)) + scale * self._kept(
            student
        )

    def hopeless(self, student: Generation) -> Outcome | None:
        """Returns a refusal if a step is far too large to compile, otherwise None."""
        needed, limit = self.needed(student), self._where.memory
        if not limit or needed <= HOPELESS * limit:
            return None
        why = f"an estimated {needed / 1e9:.3g} GB, so it was not compiled"
        return Outcome(needed, limit, 0.0, refused=why)

    def learn(self, student: Generation, outcome: Outcome) -> None:
        """Updates the factors with the result of compiling a student's step."""
        if not (outcome.needed and outcome.seconds):
            return
        rest = max(0.0, outcome.needed - state_bytes(student, len(self._where.devices)))
        key = (student.spec.stage, student.spec.config.model.remat)
        scale = rest / self._kept(student)
        self._scale[key] = max(self._scale.get(key, 0.0), scale)

    def _kept(self, student: Generation) -> float:
        """Returns the counted activation bytes of a microbatch per device."""
        # Frozen blocks store no activations.
        module = student.spec.trainee
        if repr(module) not in self._activations:
            self._activations[repr(module)] = cost.activation_bytes(
                module, resolution=student.spec.model.resolution
            )
        parts = len(self._where.devices) * student.spec.config.train.microbatches
        return student.spec.layout.total / parts * self._activations[repr(module)]

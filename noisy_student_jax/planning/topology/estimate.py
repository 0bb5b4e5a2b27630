"""Memory of a training step by reckoning: which programs are worth compiling."""

from noisy_student_jax.models import cost
from noisy_student_jax.planning.memory import state_bytes
from noisy_student_jax.planning.topology.compiling import Outcome
from noisy_student_jax.planning.topology.slices import Slice
from noisy_student_jax.runs.run import Generation

HOPELESS = 1.5
"""Times the memory that a program may be reckoned to need and is still compiled."""
TYPICAL = {True: 2.2, False: 0.75}
"""What the compiler takes, of what `cost.activation_bytes` counts, with and without
remat: the block that is computed again is not counted, and what fuses is. B7 at 600 px,
32 images on a TPU v5e, with remat, took 2.2."""


class Reckoning:
    """Reckons, and is corrected by what the compiler tells."""

    def __init__(self, where: Slice):
        """Knows nothing of the compiler yet."""
        self._where = where
        self._scale: dict[tuple[str, bool], float] = {}
        self._activations: dict[str, int] = {}

    def needed(self, student: Generation) -> float:
        """Returns bytes of a device for the step of a student, as it is set."""
        remat = student.spec.config.model.remat
        scale = self._scale.get((student.spec.stage, remat), TYPICAL[remat])
        return state_bytes(student, len(self._where.devices)) + scale * self._kept(
            student
        )

    def hopeless(self, student: Generation) -> Outcome | None:
        """Returns that a step does not fit, where compiling it would be vain."""
        needed, limit = self.needed(student), self._where.memory
        if not limit or needed <= HOPELESS * limit:
            return None
        why = f"about {needed / 1e9:.3g} GB by our reckoning, so it was not compiled"
        return Outcome(needed, limit, 0.0, refused=why)

    def learn(self, student: Generation, outcome: Outcome) -> None:
        """Takes in what the compiler told of such a step."""
        if not (outcome.needed and outcome.seconds):
            return
        rest = max(0.0, outcome.needed - state_bytes(student, len(self._where.devices)))
        key = (student.spec.stage, student.spec.config.model.remat)
        scale = rest / self._kept(student)
        self._scale[key] = max(self._scale.get(key, 0.0), scale)

    def _kept(self, student: Generation) -> float:
        """Returns bytes of a device that are kept of a microbatch, as counted."""
        # Of what is frozen nothing is kept.
        module = student.spec.trainee
        if repr(module) not in self._activations:
            self._activations[repr(module)] = cost.activation_bytes(
                module, resolution=student.spec.model.resolution
            )
        parts = len(self._where.devices) * student.spec.config.train.microbatches
        return student.spec.layout.total / parts * self._activations[repr(module)]

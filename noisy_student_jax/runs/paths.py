"""Names and places of a run's files."""

import dataclasses
import pathlib

from noisy_student_jax.runs import fixres

MODEL = "model"
RAW_MODEL = "raw_model"
LABELS = "labels"
SELECTION = "selection"
EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.parquet"
VALIDATION = "validation.parquet"
METRICS = "metrics.jsonl"
OUT_OF_FOLD = "out_of_fold.parquet"
FOLD_LABELS = "fold_labels.npy"
SUSPECTS = "suspects.parquet"
DATASET = "data/dataset.json"
DECISIONS = "decisions.json"
PREPARED = "prepared"
"""Default folder of a run's prepared images."""


@dataclasses.dataclass(frozen=True)
class GenerationPaths:
    """Paths of a generation, or of a baseline.

    Attributes:
      folder: parent folder of all its files.
      stage: name of the stage that trains it, and of that stage's folder.
      refined: whether FixRes fine-tunes it afterwards.
    """

    folder: pathlib.Path
    stage: str
    refined: bool

    @property
    def training(self) -> pathlib.Path:
        """Checkpoints and logs of the training stage."""
        return self.folder / self.stage

    @property
    def model(self) -> pathlib.Path:
        """Bundle of the final averaged weights, used for labeling and prediction."""
        return self.folder / MODEL

    @property
    def averaged(self) -> pathlib.Path:
        """Bundle of the averaged weights that the training stage writes."""
        return self.folder / (fixres.BEFORE if self.refined else MODEL)

    @property
    def raw_model(self) -> pathlib.Path:
        """Bundle of the raw weights that the training stage writes."""
        return self.training / RAW_MODEL

    @property
    def labels(self) -> pathlib.Path:
        """Pseudo-labels that it assigns to the pool."""
        return self.folder / LABELS

    @property
    def selection(self) -> pathlib.Path:
        """Its pseudo-labels that the student is trained on."""
        return self.folder / SELECTION

    @property
    def evaluation(self) -> pathlib.Path:
        """Metrics on validation and test images."""
        return self.folder / EVALUATION

    @property
    def predictions(self) -> pathlib.Path:
        """Prediction for each test image."""
        return self.folder / PREDICTIONS

    @property
    def validation(self) -> pathlib.Path:
        """Prediction for each validation image."""
        return self.folder / VALIDATION

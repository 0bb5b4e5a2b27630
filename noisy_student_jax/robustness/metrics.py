"""Metrics of robustness benchmarks, as pure functions on arrays.

Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations (ICLR 2019), for mCE and flip probabilities; Hendrycks et al.,
Natural Adversarial Examples, for the restriction to some classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)

ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's error on each corruption of ImageNet-C, averaged over the five severities
(listed by severity in hendrycks/robustness, issue 10)."""
CORRUPTIONS = tuple(ALEXNET_ERRORS)
"""The 15 corruptions of mCE."""
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Corruptions released for validation; the authors' script includes them, mCE not."""

PERTURBATIONS = (
    "gaussian_noise",
    "shot_noise",
    "motion_blur",
    "zoom_blur",
    "snow",
    "brightness",
    "translate",
    "rotate",
    "tilt",
    "scale",
)
"""The 10 perturbations of ImageNet-P that mFR averages."""
NOISES = ("gaussian_noise", "shot_noise")
"""Perturbations whose frames form no sequence: each is compared with the first."""


def corruption_errors(
    errors: Mapping[str, Sequence[float]],
    *,
    normalizers: Mapping[str, float] = ALEXNET_ERRORS,
) -> dict[str, float]:
    """Returns the CE of each corruption: ``Σ_s err(c, s) / Σ_s err_AlexNet(c, s)``.

    Args:
      errors: errors at the five severities, by corruption.
      normalizers: AlexNet's mean error over the severities, by corruption.

    Raises:
      ValueError: a corruption lacks one of five severities, or a normalizer.
    """
    found = {}
    for name, values in errors.items():
        if len(values) != len(SEVERITIES):
            raise ValueError(f"{name} has {len(values)} severities, not 5")
        if name not in normalizers:
            raise ValueError(f"{name} is none of the {len(normalizers)} corruptions")
        found[name] = float(np.sum(values) / (len(SEVERITIES) * normalizers[name]))
    return found


def mean_corruption_error(errors: Mapping[str, Sequence[float]]) -> float:
    """Returns mCE in percent: 100 times the mean CE of the 15 corruptions.

    Args:
      errors: errors at the five severities, by corruption.

    Raises:
      ValueError: the corruptions are not exactly the 15.
    """
    if set(errors) != set(CORRUPTIONS):
        raise ValueError(
            f"mCE is over {len(CORRUPTIONS)} corruptions; missing"
            f" {sorted(set(CORRUPTIONS) - set(errors))}, too many"
            f" {sorted(set(errors) - set(CORRUPTIONS))}"
        )
    return 100 * float(np.mean(list(corruption_errors(errors).values())))


def flip_fraction(predictions: np.ndarray, *, noise: bool) -> float:
    """Returns the fraction of frames at which the prediction flips within a clip.

    Args:
      predictions: class of each frame, int ``[frames]``, at least two.
      noise: whether each frame is compared with the first one, not the previous.
    """
    if len(predictions) < 2:
        raise ValueError(f"a clip needs two frames, got {len(predictions)}")
    before = predictions[0] if noise else predictions[:-1]
    return float(np.mean(predictions[1:] != before))


def mean_flip_rate(
    flips: Mapping[str, float], normalizers: Mapping[str, float]
) -> float:
    """Returns mFR in percent: 100 times the mean of FP over AlexNet's FP.

    Args:
      flips: flip probability of each of the 10 perturbations, averaged over clips.
      normalizers: AlexNet's flip probability of each perturbation.

    Raises:
      ValueError: one of them lacks a perturbation, or has another.
    """
    for name, found in (("flips", flips), ("normalizers", normalizers)):
        if set(found) != set(PERTURBATIONS):
            raise ValueError(f"{name} are not of the {len(PERTURBATIONS)}: {found}")
    return 100 * float(np.mean([flips[p] / normalizers[p] for p in PERTURBATIONS]))


def restricted_hits(
    logits: np.ndarray, labels: np.ndarray, classes: np.ndarray, *, k: int = 1
) -> np.ndarray:
    """Returns whether each label is among the top k of a subset of classes.

    Args:
      logits: float ``[images, all classes]``.
      labels: int ``[images]``, indices into all classes, each one of `classes`.
      classes: indices of the classes that may be predicted.
      k: number of largest logits that count as right.

    Returns:
      bool ``[images]``.
    """
    classes = np.asarray(classes)
    if not np.isin(labels, classes).all():
        raise ValueError("a label is none of the classes that may be predicted")
    order = np.argsort(-logits[:, classes], axis=1, kind="stable")[:, :k]
    return (classes[order] == np.asarray(labels)[:, None]).any(axis=1)

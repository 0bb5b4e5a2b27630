"""What robustness benchmarks count: pure functions on arrays.

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
"""AlexNet's error on each corruption of ImageNet-C, a mean over its five severities
(told by severity in hendrycks/robustness, issue 10)."""
CORRUPTIONS = tuple(ALEXNET_ERRORS)
"""The 15 that mCE is over."""
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Released for validation; the authors' script averages them in, mCE does not."""

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
"""The 10 of ImageNet-P that mFR is over."""
NOISES = ("gaussian_noise", "shot_noise")
"""Perturbations whose frames are not a sequence: each is compared with the first."""


def corruption_errors(
    errors: Mapping[str, Sequence[float]],
    *,
    normalizers: Mapping[str, float] = ALEXNET_ERRORS,
) -> dict[str, float]:
    """Returns CE of each corruption: ``Σ_s err(c, s) / Σ_s err_AlexNet(c, s)``.

    Args:
      errors: of each corruption, the error at each of the five severities.
      normalizers: of each corruption, AlexNet's mean over the severities.

    Raises:
      ValueError: a corruption has not five severities, or no normalizer.
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
      errors: of each of the 15, the error at each of the five severities.

    Raises:
      ValueError: these are not the 15.
    """
    if set(errors) != set(CORRUPTIONS):
        raise ValueError(
            f"mCE is over {len(CORRUPTIONS)} corruptions; missing"
            f" {sorted(set(CORRUPTIONS) - set(errors))}, too many"
            f" {sorted(set(errors) - set(CORRUPTIONS))}"
        )
    return 100 * float(np.mean(list(corruption_errors(errors).values())))


def flip_fraction(predictions: np.ndarray, *, noise: bool) -> float:
    """Returns how often the prediction flips within a clip.

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
      flips: flip probability of each of the 10 perturbations: a mean over clips.
      normalizers: AlexNet's.

    Raises:
      ValueError: either is not of the 10 perturbations.
    """
    for name, found in (("flips", flips), ("normalizers", normalizers)):
        if set(found) != set(PERTURBATIONS):
            raise ValueError(f"{name} are not of the {len(PERTURBATIONS)}: {found}")
    return 100 * float(np.mean([flips[p] / normalizers[p] for p in PERTURBATIONS]))


def restricted_hits(
    logits: np.ndarray, labels: np.ndarray, classes: np.ndarray, *, k: int = 1
) -> np.ndarray:
    """Says which images are right among some of the classes only.

    Args:
      logits: ``[images, all classes]``.
      labels: indices into all classes, ``[images]``, each one of `classes`.
      classes: indices of the classes that may be predicted.
      k: right means among so many of the largest.

    Returns:
      bool ``[images]``.
    """
    classes = np.asarray(classes)
    if not np.isin(labels, classes).all():
        raise ValueError("a label is none of the classes that may be predicted")
    order = np.argsort(-logits[:, classes], axis=1, kind="stable")[:, :k]
    return (classes[order] == np.asarray(labels)[:, None]).any(axis=1)

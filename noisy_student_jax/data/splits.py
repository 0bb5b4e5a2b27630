"""Splits of a fixed set of images by their content, not by their order.

The cuts fall at ranks among the hashes, so that sizes are exact; a set that grows
needs thresholds on the hash instead.
"""

import hashlib

import numpy as np

from noisy_student_jax.errors import UserError


def content_hashes(images: np.ndarray) -> list[str]:
    """Returns the SHA-256 of each image's pixels."""
    return [
        hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
        for image in images
    ]


def stratified(
    hashes: list[str],
    labels: np.ndarray,
    *,
    test: int,
    validation: int,
    labels_per_class: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Deals records into test, validation, labelled and pool, class by class.

    Test and validation depend on the content alone, the same for every seed; which
    of the rest are labelled depends on content and seed. Records with equal content
    are dealt as one (to the same part, but never twice to it).

    Args:
      hashes: of each record's content.
      labels: int class of each record.
      test: number of test records.
      validation: number of validation records.
      labels_per_class: labelled records of each class.
      seed: of the labelled draw.

    Returns:
      Sorted indices by part; records left out as copies under ``"copies"``.

    Raises:
      UserError: a class has too few records.
    """
    classes = int(labels.max()) + 1
    first: dict[str, int] = {}
    for index, content in enumerate(hashes):
        first.setdefault(content, index)
    kept = np.array(sorted(first.values()))
    parts: dict[str, list[int]] = {"test": [], "validation": [], "labelled": []}
    parts["pool"] = []
    dealt = 0
    for label in range(classes):
        members = [i for i in kept if labels[i] == label]
        members.sort(key=lambda i: hashes[i])
        # Rounded at the running total, so that the classes add up to what was asked.
        before, dealt = dealt, dealt + len(members)
        heads = {
            name: round(count * dealt / len(kept)) - round(count * before / len(kept))
            for name, count in (("test", test), ("validation", validation))
        }
        need = sum(heads.values()) + labels_per_class + 1
        if len(members) < need:
            raise UserError(
                f"class {label} has {len(members)} images, too few for"
                f" {heads['test']} test + {heads['validation']} validation +"
                f" {labels_per_class} labelled and at least one in the pool: lower"
                " config.data.test, .validation or .labels_per_class"
            )
        for name, count in heads.items():
            parts[name] += members[:count]
            members = members[count:]
        members.sort(key=lambda i: _salted(hashes[i], seed))
        parts["labelled"] += members[:labels_per_class]
        parts["pool"] += members[labels_per_class:]
    split = {name: np.sort(np.array(indices)) for name, indices in parts.items()}
    split["copies"] = np.setdiff1d(np.arange(len(hashes)), kept)
    return split


def _salted(content: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()

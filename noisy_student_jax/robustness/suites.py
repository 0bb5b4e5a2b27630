"""The robustness suites: each evaluates a model and returns its result."""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from noisy_student_jax.core.console import printable
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Source
from noisy_student_jax.core.unusable import refuse
from noisy_student_jax.images.decode import UndecodableImageError
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.robustness import corruptions, datasets, fgsm
from noisy_student_jax.robustness import metrics as measures
from noisy_student_jax.robustness.accuracy import Batches, Subject, count
from noisy_student_jax.robustness.resume import Before, Parts

RELEASED_CLASSES = 200
"""Number of classes in ImageNet-A, and in ImageNet-R."""


def some_classes(subject: Subject, place: pathlib.Path, parts: Parts) -> dict[str, Any]:
    """Evaluates on ImageNet-A or -R, with predictions restricted to their classes."""
    bundle = subject.bundle
    source, matched, left_out = datasets.open_classes(
        place, bundle.classes, parts.suite, decoding=bundle.decoding
    )
    found = parts.perform(
        "",
        len(source),
        lambda before: count(subject, source, classes=matched.classes, before=before),
    )
    warnings = _told(matched.unknown, left_out)
    if len(matched.classes) != RELEASED_CLASSES:
        warnings.append(
            f"predictions are restricted to {len(matched.classes)} classes; the"
            f" released set has {RELEASED_CLASSES}, so this is not its score"
        )
    return {
        **found,
        "restricted_to": [bundle.classes[index] for index in matched.classes],
        "left_out": left_out,
        "preprocessing": bundle.preprocessing.to_json(),
        "warnings": warnings,
    }


def imagenet_c(subject: Subject, place: pathlib.Path, parts: Parts) -> dict[str, Any]:
    """Evaluates on ImageNet-C: CE of each corruption, mCE, and top-1 over all."""
    kinds, others = datasets.find_kinds(place, measures.CORRUPTIONS)
    cut = whole_image(subject.bundle)
    warnings = size_warnings(subject.bundle)
    missing = [c for c in measures.CORRUPTIONS if c not in kinds]
    there: list[tuple[str, int, pathlib.Path]] = []
    for corruption, folder in kinds.items():
        for severity in measures.SEVERITIES:
            if (folder / str(severity)).is_dir():
                there.append((corruption, severity, folder / str(severity)))
            else:
                missing.append(f"{corruption}/{severity}")
    _must_hold_classes(subject, place, [folder for _, _, folder in there])
    parts.expect([f"{corruption}/{severity}" for corruption, severity, _ in there])
    cells: dict[str, dict[str, Any]] = {}
    unusable: dict[str, str] = {}
    for corruption, severity, folder in there:
        name = f"{corruption}/{severity}"
        found = _one_cell(subject, folder, parts, name, cut)
        unusable |= found.pop("unusable")
        cells.setdefault(corruption, {})[str(severity)] = found
    errors = {
        corruption: [1 - cell["top1"] for cell in of.values()]
        for corruption, of in cells.items()
        if len(of) == len(measures.SEVERITIES)
    }
    every = [value for of in errors.values() for value in of]
    warnings += _cell_warnings(cells)
    if missing:
        warnings.append(
            f"missing: {', '.join(missing)}; mCE and top-1 are means over"
            f" {len(measures.CORRUPTIONS)} corruptions at 5 severities, and not given"
        )
    return {
        "images": sum(c["images"] for of in cells.values() for c in of.values()),
        "mce": None if missing else measures.mean_corruption_error(errors),
        "ce": {c: 100 * v for c, v in measures.corruption_errors(errors).items()},
        "top1": None if missing else 1 - float(np.mean(every)),
        "errors": {
            corruption: {severity: 1 - cell["top1"] for severity, cell in of.items()}
            for corruption, of in cells.items()
        },
        "missing": missing,
        "other_folders": list(others),
        "extras": [
            name
            for name in others
            if name.rpartition("/")[2] in measures.EXTRA_CORRUPTIONS
        ],
        "unusable": unusable,
        "preprocessing": cut.to_json(),
        "warnings": warnings,
    }


def _must_hold_classes(
    subject: Subject, place: pathlib.Path, severities: list[pathlib.Path]
) -> None:
    """Checks that every folder holds classes, before time is spent on the first."""
    if not severities:
        raise UserError(
            f"the corruptions of '{printable(str(place))}' have no folders 1 to 5, one"
            " for each severity: give the folder that the archives were unpacked into"
        )
    for folder in severities:
        names = datasets.folders_in(folder)
        datasets.match(names, subject.bundle.classes, printable(str(folder)))


def _one_cell(
    subject: Subject, folder: pathlib.Path, parts: Parts, name: str, cut: Preprocessing
) -> dict[str, Any]:
    """Evaluates a corruption at a severity; listed here, to keep memory constant."""
    source, matched, left_out = datasets.open_classes(
        folder,
        subject.bundle.classes,
        f"{parts.suite}/{name}",
        decoding=subject.bundle.decoding,
    )
    found = parts.perform(
        name,
        len(source),
        lambda before: count(subject, source, preprocessing=cut, before=before),
    )
    return {**found, "classes": len(matched.classes), "left_out": left_out}


def _cell_warnings(cells: dict[str, dict[str, Any]]) -> list[str]:
    sizes = {f"{c}/{s}": cell for c, of in cells.items() for s, cell in of.items()}
    most = max(cell["images"] for cell in sizes.values())
    fewer = [name for name, cell in sizes.items() if cell["images"] < most]
    warnings = []
    if fewer:
        warnings.append(
            f"{len(fewer)} of {len(sizes)} folders have fewer than {most:,} usable"
            f" images, the first being {fewer[0]} with"
            f" {sizes[fewer[0]]['images']:,}: the same images are meant to be in each"
        )
    left_out: dict[str, int] = {}
    for cell in sizes.values():
        for why, number in cell["left_out"].items():
            left_out[why] = left_out.get(why, 0) + number
    warnings += [f"left out: {n:,} {why}" for why, n in left_out.items()]
    return warnings


def imagenet_p(
    subject: Subject,
    place: pathlib.Path,
    parts: Parts,
    *,
    alexnet: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Evaluates on ImageNet-P: flip probabilities, top-1 over all frames, and mFR.

    Args:
      subject: the model.
      place: the folder of perturbations.
      parts: parts of the suite.
      alexnet: AlexNet's flip probability for each perturbation; None gives no mFR.
    """
    kinds, others = datasets.find_kinds(place, measures.PERTURBATIONS)
    cut = whole_image(subject.bundle)
    missing = [p for p in measures.PERTURBATIONS if p not in kinds]
    parts.expect(list(kinds))
    warnings = size_warnings(subject.bundle)
    found: dict[str, dict[str, Any]] = {}
    left_out: dict[str, int] = {}
    for name, folder in kinds.items():
        clips, out = datasets.list_clips(folder, subject.bundle.classes)
        for why, number in out.items():
            left_out[why] = left_out.get(why, 0) + number
        found[name] = parts.perform(
            name,
            len(clips),
            functools.partial(
                _flips, subject, clips, cut, noise=name in measures.NOISES
            ),
            unit="clips",
        )
    flips = {name: of["flip_probability"] for name, of in found.items()}
    frames = sum(of["frames"] for of in found.values())
    warnings += [f"left out: {n:,} {why}" for why, n in left_out.items()]
    if missing:
        warnings.append(
            f"missing: {', '.join(missing)}; means are over"
            f" {len(measures.PERTURBATIONS)} perturbations, and not given"
        )
    if alexnet is None:
        warnings.append(
            "flip probabilities are not normalized: AlexNet's could not be verified, so"
            " there is no mFR; --alexnet-flips=FILE takes them"
        )
    whole = not missing
    return {
        "clips": sum(of["clips"] for of in found.values()),
        "frames": frames,
        "mfr": measures.mean_flip_rate(flips, alexnet) if alexnet and whole else None,
        "flip_probability": flips,
        "mean_flip_probability": float(np.mean(list(flips.values())))
        if whole
        else None,
        "top1": sum(of["right"] for of in found.values()) / frames if whole else None,
        "alexnet_flips": alexnet,
        "missing": missing,
        "other_folders": list(others),
        "unusable": {k: v for of in found.values() for k, v in of["unusable"].items()},
        "preprocessing": cut.to_json(),
        "warnings": warnings,
    }


def _flips(
    subject: Subject,
    clips: list[datasets.Clip],
    cut: Preprocessing,
    before: Before,
    *,
    noise: bool,
) -> dict[str, Any]:
    """Predicts the clips of a perturbation in batches, and counts flips."""
    fractions, frames, right = [], 0, 0
    unusable: dict[str, str] = {}
    waiting: list[tuple[int, np.ndarray]] = []

    def predict() -> None:
        nonlocal frames, right
        whole = np.concatenate([pixels for _, pixels in waiting])
        logits = subject.predictor(subject.variables, whole)["logits"]
        at = 0
        for label, pixels in waiting:
            classes = logits[at : at + len(pixels)].argmax(axis=1)
            at += len(pixels)
            fractions.append(measures.flip_fraction(classes, noise=noise))
            frames, right = frames + len(classes), right + int((classes == label).sum())
        waiting.clear()

    for number, clip in enumerate(clips):
        before(number)
        try:
            read = datasets.read_clip(clip)
        except UndecodableImageError as error:
            unusable[clip.key] = str(error)
            continue
        waiting.append((clip.label, cut.apply_all(read)))
        if sum(len(pixels) for _, pixels in waiting) >= subject.predictor.batch:
            predict()
    if waiting:
        predict()
    if not fractions:
        refuse(unusable.items(), len(clips), "clips")
    return {
        "flip_probability": float(np.mean(fractions)),
        "clips": len(fractions),
        "frames": frames,
        "right": right,
        "unusable": unusable,
    }


def attacked(
    subject: Subject, source: Source, parts: Parts, *, epsilons: tuple[float, ...]
) -> dict[str, Any]:
    """Evaluates under FGSM: top-1 before, and after a step of each size."""

    def work(before: Before) -> dict[str, Any]:
        sign_of = fgsm.gradient_sign(subject.predictor)
        cut, batch = subject.bundle.preprocessing, subject.predictor.batch
        batches = Batches(source, cut, batch, before)
        images, right = 0, dict.fromkeys((0.0, *epsilons), 0)
        for pixels, labels in batches:
            sign = sign_of(subject.variables, pixels, labels)
            images += len(labels)
            for epsilon in right:
                moved = fgsm.step(pixels, sign, epsilon)
                logits = subject.predictor(subject.variables, moved)["logits"]
                right[epsilon] += int((logits.argmax(axis=1) == labels).sum())
        return {
            "images": images,
            "top1": {f"{epsilon:g}": n / images for epsilon, n in right.items()},
            "unusable": batches.unusable,
        }

    found = parts.perform("", len(source), work)
    top1 = dict(found["top1"])
    return {
        "images": found["images"],
        "clean_top1": top1.pop("0"),
        "top1": top1,
        "resolution": subject.bundle.preprocessing.resolution,
        "unusable": found["unusable"],
        "warnings": [],
    }


def corrupted(subject: Subject, source: Source, parts: Parts) -> dict[str, Any]:
    """Evaluates under the 15 corruptions at 5 severities, without a normalizer."""
    corruptions.load()
    names = [
        f"{corruption}/{severity}"
        for corruption in measures.CORRUPTIONS
        for severity in measures.SEVERITIES
    ]
    parts.expect(["clean", *names])

    def one(name: str, images: Source) -> dict[str, Any]:
        return parts.perform(
            name, len(images), lambda before: count(subject, images, before=before)
        )

    clean = one("clean", source)
    errors = {
        corruption: [
            1
            - one(
                f"{corruption}/{severity}",
                corruptions.CorruptedSource(source, corruption, severity),
            )["top1"]
            for severity in measures.SEVERITIES
        ]
        for corruption in measures.CORRUPTIONS
    }
    mean, before = float(np.mean(list(errors.values()))), 1 - clean["top1"]
    return {
        "images": clean["images"],
        "clean_error": before,
        "mean_error": mean,
        "increase": mean - before,
        "relative": mean / before if before else None,
        "errors": errors,
        "made_by": corruptions.version(),
        "unusable": clean["unusable"],
        "warnings": [],
    }


def whole_image(bundle: Bundle) -> Preprocessing:
    """Returns the model's preprocessing without its center crop.

    The images of ImageNet-C and -P are center crops of 224 pixels already: they are
    only resized to the model's resolution.
    """
    return dataclasses.replace(bundle.preprocessing, crop_padding=0)


def size_warnings(bundle: Bundle) -> list[str]:
    """Returns a warning for weights fine-tuned by FixRes, otherwise nothing.

    The paper evaluates ImageNet-C and -P at the training resolution: L2 with the
    weights of 475 pixels, before FixRes.
    """
    side = bundle.preprocessing.resolution
    l2 = bundle.architecture == "efficientnet_l2" and side > 475
    if not (l2 or _mentions_fixres(bundle.origin)):
        return []
    return [
        f"these weights were fine-tuned by FixRes for {side} pixels; ImageNet-C and -P"
        " are meant to be evaluated at the training size, with the weights before it"
    ]


def _mentions_fixres(value: Any) -> bool:
    """Whether a bundle's origin mentions FixRes, other than as an empty value."""
    if isinstance(value, dict):
        return any(
            ("fixres" in str(key).lower() and bool(of)) or _mentions_fixres(of)
            for key, of in value.items()
        )
    if isinstance(value, (list, tuple)):
        return any(_mentions_fixres(one) for one in value)
    return isinstance(value, str) and "fixres" in value.lower()


def _told(unknown: tuple[str, ...], left_out: dict[str, int]) -> list[str]:
    warnings = [f"left out: {number:,} {why}" for why, number in left_out.items()]
    if unknown:
        some = ", ".join(printable(name) for name in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        warnings.append(
            f"{len(unknown)} folders match no class of the model: {some}{more}"
        )
    return warnings

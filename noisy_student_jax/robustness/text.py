"""Formats the results of the suites as text."""

from typing import Any

from noisy_student_jax.core.console import printable

_SHOWN = 5


def told(found: dict[str, Any]) -> str:
    """Returns the result of a suite as text."""
    return "\n".join(_TEXTS[found["suite"]](found))


def _some_classes(found: dict[str, Any]) -> list[str]:
    names = found["restricted_to"]
    some = ", ".join(printable(name) for name in names[:_SHOWN])
    line = f"{found['suite']}: top-1 {_percent(found['top1'])}"
    if "top5" in found:
        line += f", top-5 {_percent(found['top5'])}"
    return [
        f"{line} on {found['images']:,} images",
        f"predictions were restricted to {len(names)} classes: {some}"
        + (", …" if len(names) > _SHOWN else ""),
    ]


def _imagenet_c(found: dict[str, Any]) -> list[str]:
    lines = ["corruption           errors at severities 1–5 (%)            CE (%)"]
    for name, errors in found["errors"].items():
        cells = " ".join(
            f"{100 * errors[str(s)]:6.1f}" if str(s) in errors else "     –"
            for s in range(1, 6)
        )
        ce = f"{found['ce'][name]:6.1f}" if name in found["ce"] else "     –"
        lines.append(f"{name:20s} {cells}     {ce}")
    if found["extras"]:
        lines.append(f"not among the 15, left out: {', '.join(found['extras'])}")
    if found["mce"] is None:
        return [*lines, "no mCE: folders are missing"]
    return [
        *lines,
        f"mCE {found['mce']:.1f} %, top-1 {_percent(found['top1'])}"
        f" on {found['images']:,} images",
    ]


def _imagenet_p(found: dict[str, Any]) -> list[str]:
    lines = ["perturbation         flip probability (%)"]
    lines += [
        f"{name:20s} {100 * value:6.2f}"
        for name, value in found["flip_probability"].items()
    ]
    if found["mean_flip_probability"] is None:
        return [*lines, "no means: folders are missing"]
    mfr = "" if found["mfr"] is None else f"mFR {found['mfr']:.1f} %, "
    return [
        *lines,
        f"{mfr}mean flip probability (not normalized)"
        f" {_percent(found['mean_flip_probability'], 2)}, top-1"
        f" {_percent(found['top1'])} on {found['frames']:,} frames of"
        f" {found['clips']:,} clips",
    ]


def _fgsm(found: dict[str, Any]) -> list[str]:
    side = found["resolution"]
    return [
        f"fgsm at {side} px, {found['images']:,} images: top-1"
        f" {_percent(found['clean_top1'])} before, "
        + ", ".join(f"{_percent(v)} at ε {e}" for e, v in found["top1"].items())
    ]


def _corruptions(found: dict[str, Any]) -> list[str]:
    lines = ["corruption           errors at severities 1–5 (%)            mean (%)"]
    for name, errors in found["errors"].items():
        cells = " ".join(f"{100 * error:6.1f}" for error in errors)
        lines.append(f"{name:20s} {cells}     {100 * sum(errors) / len(errors):6.1f}")
    relative = found["relative"]
    times = "" if relative is None else f", {relative:.2f} times as many errors"
    return [
        *lines,
        f"mean error {_percent(found['mean_error'])}, clean error"
        f" {_percent(found['clean_error'])}{times}, on {found['images']:,} images",
        f"made by {found['made_by']}; not to be compared with ImageNet-C",
    ]


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


_TEXTS = {
    "imagenet_a": _some_classes,
    "imagenet_r": _some_classes,
    "imagenet_c": _imagenet_c,
    "imagenet_p": _imagenet_p,
    "fgsm": _fgsm,
    "corruptions": _corruptions,
}

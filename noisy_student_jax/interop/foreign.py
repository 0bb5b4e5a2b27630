"""Converts other libraries' weights to variables, completely or not at all."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from noisy_student_jax import models
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError, cause, nearest
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop import imagenet, naming, torch_files
from noisy_student_jax.interop.efficientnet_pytorch_names import EFFICIENTNET_PYTORCH
from noisy_student_jax.interop.naming import Naming, Row
from noisy_student_jax.interop.timm_names import TIMM
from noisy_student_jax.models import initialize
from noisy_student_jax.models.architectures import Architecture
from noisy_student_jax.models.bundle import Bundle

# Keys under which training scripts save their tensors, averaged ones first.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
# Prefixes that parallel training and compilation add to every name.
_PREFIXES = ("module.", "_orig_mod.")
_NAMED_AT_MOST = 4


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The tensors of a file.

    Attributes:
      arrays: arrays by the file's own names.
      sha256: SHA-256 of the file.
      notes: steps taken to find the tensors, for the console.
    """

    arrays: dict[str, np.ndarray]
    sha256: str
    notes: tuple[str, ...] = ()


def read(path: pathlib.Path) -> Tensors:
    """Reads the tensors of a safetensors or PyTorch file, detected by content.

    Raises:
      UserError: the file is missing or damaged, or holds more than tensors.
    """
    if not path.is_file():
        what = "is a folder: give the file in it" if path.is_dir() else "is not there"
        raise UserError(f"'{path}' {what}")
    with path.open("rb") as file:
        start = file.read(16)
    torch_starts = (torch_files.ZIP_START, torch_files.LEGACY_START)
    if start.startswith(torch_starts):
        value, notes = torch_files.read(path), []
        while wrapper := _wrapper(value):
            notes.append(f"read the tensors under '{wrapper}'")
            value = value[wrapper]
        arrays = _only_arrays(value, path)
    elif start[8:9] == b"{":
        arrays, notes = _read_safetensors(path), []
    else:
        raise UserError(
            f"'{path}' is neither a safetensors file nor one that torch.save wrote"
            " (files of PyTorch before 0.1.10, and archives around a file, are not"
            " read)"
        )
    for prefix in _PREFIXES:
        if arrays and all(name.startswith(prefix) for name in arrays):
            notes.append(f"removed '{prefix}' from every name")
            arrays = {
                name.removeprefix(prefix): array for name, array in arrays.items()
            }
    return Tensors(arrays, files.sha256(path), tuple(notes))


def _wrapper(value: Any) -> str | None:
    """Returns the key under which a training script saved the tensors, if any."""
    if isinstance(value, dict):
        for key in _WRAPPERS:
            if isinstance(value.get(key), dict):
                return key
    return None


def _only_arrays(value: Any, path: pathlib.Path) -> dict[str, np.ndarray]:
    if isinstance(value, dict):
        others = [key for key, one in value.items() if not isinstance(one, np.ndarray)]
        if value and not others:
            return {str(key): array for key, array in value.items()}
        if others:
            raise UserError(
                f"'{path}' holds more than tensors, {others[0]!r} for one, and none of"
                f" {', '.join(_WRAPPERS)}: save the tensors alone"
            )
    raise UserError(f"'{path}' holds no tensors by name: save a model's state_dict()")


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"'{path}' is not a readable safetensors file ({cause(error)}): get it"
            " again from its source"
        ) from error


def identify(names: Iterable[str], source: str) -> Naming:
    """Identifies the library that wrote a file by the tensor names.

    Raises:
      UserError: the names are of no known library.
    """
    names = set(names)
    for one in (TIMM, EFFICIENTNET_PYTORCH):
        stem = one.outside["stem_conv"] + one.joint + "weight"
        if stem in names:
            return one
    few = ", ".join(sorted(names)[:_NAMED_AT_MOST])
    raise UserError(
        f"'{source}' has an unknown layout: it has neither timm's conv_stem.weight nor"
        f" efficientnet_pytorch's _conv_stem.weight, but {len(names)} tensors such as"
        f" {few}"
    )


def fit(
    arrays: Mapping[str, np.ndarray],
    names: Naming,
    model: str,
    *,
    source: str,
) -> PyTree:
    """Converts another library's arrays to a model's variables.

    Args:
      arrays: arrays by the library's names. PyTorch's batch counters are ignored; all
        other arrays must belong to the model.
      names: the library's naming.
      model: name of one of this package's models.
      source: where the arrays come from, for error messages.

    Returns:
      ``{"params", "batch_stats"}``, float32, with the classifier's width unchanged.

    Raises:
      UserError: arrays are missing, superfluous, misshaped or not finite, or the model
        is not one of this package's.
    """
    rows = naming.rows(_architecture(model), names)
    arrays = {
        name: array
        for name, array in arrays.items()
        if not name.endswith("num_batches_tracked")
    }
    _refuse(
        "lacks",
        [row.theirs for row in rows if row.theirs not in arrays],
        source,
        model,
    )
    _refuse(
        "has more than the model, namely",
        sorted(arrays.keys() - {row.theirs for row in rows}),
        source,
        model,
    )
    _refuse("has other shapes:", _misshaped(rows, arrays, model), source, model)
    odd = [n for n, a in arrays.items() if not np.isfinite(a.astype(np.float32)).all()]
    _refuse("has numbers that are not finite in", odd, source, model)
    return naming.to_ours(rows, arrays)


def _architecture(model: str) -> Architecture:
    if model == models.CONCATENATED:
        raise UserError(
            f"'{model}' is several networks, and weights are imported for one of"
            f" them: give its name, such as {models.MEMBERS[0]}"
        )
    if model not in models.FAMILY:
        raise UserError(
            "weights are imported for the package's EfficientNets, and none is called"
            f" '{model}'{nearest(model, models.FAMILY)}"
        )
    return models.create(model, outputs=1).architecture


def _misshaped(
    rows: tuple[Row, ...], arrays: Mapping[str, np.ndarray], model: str
) -> list[str]:
    """Describes the misshaped arrays; the classifier may have any width."""
    bias = next(row for row in rows if row.ours == "params/classifier/bias")
    width = arrays[bias.theirs].shape
    module = models.create(model, outputs=width[0] if len(width) == 1 else 1)
    shapes = traverse_util.flatten_dict(
        initialize.abstract_variables(module, resolution=32), sep="/"
    )
    wrong = []
    for row in rows:
        theirs, ours = arrays[row.theirs].shape, shapes[row.ours].shape
        wanted = row.shape_there(ours)
        if theirs != wanted:
            wrong.append(f"{row.theirs} {list(theirs)} for {list(wanted)}")
    return wrong


def _refuse(what: str, names: list[str], source: str, model: str) -> None:
    if not names:
        return
    more = len(names) - _NAMED_AT_MOST
    few = ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
    raise UserError(
        f"'{source}' does not fit {model}: it {what} {few} ({len(names)} in all);"
        " nothing was imported; is --model the model of these weights?"
    )


def from_tensors(
    tensors: Tensors,
    model: str,
    *,
    preprocessing: Preprocessing,
    source: str,
    layout: str,
    classes: tuple[str, ...] | None = None,
) -> Bundle:
    """Builds a bundle from the tensors of a PyTorch or safetensors file.

    Args:
      tensors: the result of `read`.
      model: name of one of this package's models.
      preprocessing: preprocessing that the weights expect.
      source: name of the file, for error messages and the origin.
      layout: format of the weights, one of ``importing.FORMATS``.
      classes: class names in index order; None for ImageNet's.

    Raises:
      UserError: see `identify`, `fit` and `bind`.
    """
    names = identify(tensors.arrays, source)
    return bind(
        fit(tensors.arrays, names, model, source=source),
        model,
        preprocessing=preprocessing,
        classes=classes,
        source=source,
        origin={
            "imported_from": source,
            "format": layout,
            "names": names.name,
            "sha256": {source: tensors.sha256},
            "notes": list(tensors.notes),
        },
    )


def bind(
    variables: PyTree,
    model: str,
    *,
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None,
    origin: dict[str, Any],
    source: str,
) -> Bundle:
    """Bundles imported variables with model, preprocessing, classes and origin.

    Args:
      variables: the result of `fit`.
      model: name of one of this package's models.
      preprocessing: preprocessing that the weights expect.
      classes: class names in index order; None for ImageNet's.
      origin: provenance of the weights.
      source: where the weights were read from, for error messages.

    Raises:
      UserError: the number of classes differs from the classifier's width.
    """
    outputs = len(variables["params"]["classifier"]["bias"])
    if classes is None and outputs != len(imagenet.classes()):
        raise UserError(
            f"the classifier of '{source}' has {outputs} classes, so they are not the"
            " 1000 of ImageNet: name them, one per line, with --classes=FILE"
        )
    classes = imagenet.classes() if classes is None else classes
    if len(classes) != outputs:
        raise UserError(
            f"--classes names {len(classes)} classes, but the classifier of '{source}'"
            f" has {outputs}"
        )
    return Bundle(
        architecture=model,
        arguments={"outputs": outputs},
        preprocessing=preprocessing,
        task="classification",
        classes=classes,
        variables=variables,
        origin=origin,
        # The training images of imported weights are unknown.
        trained_on=np.zeros(0, np.uint64),
    )

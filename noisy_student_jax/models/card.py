"""The card of a bundle, ``model.json``: its fields, their bounds, and its sum."""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from noisy_student_jax import models
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.model_arguments import ModelArguments
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import onnx_backbone
from noisy_student_jax.models.initialize import abstract_variables

SUM = "bundle_sha256"
"""The field for the sum of all other fields, among which are the sums of the files."""
_COPY = "copy the bundle again from where it came"
_MOST_CLASSES = 1 << 20
_LONGEST = 60
"""Characters of a value that a message shows."""
_ONE_TASK = "classification"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_sum(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _are_classes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= _MOST_CLASSES
        and all(isinstance(name, str) and name for name in value)
        and len(set(value)) == len(value)
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_members(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "schema": (lambda value: value == 1, "1"),
    "architecture": (_is_name, "the name of a model"),
    "arguments": (_is_object, "an object of the model's arguments"),
    "members": (_are_members, "a list of objects, one for each network"),
    "preprocessing": (_is_object, "an object of resolution, mean and so on"),
    "task": (_is_name, "the name of a task"),
    "classes": (
        _are_classes,
        f"a list of 1 to {_MOST_CLASSES:,} different names",
    ),
    "sha256": (_is_sum, "64 hexadecimal digits"),
    "origin": (_is_object, "an object"),
    "trained_on_sha256": (_is_sum, "64 hexadecimal digits"),
    SUM: (_is_sum, "64 hexadecimal digits"),
}
_OPTIONAL = ("members", "trained_on_sha256", SUM)
"""Fields that only some models have, or that bundles of older versions lack."""


def with_sum(card: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a card with its `SUM`."""
    return {**card, SUM: _sum(card)}


def _sum(card: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in card.items() if name != SUM}
    # As it is read: tuples are lists, and keys text.
    return files.digest(json.loads(json.dumps(rest)))


def check(card: dict[str, Any], path: pathlib.Path) -> Preprocessing:
    """Checks the fields of a card, and their sum if it has one.

    Args:
      card: the card as read.
      path: its file, for messages.

    Returns:
      Its preprocessing.

    Raises:
      UserError: a field is missing, unknown or out of its bounds, or the card was
        changed after it was written.
    """
    for name in _FIELDS:
        if name not in card and name not in _OPTIONAL:
            raise UserError(f"'{path}' lacks '{name}'; {_COPY}")
    for name, value in card.items():
        if name not in _FIELDS:
            raise UserError(f"'{path}' has a field '{name}', which is unknown; {_COPY}")
        is_right, expected = _FIELDS[name]
        if not is_right(value):
            raise _wrong(path, name, value, expected)
    preprocessing = _preprocessing(card["preprocessing"], path)
    _check_arguments(card, preprocessing, path)
    if SUM in card and card[SUM] != _sum(card):
        raise UserError(
            f"'{path}' was changed or damaged after it was written (its {SUM} is not"
            f" that of its other fields): {_COPY}, or remove its {SUM} if you have"
            " edited it"
        )
    return preprocessing


def _preprocessing(fields: dict[str, Any], path: pathlib.Path) -> Preprocessing:
    names = [field.name for field in dataclasses.fields(Preprocessing)]
    for name in names:
        # Bundles of center crops do not name their framing.
        if name not in fields and name != "framing":
            raise UserError(f"'{path}' lacks 'preprocessing.{name}'; {_COPY}")
    for name, value in fields.items():
        if name not in names:
            raise UserError(
                f"'{path}' has a field 'preprocessing.{name}', which is unknown;"
                f" {_COPY}"
            )
        if name in ("mean", "std") and not isinstance(value, list):
            raise _wrong(path, f"preprocessing.{name}", value, "a list of numbers")
    try:
        return Preprocessing.from_json(fields)
    except UserError as error:
        raise UserError(f"'{path}': {error}; {_COPY}") from error


def _check_arguments(
    card: dict[str, Any], preprocessing: Preprocessing, path: pathlib.Path
) -> None:
    """Checks the arguments of the package's own models."""
    arguments, classes = card["arguments"], card["classes"]
    outputs = arguments.get("outputs")
    if not _is_whole(outputs) or not 0 <= outputs <= _MOST_CLASSES:
        expected = f"a whole number from 0 to {_MOST_CLASSES:,}"
        raise _wrong(path, "arguments.outputs", outputs, expected)
    if card["task"] == _ONE_TASK and outputs != len(classes):
        expected = f"{len(classes):,}, the number of its classes"
        raise _wrong(path, "arguments.outputs", outputs, expected)
    if not is_own(card["architecture"]):
        return
    for name, default in dataclasses.asdict(ModelArguments()).items():
        if name in arguments and not _is_like(arguments[name], default):
            expected = f"of the kind of {json.dumps(default)}"
            raise _wrong(path, f"arguments.{name}", arguments[name], expected)
    given = arguments.get("members") or []
    if not isinstance(given, list) or not all(map(_is_name, given)):
        raise _wrong(path, "arguments.members", given, "a list of names")
    for member in models.outside(given):
        name = f"{onnx_backbone.PREFIX}{onnx_backbone.NAME}"
        if not re.fullmatch(rf"{name}\d+\.onnx", member):
            expected = f"{name}NUMBER.onnx, a file of the bundle"
            raise _wrong(path, "arguments.members", member, expected)
    try:
        module = models.create(card["architecture"], **arguments)
    except UserError as error:
        raise UserError(f"'{path}': {error}; {_COPY}") from error
    except TypeError as error:  # `frozen_blocks` is no number
        raise UserError(f"'{path}' has malformed 'arguments'; {_COPY}") from error
    for name in ("mean", "std"):
        given = getattr(module, name, expected := getattr(preprocessing, name))
        if given != expected:
            told = f"{list(expected)}, as in its preprocessing"
            raise _wrong(path, f"arguments.{name}", list(given), told)


def _is_like(value: Any, default: Any) -> bool:
    """Returns whether an argument has the type of its default; None is a rate."""
    if value is None:
        return default is None
    if default is None or isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_own(architecture: str) -> bool:
    """Returns whether a name is one of the package's models, or of none."""
    return ":" not in architecture


def check_tensors(
    card: dict[str, Any],
    tensors: Mapping[str, np.ndarray],
    preprocessing: Preprocessing,
    path: pathlib.Path,
) -> None:
    """Checks that weights are those of the package's model that a card describes.

    Args:
      card: the card, checked.
      tensors: the weights by path.
      preprocessing: the card's.
      path: the file of the weights, for messages.

    Raises:
      UserError: a tensor is missing, or one too many, or has another shape or type.
    """
    if not is_own(card["architecture"]):
        return
    module = models.create(card["architecture"], **card["arguments"])
    wanted = traverse_util.flatten_dict(
        jax.tree.map(
            lambda leaf: (list(leaf.shape), str(leaf.dtype)),
            abstract_variables(module, resolution=preprocessing.resolution),
        ),
        sep="/",
    )
    found = {
        name: (list(array.shape), str(array.dtype)) for name, array in tensors.items()
    }
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            here, there = (_told(of.get(name)) for of in (found, wanted))
            raise UserError(
                f"'{path}' does not fit the model of its card,"
                f" {card['architecture']} with {card['arguments']['outputs']} outputs:"
                f" {name} is {here} in the file and {there} in the model; {_COPY}"
            )


def with_members(
    arguments: dict[str, Any], change: Callable[[str], str]
) -> dict[str, Any]:
    """Returns the arguments of a model with other names of members from outside."""
    given = arguments.get("members") or ()
    if not models.outside(given):
        return arguments
    return arguments | {
        "members": [change(one) if models.outside((one,)) else one for one in given]
    }


def members(
    architecture: str, arguments: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Describes the networks that a model consists of.

    Args:
      architecture: name of the model.
      arguments: of the model.
      tensors: its variables by path.

    Returns:
      For each network its name, the SHA-256 of its variables, and mean and standard
      deviation of the images that it sees; nothing for a model that is one network.
    """
    if architecture != models.CONCATENATED:
        return []
    rows = []
    module = models.create(architecture, **arguments)
    for member in module.members:
        if models.outside((member,)):
            digest = files.sha256(onnx_backbone.path_of(member))
            row = {"name": onnx_backbone.beside(member), "sha256": digest}
            rows.append(row | {"mean": list(module.mean), "std": list(module.std)})
            continue
        mean, std = (list(each) for each in models.normalization(member))
        digest = _digest(tensors, member)
        rows.append({"name": member, "sha256": digest, "mean": mean, "std": std})
    return rows


def check_members(
    card: Mapping[str, Any], tensors: Mapping[str, np.ndarray], path: pathlib.Path
) -> None:
    """Checks the members of a card against the weights and this version's models.

    Args:
      card: the card, checked.
      tensors: the weights by path.
      path: the file of the card, for messages.

    Raises:
      UserError: a member is missing or one too many, or has other weights or another
        preprocessing.
    """
    for member in models.outside(card["arguments"].get("members") or ()):
        if not files.is_file(onnx_backbone.path_of(member)):
            raise UserError(
                f"'{path.parent}' is incomplete: its {path.name} lists"
                f" {onnx_backbone.path_of(member).name}, which is missing; {_COPY}"
            )
    wanted = members(card["architecture"], card["arguments"], tensors)
    given = card.get("members", [])
    for number, right in enumerate(wanted):
        one = given[number] if number < len(given) else {}
        for name, value in right.items():
            if one.get(name) != value:
                where = f"members[{number}].{name}"
                raise _wrong(path, where, one.get(name), json.dumps(value))
    if len(given) > len(wanted):
        expected = f"a list of the model's {len(wanted)} members"
        raise _wrong(path, "members", given, expected)


def _digest(tensors: Mapping[str, np.ndarray], member: str) -> str:
    """Returns the SHA-256 of a member's variables, under the names it has alone."""
    total = hashlib.sha256()
    for path in sorted(tensors):
        collection, _, own = path.partition(f"/{member}/")
        if own:
            array = np.asarray(tensors[path], order="C")
            told = f"{collection}/{own} {array.dtype} {array.shape}\n"
            total.update(told.encode())
            total.update(array.tobytes())
    return total.hexdigest()


def _told(tensor: tuple[list[int], str] | None) -> str:
    return "absent" if tensor is None else f"{tensor[1]} {tensor[0]}"


def _wrong(path: pathlib.Path, name: str, value: Any, expected: str) -> UserError:
    told = json.dumps(value, ensure_ascii=False)
    if len(told) > _LONGEST:
        told = f"{told[:_LONGEST]}…"
    return UserError(
        f"'{path}' has '{name}' {told}, and it must be {expected}; {_COPY}"
    )

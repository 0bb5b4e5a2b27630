"""Bundles: model weights together with everything needed to use them correctly.

``model.safetensors`` holds the EMA weights and EMA batch statistics; ``model.json``
binds them to architecture, preprocessing, class names and origin. With one writer and
one reader, weights are always used with the preprocessing they were trained with.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import save

from noisy_student_jax import models
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.images.decode import Decoding
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.models import card as cards
from noisy_student_jax.models import onnx_backbone, views

WEIGHTS = "model.safetensors"
CARD = "model.json"
TRAINED_ON = "trained_on.npy"
SCHEMA = 1
KEPT = 4
"""Number of bundles cached in memory: as many as one stage reads."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A model ready to use.

    Attributes:
      architecture: name in the registry of models.
      arguments: the constructor arguments of the model, including `outputs`.
      preprocessing: the preprocessing that the weights expect.
      task: name of the task.
      classes: class names in index order.
      variables: host arrays ``{"params", "batch_stats"}``, float32.
      origin: its provenance: run, generation, steps, metrics, teachers.
      trained_on: uint64 ``[records]``, sorted: the first 8 bytes of the SHA-256 of
        the key of every record that the model or its teachers were trained on.
      sha256: of the weights file; empty until written or read.
    """

    architecture: str
    arguments: dict[str, Any]
    preprocessing: Preprocessing
    task: str
    classes: tuple[str, ...]
    variables: PyTree
    origin: dict[str, Any]
    trained_on: np.ndarray
    sha256: str = ""

    @property
    def views(self) -> int:
        """Number of views of an image that it predicts from."""
        return int(self.arguments.get("views", 1))

    def in_views(self, count: int | None) -> "Bundle":
        """Returns it as a model that predicts from `count` views; None for its own.

        Raises:
          UserError: its model does not take views, or there are not so many.
        """
        if count is None:
            return self
        if not models.takes_views(self.architecture):
            raise UserError(f"model '{self.architecture}' knows no views: omit --views")
        if not 1 <= count <= views.MOST:
            raise UserError(f"--views must be 1 to {views.MOST}, not {count}")
        arguments = {**self.arguments, "views": count}
        return dataclasses.replace(self, arguments=arguments)

    @property
    def decoding(self) -> Decoding:
        """How images are decoded for it: deep ones by the scale of its run."""
        scales = self.origin.get("scales", {})
        return Decoding(scales={kind: tuple(own) for kind, own in scales.items()})


def write(bundle: Bundle, folder: pathlib.Path) -> Bundle:
    """Writes a bundle, and verifies the weights by reading them back.

    Returns:
      The bundle with its `sha256`.
    """
    # safetensors silently writes non-contiguous arrays in the wrong order.
    tensors = {
        name: np.asarray(jax.device_get(array), order="C")
        for name, array in traverse_util.flatten_dict(bundle.variables, sep="/").items()
    }
    bundle = dataclasses.replace(bundle, arguments=_brought(bundle.arguments, folder))
    files.write_atomically(folder / WEIGHTS, save(tensors))
    files.write_array(folder / TRAINED_ON, bundle.trained_on)
    written = files.read_tensors(folder / WEIGHTS)
    for name, array in tensors.items():
        if not np.array_equal(written[name], array, equal_nan=True):
            raise OSError(f"'{folder / WEIGHTS}' did not keep tensor {name} as written")
    bundle = dataclasses.replace(bundle, sha256=files.sha256(folder / WEIGHTS))
    trained_on = {"trained_on_sha256": files.sha256(folder / TRAINED_ON)}
    files.write_json(folder / CARD, cards.with_sum(card(bundle) | trained_on))
    return bundle


def _brought(arguments: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """Copies the files of members from outside into a bundle's folder.

    Returns:
      The arguments with the copies in place of the files.
    """
    numbers = itertools.count()

    def bring(member: str) -> str:
        copy = onnx_backbone.within(f"{onnx_backbone.NAME}{next(numbers)}.onnx", folder)
        files.copy_file(onnx_backbone.path_of(member), onnx_backbone.path_of(copy))
        return copy

    return cards.with_members(arguments, bring)


def card(bundle: Bundle) -> dict[str, Any]:
    """Returns the model card as JSON, without the hash of `trained_on` and the sum."""
    tensors = traverse_util.flatten_dict(bundle.variables, sep="/")
    members = cards.members(bundle.architecture, bundle.arguments, tensors)
    return {
        "schema": SCHEMA,
        "architecture": bundle.architecture,
        "arguments": cards.with_members(bundle.arguments, onnx_backbone.beside),
        "preprocessing": bundle.preprocessing.to_json(),
        "task": bundle.task,
        "classes": list(bundle.classes),
        "sha256": bundle.sha256,
        "origin": bundle.origin,
        **({"members": members} if members else {}),
    }


def refuse_foreign_code(bundle: Bundle, folder: str | pathlib.Path) -> None:
    """Rejects a bundle whose card names code outside the package.

    Raises:
      UserError: using the bundle would import and call that code.
    """
    for name in (bundle.architecture, bundle.task):
        if ":" in name:
            raise UserError(
                f"the model in '{folder}' needs code from outside this package,"
                f" '{name}': if you know where it comes from, add --trust"
            )


def read(folder: str | pathlib.Path) -> Bundle:
    """Reads and verifies a bundle: its card, and its files against the card.

    A bundle of an older version has no sum of its card; its weights are compared with
    those of the model that the card describes, if it is one of the package's.

    An unchanged bundle is read and hashed once per process. Its arrays are shared
    between callers and read-only.

    Raises:
      UserError: the folder is not a bundle, is damaged, or has a later schema.
    """
    folder = pathlib.Path(folder)
    if folder.name in (CARD, WEIGHTS):
        folder = folder.parent
    for name in (CARD, WEIGHTS):
        if not files.is_file(folder / name):
            raise UserError(
                f"'{folder}' is not a model bundle: it has no {name} (a run keeps its"
                " bundles in generation_N/model and best)"
            )
    card = files.read_json(folder / CARD)
    schema = card.get("schema") if isinstance(card, dict) else None
    if schema != SCHEMA or isinstance(schema, bool):
        raise UserError(
            f"'{folder / CARD}' has schema {schema}, but this version reads schema"
            f" {SCHEMA}: update noisy-student-jax"
        )
    preprocessing = cards.check(card, folder / CARD)
    checked = {WEIGHTS: str(card.get("sha256"))}
    if card.get("trained_on_sha256"):
        # Without it, evaluation on training images would go undetected.
        checked[TRAINED_ON] = str(card["trained_on_sha256"])
    for name in checked:
        if not files.is_file(folder / name):
            raise UserError(
                f"'{folder}' is incomplete: its {CARD} lists {name}, which is missing;"
                " copy the bundle again from where it came"
            )
    tensors, trained_on = _arrays(
        folder,
        tuple((name, files.identity(folder / name), checked[name]) for name in checked),
    )
    card["arguments"] = cards.with_members(
        card["arguments"], lambda member: onnx_backbone.within(member, folder)
    )
    cards.check_members(card, tensors, folder / CARD)
    if cards.SUM not in card:
        cards.check_tensors(card, tensors, preprocessing, folder / WEIGHTS)
    try:
        variables = traverse_util.unflatten_dict(tensors, sep="/")
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"'{folder / WEIGHTS}' has a tensor with the name of a group of others;"
            " copy the bundle again from where it came"
        ) from error
    return Bundle(
        architecture=card["architecture"],
        arguments=card["arguments"],
        preprocessing=preprocessing,
        task=card["task"],
        classes=tuple(card["classes"]),
        variables={"batch_stats": {}} | variables,
        origin=card["origin"],
        trained_on=trained_on,
        sha256=card["sha256"],
    )


@functools.lru_cache(maxsize=KEPT)
def _arrays(
    folder: pathlib.Path, parts: tuple[tuple[str, tuple[int, ...], str], ...]
) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
    """Verifies and loads a bundle's arrays, read-only.

    Args:
      folder: of the bundle.
      parts: name, identity and SHA-256 by the card of each file.

    Returns:
      The weights by path, and `Bundle.trained_on`.

    Raises:
      UserError: a file is damaged.
    """
    for name, _, sha256 in parts:
        if files.sha256(folder / name) != sha256:
            raise UserError(
                f"'{folder / name}' is damaged: its SHA-256 is not the one in {CARD};"
                " copy the bundle again from where it came"
            )
    tensors = files.read_tensors(folder / WEIGHTS)
    trained_on = np.zeros(0, np.uint64)
    if TRAINED_ON in (name for name, *_ in parts):
        trained_on = files.read_array(folder / TRAINED_ON)
        if trained_on.dtype != np.uint64 or trained_on.ndim != 1:
            raise UserError(
                f"'{folder / TRAINED_ON}' is no list of 64-bit numbers; copy the bundle"
                " again from where it came"
            )
    for array in (*tensors.values(), trained_on):
        array.flags.writeable = False
    return tensors, trained_on

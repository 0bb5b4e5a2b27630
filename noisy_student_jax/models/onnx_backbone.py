"""Backbones from outside: ONNX files that map images to vectors, run by onnxruntime.

A member ``onnx:PATH`` of a `Concatenated` is such a file: a network that was exported
without its classifier, by any program. It stays as it is, and only a head on its
features is trained. Its images are normalized as the config says (``model.mean``,
``model.std``), and its file goes with the bundle.
"""

import copy
import functools
import importlib
import math
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError

PREFIX = "onnx:"
"""Of the name of a member that is an ONNX file, before its path."""
NAME = "member_"
"""Beginning of the name of a file in a bundle."""
FEATURES = "features"
"""Name of the output that is taken, where a file has several."""
_FLOAT = "tensor(float)"


def path_of(member: str) -> pathlib.Path:
    """Returns the path of a member's file."""
    return pathlib.Path(member.removeprefix(PREFIX)).expanduser()


def beside(member: str) -> str:
    """Returns a member of a bundle as its card names it, without a folder."""
    return PREFIX + path_of(member).name


def within(member: str, folder: pathlib.Path) -> str:
    """Returns a member that a card names as the file in the bundle's folder."""
    return PREFIX + str(folder.absolute() / path_of(member).name)


class OnnxBackbone:
    """A network of an ONNX file.

    Attributes:
      sha256: of the file.
      channels: number of features.
      side: height and width of its images; None for any.
    """

    def __init__(self, path: pathlib.Path):
        """Opens the file.

        Raises:
          UserError: onnxruntime is not installed, the file is missing or no ONNX file,
            or it does not map images to vectors.
        """
        self._path = path
        if not files.is_file(path):
            raise UserError(
                f"model.members names '{PREFIX}{path}', and there is no such file"
            )
        self.sha256 = files.sha256(path)
        self._session = self._opened()
        self._flops: dict[int, int] = {}
        given, made = self._session.get_inputs(), self._session.get_outputs()
        named = [one for one in made if one.name == FEATURES] or made[:1]
        if len(given) != 1 or len(given[0].shape) != 4 or given[0].type != _FLOAT:
            raise self._unfit(
                "it should read one float32 array of normalized images, but reads "
                + ", ".join(f"{one.type} {one.shape}" for one in given)
            )
        if len(named[0].shape) != 2 or named[0].type != _FLOAT:
            raise self._unfit(
                f"its output should be float32 [batch, channels], but '{named[0].name}'"
                f" is {named[0].type} {named[0].shape}"
            )
        self._input, self._output = given[0].name, named[0].name
        batch, *rest = given[0].shape
        self._batch = batch if isinstance(batch, int) else None
        self._channels_first = rest[0] == 3
        if not self._channels_first and rest[2] != 3:
            raise self._unfit(
                f"its images should have 3 channels, first or last, but are {rest}"
            )
        sides = rest[1:] if self._channels_first else rest[:2]
        fixed = {side for side in sides if isinstance(side, int)}
        if len(fixed) > 1:
            raise self._unfit(f"its images should be square, but are {sides}")
        self.side = fixed.pop() if fixed else None
        width = named[0].shape[1]
        if not isinstance(width, int):
            side = self.side or 224
            width = self(np.zeros((1, side, side, 3), np.float32)).shape[1]
        self.channels = width

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Computes the features of images.

        Args:
          images: normalized, float32 ``[batch, side, side, 3]``.

        Returns:
          float32 ``[batch, channels]``.

        Raises:
          UserError: the network does not take images of this size.
        """
        self.check_side(images.shape[1])
        count, step = len(images), self._batch or len(images)
        missing = -count % step
        if missing:
            blank = np.zeros((missing, *images.shape[1:]), images.dtype)
            images = np.concatenate([images, blank])
        if self._channels_first:
            images = images.transpose(0, 3, 1, 2)
        images = np.ascontiguousarray(images, np.float32)
        try:
            parts = [
                self._session.run([self._output], {self._input: images[at : at + step]})
                for at in range(0, len(images), step)
            ]
        except Exception as error:  # onnxruntime raises many kinds
            raise self._unfit(
                f"it cannot read images of {images.shape[1:]}: {_reason(error)}"
            ) from error
        return np.concatenate([part[0] for part in parts])[:count]

    def flops(self, side: int) -> int:
        """Returns the FLOPs of one image, counted as in `cost.flops`.

        An image is computed, since the runtime tells shapes of what it has computed.

        Args:
          side: height and width of the image.

        Raises:
          UserError: the network does not take images of this size.
        """
        if side in self._flops:
            return self._flops[side]
        profiled, count = copy.copy(self), self._batch or 1
        with tempfile.TemporaryDirectory() as folder:
            # Operations that are fused further have other names.
            basic = _runtime().GraphOptimizationLevel.ORT_ENABLE_BASIC
            profiled._session = self._opened(
                enable_profiling=True,
                profile_file_prefix=f"{folder}/profile",
                graph_optimization_level=basic,
            )
            profiled(np.zeros((count, side, side, 3), np.float32))
            events = files.read_json(pathlib.Path(profiled._session.end_profiling()))
        found = [
            event["args"] for event in events if "op_name" in event.get("args", {})
        ]
        self._flops[side] = 2 * sum(_multiplications(one) for one in found) // count
        return self._flops[side]

    def check_side(self, side: int) -> None:
        """Raises UserError if the network does not take images of this size."""
        if self.side not in (None, side):
            raise self._unfit(
                f"it reads images of {self.side} px, and not of {side}: set"
                f" model.resolution to {self.side}"
            )

    def _opened(self, **options: Any) -> Any:
        runtime = _runtime()
        asked = runtime.SessionOptions()
        asked.intra_op_num_threads = len(os.sched_getaffinity(0))
        asked.log_severity_level = 3
        for name, value in options.items():
            setattr(asked, name, value)
        try:
            # From its bytes, so that it is one file and refers to no other.
            return runtime.InferenceSession(
                files.read_bytes(self._path), asked, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises many kinds
            if "external data" in (why := _reason(error)).lower():
                why = (
                    "its weights are in another file; export it as a single one"
                    " (torch.onnx.export(…, external_data=False))"
                )
            raise self._unfit(f"it cannot be opened: {why}") from error

    def _unfit(self, why: str) -> UserError:
        return UserError(f"'{self._path}' is no backbone: {why}")


def opened(member: str) -> OnnxBackbone:
    """Opens a member's file, once per process while it is unchanged.

    Raises:
      UserError: see `OnnxBackbone`.
    """
    path = path_of(member)
    return _opened(path, files.identity(path) if files.is_file(path) else ())


@functools.lru_cache(maxsize=8)
def _opened(path: pathlib.Path, unchanged: tuple[int, ...]) -> OnnxBackbone:
    del unchanged
    return OnnxBackbone(path)


def features(members: Sequence[str], images: np.ndarray) -> np.ndarray:
    """Computes the features of several members, one after the other.

    Args:
      members: the members.
      images: normalized, float32 ``[batch, side, side, 3]``.

    Returns:
      float32 ``[batch, channels]``.
    """
    return np.concatenate([opened(member)(images) for member in members], axis=1)


def _multiplications(operation: dict[str, Any]) -> int:
    """Returns the multiply–adds of an operation that the runtime has computed."""
    name = operation["op_name"]
    if not any(kind in name for kind in ("Conv", "MatMul", "Gemm")):
        return 0
    made, left, *rest = (
        next(iter(one.values()))
        for one in operation["output_type_shape"][:1] + operation["input_type_shape"]
        if one
    )
    if "Conv" not in name:
        return math.prod(made) * left[-1]
    # Quantized ones have scales between images and kernel.
    kernel = next(one for one in rest if len(one) == len(left))
    return math.prod(made) * math.prod(kernel[1:])


def _reason(error: Exception) -> str:
    """Returns onnxruntime's message without its numbers and names of errors."""
    return " ".join(str(error).split()).split(" : ", 3)[-1]


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UserError(
            "a backbone of an ONNX file needs 'onnxruntime', which cannot be imported:"
            " pip install 'noisy-student-jax[onnx]'"
        ) from error

"""A builder of ONNX graphs, which names nodes and constants."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from noisy_student_jax.core.errors import UserError

OPSET = 18
"""The first whose ``Resize`` has ``antialias``; onnxruntime has it since 2023."""
IR_VERSION = 8


def library(name: str) -> ModuleType:
    """Imports a library of the `onnx` extra.

    Raises:
      UserError: the library is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"exporting to ONNX needs '{name}', which cannot be imported: pip install"
            " 'noisy-student-jax[onnx]'"
        ) from error


class Graph:
    """Collects nodes and constants; values are referred to by name."""

    def __init__(self):
        """Creates an empty graph."""
        self._onnx = library("onnx")
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, value: Any, dtype: Any = None, *, name: str = "") -> str:
        """Adds an array; returns its name."""
        array = np.asarray(value, dtype, order="C")
        name = name or f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Adds a node with one output; returns the output's name."""
        output = name or f"{kind.lower()}_{len(self._nodes)}"
        self._add(kind, inputs, [output], attributes)
        return output

    def several(
        self, kind: str, *inputs: str, count: int, **attributes: Any
    ) -> tuple[str, ...]:
        """Adds a node with `count` outputs; returns the outputs' names."""
        name = f"{kind.lower()}_{len(self._nodes)}"
        outputs = [f"{name}_{number}" for number in range(count)]
        self._add(kind, inputs, outputs, attributes)
        return tuple(outputs)

    def _add(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: list[str],
        attributes: dict[str, Any],
    ) -> None:
        self._nodes.append(
            self._onnx.helper.make_node(
                kind, list(inputs), outputs, name=outputs[0], **attributes
            )
        )

    def cast(self, value: str, dtype: Any) -> str:
        """Adds a cast; returns the output's name."""
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", value, to=kind)

    def model(
        self,
        inputs: dict[str, tuple[Any, list[Any]]],
        outputs: dict[str, tuple[Any, list[Any]]],
        properties: dict[str, str],
    ) -> bytes:
        """Returns the serialized model.

        Args:
          inputs: dtype and shape by name; a named dimension is dynamic.
          outputs: dtype and shape by name.
          properties: metadata of the model.

        Raises:
          UserError: the model exceeds the 2 GiB limit of the format.
        """
        onnx = self._onnx

        def described(values):
            return [
                onnx.helper.make_tensor_value_info(
                    name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
                )
                for name, (dtype, shape) in values.items()
            ]

        graph = onnx.helper.make_graph(
            self._nodes,
            "noisy_student",
            described(inputs),
            described(outputs),
            self._constants,
        )
        model = onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="noisy-student-jax",
        )
        onnx.helper.set_model_props(model, properties)
        size = model.ByteSize()
        if size >= onnx.checker.MAXIMUM_PROTOBUF:
            raise UserError(
                f"this model takes {size:,} bytes, more than the 2 GiB of an ONNX file:"
                " use --format=savedmodel"
            )
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()

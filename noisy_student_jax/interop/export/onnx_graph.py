"""A graph in the making: nodes and constants get their names by themselves."""

import importlib
from types import ModuleType
from typing import Any

import numpy as np

from noisy_student_jax.core.errors import UserError

OPSET = 17
"""Old enough for runtimes of 2022 and later."""
IR_VERSION = 8


def library(name: str) -> ModuleType:
    """Imports what the `onnx` extra installs.

    Raises:
      UserError: it is not installed.
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
        """Makes an empty graph."""
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
        """Adds a node of one output; returns the output's name."""
        output = name or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(
            self._onnx.helper.make_node(
                kind, list(inputs), [output], name=output, **attributes
            )
        )
        return output

    def cast(self, value: str, dtype: Any) -> str:
        """Adds a change of type."""
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", value, to=kind)

    def model(
        self,
        inputs: dict[str, tuple[Any, list[Any]]],
        outputs: dict[str, tuple[Any, list[Any]]],
        properties: dict[str, str],
    ) -> bytes:
        """Makes the model's file.

        Args:
          inputs: dtype and shape by name; a dimension with a name is free.
          outputs: the same.
          properties: text by key, kept with the model.

        Raises:
          UserError: it is more than a file of this format holds.
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

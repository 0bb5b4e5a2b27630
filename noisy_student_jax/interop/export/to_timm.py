"""Exports weights under the names that timm and geffnet load."""

import pathlib
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file, save

from noisy_student_jax import models
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.interop import naming, timm_names
from noisy_student_jax.interop.export import agreement
from noisy_student_jax.models.bundle import Bundle

EPSILON = 1e-3
"""Batch norm's epsilon in all of timm's ``tf_efficientnet`` models."""


def export(bundle: Bundle, output: pathlib.Path) -> str:
    """Writes a bundle's weights as a state dict in a ``.safetensors`` file.

    Args:
      bundle: the bundle to export.
      output: the file to create.

    Returns:
      A description of the verification, for the console.

    Raises:
      UserError: timm has no such model.
    """
    name = model_name(bundle)
    rows = timm_names.rows(agreement.make_module(bundle).architecture)
    tensors = naming.to_theirs(rows, bundle.variables)
    # Some programs read the framework from this metadata.
    data = save(tensors, metadata={"format": "pt"})
    with files.atomic_file(output) as file:
        file.write(data)
        file.flush()
        _verify(bundle, rows, pathlib.Path(file.name))
    told = f"every number is the bundle's; load it into {name}"
    told += f" with num_classes={len(bundle.classes)}"
    if bundle.views > 1:
        told += f", which sees one view where the bundle averages {bundle.views}"
    return told


def model_name(bundle: Bundle) -> str:
    """Returns timm's name of a bundle's model.

    Raises:
      UserError: timm has no such model.
    """
    if bundle.architecture == models.CONCATENATED:
        raise UserError(
            "timm's models are single networks, and this bundle is several with one"
            " head: use --format=onnx"
        )
    name = timm_names.model_name(bundle.architecture)
    bundle.preprocessing.refuse_letterbox("timm", instead="use --format=onnx")
    module = agreement.make_module(bundle)
    if module.outputs != len(bundle.classes):
        raise UserError(
            f"timm's {name} has an output for each class, and this bundle's model"
            f" {module.outputs:,} outputs for {len(bundle.classes):,} classes of task"
            f" '{bundle.task}': use --format=savedmodel"
        )
    epsilon = module.arguments.batch_norm_epsilon
    if epsilon != EPSILON:
        raise UserError(
            f"timm's {name} has a batch-norm epsilon of {EPSILON:g} and this bundle's"
            f" model {epsilon:g}, which a file of weights cannot express: use"
            " --format=onnx"
        )
    return name


def config(bundle: Bundle) -> dict[str, Any]:
    """Returns timm's ``config.json`` for the weights.

    timm resizes before it crops, so its pixels are close to ours but not equal.

    Raises:
      UserError: timm has no such model.
    """
    preprocessing = bundle.preprocessing
    side = preprocessing.resolution
    return {
        "architecture": model_name(bundle),
        "num_classes": len(bundle.classes),
        "num_features": agreement.make_module(bundle).architecture.head,
        "global_pool": "avg",
        "label_names": list(bundle.classes),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, side, side],
            "fixed_input_size": False,
            # timm lacks TensorFlow 1's resize, and evaluates with its own bicubic.
            "interpolation": preprocessing.interpolation.removesuffix("_tf1"),
            "crop_pct": side / (side + preprocessing.crop_padding),
            "crop_mode": "center",
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "num_classes": len(bundle.classes),
            "pool_size": None,
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
    }


def _verify(bundle: Bundle, rows: tuple[naming.Row, ...], path: pathlib.Path) -> None:
    read = naming.to_ours(rows, load_file(path))
    before = traverse_util.flatten_dict(bundle.variables, sep="/")
    after = traverse_util.flatten_dict(read, sep="/")
    for name, array in before.items():
        if not np.array_equal(after[name], array, equal_nan=True):
            raise UserError(
                f"'{path.parent}' did not keep the weights {name} as written, so they"
                " were removed: check that disk"
            )

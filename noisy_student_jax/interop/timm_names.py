"""Tensor names of timm, and of geffnet, from which timm has them."""

from noisy_student_jax import models
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.interop import naming
from noisy_student_jax.interop.naming import Naming, Row
from noisy_student_jax.models.architectures import Architecture

_ARRAYS = {"kernel": "weight", "bias": "bias"}

PYTORCH_LEAVES = {
    "conv": _ARRAYS,
    "depthwise": _ARRAYS,
    "dense": _ARRAYS,
    "norm": {
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
    },
}
# [out, in, height, width] to [height, width, in, out]. Depthwise kernels, [channels, 1,
# height, width], take the same axes. Linear weights are [out, in].
PYTORCH_AXES = {"conv": (2, 3, 1, 0), "depthwise": (2, 3, 1, 0), "dense": (1, 0)}

TIMM = Naming(
    name="timm",
    outside={
        "stem_conv": "conv_stem",
        "stem_bn": "bn1",
        "head_conv": "conv_head",
        "head_bn": "bn2",
        "classifier": "classifier",
    },
    block="blocks.{stage}.{place}",
    expanding={
        "expand_conv": "conv_pw",
        "expand_bn": "bn1",
        "depthwise_conv": "conv_dw",
        "depthwise_bn": "bn2",
        "se_reduce": "se.conv_reduce",
        "se_expand": "se.conv_expand",
        "project_conv": "conv_pwl",
        "project_bn": "bn3",
    },
    plain={
        "depthwise_conv": "conv_dw",
        "depthwise_bn": "bn1",
        "se_reduce": "se.conv_reduce",
        "se_expand": "se.conv_expand",
        "project_conv": "conv_pw",
        "project_bn": "bn2",
    },
    joint=".",
    leaves=PYTORCH_LEAVES,
    axes=PYTORCH_AXES,
)

MODELS = {
    f"efficientnet_{member}": f"tf_efficientnet_{member}"
    for member in (
        *(f"b{number}" for number in range(9)),
        "l2",
        *(f"lite{number}" for number in range(5)),
    )
}


def rows(architecture: Architecture) -> tuple[Row, ...]:
    """Returns a row for each array of an architecture under timm's names.

    Raises:
      UserError: the architecture has fused blocks.
    """
    return naming.rows(architecture, TIMM)


def model_name(name: str) -> str:
    """Returns timm's name of one of our models, such as ``tf_efficientnet_b0``.

    Raises:
      UserError: timm has no such model, or its names are not known.
    """
    if name in models.RESIDUAL:
        raise UserError(
            "timm's names are known here for EfficientNets alone, and not for"
            f" '{name}': use --format=savedmodel"
        )
    if name not in MODELS:
        own = name in models.names()
        what, form = ("has", "onnx") if own else ("may have", "savedmodel")
        raise UserError(
            f"timm has no model like '{name}', which {what} other blocks, strides,"
            f" widths or heads: use --format={form} (timm knows {', '.join(MODELS)})"
        )
    return MODELS[name]

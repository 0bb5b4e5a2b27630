"""The family as the authors' TensorFlow checkpoints have it, below their scope.

TensorFlow numbers layers of one kind in the order in which they are made, so that a
block without an expansion calls its first batch norm what the others call their
expansion's. From `efficientnet_model.py` of tensorflow/tpu.
"""

from noisy_student_jax.checkpoints.naming import Naming

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

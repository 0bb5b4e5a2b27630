"""Names of others: every array of every published member has one, and comes back."""

import numpy as np
import pytest
from flax import traverse_util

from noisy_student_jax import models
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.interop import naming, timm_names
from noisy_student_jax.interop.efficientnet_pytorch_names import EFFICIENTNET_PYTORCH
from noisy_student_jax.interop.tf_names import TENSORFLOW
from noisy_student_jax.models import initialize
from noisy_student_jax.models.architectures import MEMBERS

NAMINGS = (timm_names.TIMM, EFFICIENTNET_PYTORCH, TENSORFLOW)
# A member of each kind: plain, with several blocks in the first stage, without SE.
KINDS = ("b0", "b1", "lite0")


def random_variables(name, outputs=5):
    module = models.create(f"efficientnet_{name}", outputs=outputs)
    shapes = initialize.abstract_variables(module, resolution=32)
    rng = np.random.default_rng(0)
    flat = {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()
    }
    return traverse_util.unflatten_dict(flat, sep="/")


@pytest.mark.parametrize("member", KINDS)
@pytest.mark.parametrize("names", NAMINGS, ids=lambda names: names.name)
def test_every_array_has_one_name_of_its_own_and_comes_back(member, names):
    variables = random_variables(member)
    rows = naming.rows(MEMBERS[member], names)

    tensors = naming.to_theirs(rows, variables)
    back = naming.to_ours(rows, tensors)

    before = traverse_util.flatten_dict(variables, sep="/")
    after = traverse_util.flatten_dict(back, sep="/")
    assert len(tensors) == len(before)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[path], before[path]) for path in before)
    assert all(array.flags["C_CONTIGUOUS"] for array in tensors.values())


def test_timm_counts_stages_and_blocks_in_them():
    theirs = {row.ours: row.theirs for row in timm_names.rows(MEMBERS["b1"])}

    # B1's first stage has two blocks, its second three.
    assert theirs["params/blocks_0/project_conv/kernel"] == "blocks.0.0.conv_pw.weight"
    assert theirs["params/blocks_1/depthwise_bn/scale"] == "blocks.0.1.bn1.weight"
    assert theirs["batch_stats/blocks_1/project_bn/var"] == "blocks.0.1.bn2.running_var"
    assert theirs["params/blocks_2/expand_conv/kernel"] == "blocks.1.0.conv_pw.weight"
    assert theirs["params/blocks_4/project_conv/kernel"] == "blocks.1.2.conv_pwl.weight"
    assert theirs["params/blocks_4/se_reduce/bias"] == "blocks.1.2.se.conv_reduce.bias"
    assert theirs["batch_stats/blocks_4/project_bn/mean"] == (
        "blocks.1.2.bn3.running_mean"
    )
    assert theirs["params/head_bn/bias"] == "bn2.bias"


def test_tensorflow_numbers_layers_in_the_order_they_are_made():
    theirs = {row.ours: row.theirs for row in naming.rows(MEMBERS["b0"], TENSORFLOW)}

    assert theirs["params/blocks_0/depthwise_conv/kernel"] == (
        "blocks_0/depthwise_conv2d/depthwise_kernel"
    )
    assert theirs["params/blocks_0/project_conv/kernel"] == "blocks_0/conv2d/kernel"
    assert theirs["batch_stats/blocks_0/project_bn/var"] == (
        "blocks_0/tpu_batch_normalization_1/moving_variance"
    )
    assert theirs["params/blocks_15/project_conv/kernel"] == "blocks_15/conv2d_1/kernel"
    assert theirs["params/blocks_15/se_expand/bias"] == "blocks_15/se/conv2d_1/bias"
    assert theirs["params/blocks_15/project_bn/bias"] == (
        "blocks_15/tpu_batch_normalization_2/beta"
    )
    assert theirs["params/classifier/kernel"] == "head/dense/kernel"


def test_kernels_are_laid_out_as_the_others_do():
    variables = random_variables("b0")
    params = variables["params"]

    torch = naming.to_theirs(timm_names.rows(MEMBERS["b0"]), variables)
    tensorflow = naming.to_theirs(naming.rows(MEMBERS["b0"], TENSORFLOW), variables)

    stem = params["stem_conv"]["kernel"]
    depthwise = params["blocks_1"]["depthwise_conv"]["kernel"]
    dense = params["classifier"]["kernel"]
    assert torch["conv_stem.weight"][3, 1, 0, 2] == stem[0, 2, 1, 3]
    assert torch["blocks.1.0.conv_dw.weight"].shape == (96, 1, 3, 3)
    assert torch["blocks.1.0.conv_dw.weight"][7, 0, 1, 2] == depthwise[1, 2, 0, 7]
    assert torch["classifier.weight"][4, 100] == dense[100, 4]
    theirs = tensorflow["blocks_1/depthwise_conv2d/depthwise_kernel"]
    assert theirs.shape == (3, 3, 96, 1)
    assert theirs[1, 2, 7, 0] == depthwise[1, 2, 0, 7]
    assert np.array_equal(tensorflow["stem/conv2d/kernel"], stem)
    assert np.array_equal(tensorflow["head/dense/kernel"], dense)


def test_without_squeeze_excitation_there_is_none():
    theirs = {row.theirs for row in timm_names.rows(MEMBERS["lite0"])}

    assert not any(".se." in name for name in theirs)
    assert "blocks.6.0.bn3.running_var" in theirs


@pytest.mark.parametrize("member", ["tiny_s", "mini_m", "test"])
def test_fused_blocks_have_no_names(member):
    with pytest.raises(UserError, match="fused blocks, which timm has no names for"):
        timm_names.rows(MEMBERS[member])


def test_only_timms_models_have_a_name_there():
    assert timm_names.model_name("efficientnet_b7") == "tf_efficientnet_b7"
    assert timm_names.model_name("efficientnet_lite2") == "tf_efficientnet_lite2"
    # A state dict of it would load into B0, which strides otherwise.
    for name in ("efficientnet_b0_small", "efficientnet_l0", "my.models:mine"):
        with pytest.raises(UserError, match="timm has no model like"):
            timm_names.model_name(name)


def test_a_residual_network_is_sent_to_another_format():
    with pytest.raises(UserError, match=r"not for 'resnet50': use --format=savedmodel"):
        timm_names.model_name("resnet50")


def test_variables_of_another_architecture_are_not_written_in_part():
    with pytest.raises(KeyError):
        naming.to_theirs(timm_names.rows(MEMBERS["b0"]), random_variables("b1"))

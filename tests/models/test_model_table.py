import dataclasses
import subprocess
import sys
import types

import flax.linen as nn
import pytest

from noisy_student_jax import models
from noisy_student_jax.config.schema import base_config
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.model_arguments import ModelArguments


class Outside(nn.Module):
    outputs: int
    dropout_rate: float = 0.3


def outside(*, outputs, dropout_rate=0.3):
    return Outside(outputs, dropout_rate)


@pytest.fixture
def outside_name(monkeypatch):
    package = types.ModuleType("somebodys_models")
    package.net = outside
    package.sized = lambda **arguments: Outside(**arguments)
    package.sized.default_resolution = 20
    package.sized.default_mean = [0.1, 0.2, 0.3]
    package.sized.default_std = [0.4, 0.5, 0.6]
    monkeypatch.setitem(sys.modules, "somebodys_models", package)
    return "somebodys_models:net"


def test_every_name_builds_a_module_and_has_a_resolution():
    for name in models.names():
        assert isinstance(models.create(name, outputs=3), nn.Module)
        assert models.resolution(name) >= 8


@pytest.mark.parametrize(
    ("name", "size", "dropout"),
    [
        ("b0", 224, 0.2),
        ("b2", 260, 0.3),
        ("b7", 600, 0.5),
        ("b8", 672, 0.5),
        ("l0", 380, 0.5),
        ("l1", 380, 0.5),
        ("l2", 475, 0.5),
        ("lite0", 224, 0.2),
        ("lite1", 240, 0.2),
        ("lite2", 260, 0.3),
        ("lite3", 280, 0.3),
        ("lite4", 300, 0.3),
        ("b0_svhn", 32, 0.2),
        ("b3_small", 32, 0.3),
        ("lite0_small", 32, 0.2),
        ("mini_s", 64, 0.2),
        ("resnet50", 224, 0.0),
        ("wrn_28_2", 32, 0.0),
    ],
)
def test_default_resolution_and_dropout_are_the_papers(name, size, dropout):
    if name not in models.RESIDUAL:
        name = f"efficientnet_{name}"
    assert models.resolution(name) == size
    assert models.create(name, outputs=1).arguments.dropout_rate == dropout


def test_lite_has_a_normalization_of_its_own():
    for name in models.FAMILY:
        mean, std = models.normalization(name)
        if "lite" in name:
            assert mean == (127 / 255,) * 3
            assert std == (128 / 255,) * 3
        else:
            assert mean == (0.485, 0.456, 0.406)
            assert std == (0.229, 0.224, 0.225)


def test_the_small_image_variant_keeps_its_older_name():
    svhn, small = (
        models.create(f"efficientnet_b0_{name}", outputs=10)
        for name in ("svhn", "small")
    )
    assert svhn == small


def test_defaults_are_the_papers_and_none_means_the_default():
    nothing = dict.fromkeys(dataclasses.asdict(ModelArguments()))
    module = models.create("efficientnet_b4", outputs=5, **nothing)
    assert module == models.create("efficientnet_b4", outputs=5)
    assert module.arguments == ModelArguments(
        dropout_rate=0.4,
        stochastic_depth=0.2,
        batch_norm_momentum=0.99,
        batch_norm_epsilon=1e-3,
        batch_norm_group=0,
        dtype="float32",
        remat=False,
        depthwise="auto",
        layers="auto",
    )


def test_zero_is_a_value_and_not_the_default():
    module = models.create(
        "efficientnet_b4", outputs=5, dropout_rate=0.0, stochastic_depth=0.0
    )
    given = module.arguments
    assert (given.dropout_rate, given.stochastic_depth) == (0.0, 0.0)


def test_a_config_says_what_a_model_is_created_with():
    section = base_config().model
    assert models.arguments_of(section, outputs=7) == {
        "outputs": 7,
        "dropout_rate": None,
        "stochastic_depth": 0.2,
        "batch_norm_momentum": 0.99,
        "batch_norm_epsilon": 1e-3,
        "batch_norm_group": 0,
        "dtype": "float32",
        "remat": False,
        "depthwise": "auto",
        "layers": "auto",
        "views": 1,
    }
    section.dropout_rate = 0.0
    assert models.arguments_of(section, outputs=7)["dropout_rate"] == 0.0


def test_a_dropout_rate_that_is_left_open_is_the_models_own():
    section = dict(base_config().model) | {"dropout_rate": None}
    arguments = models.arguments_of(section, outputs=3)
    assert arguments["dropout_rate"] is None
    module = models.create(section["name"], **arguments)
    assert module.arguments.dropout_rate == 0.2


def test_a_model_is_given_what_it_takes_and_no_more(outside_name):
    section = dict(base_config().model) | {"name": outside_name, "dropout_rate": 0.1}
    arguments = models.arguments_of(section, outputs=3)
    assert arguments == {"outputs": 3, "dropout_rate": 0.1}
    section["name"] = "somebodys_models:sized"
    arguments = models.arguments_of(section, outputs=3)
    assert set(arguments) == {"outputs", *dataclasses.asdict(ModelArguments())}


@pytest.mark.parametrize("name", ["efficientnet_b0", *models.RESIDUAL])
def test_a_member_takes_every_argument_and_how_much_of_it_is_frozen(name):
    assert models.accepted_arguments(name) == (
        "outputs",
        *dataclasses.asdict(ModelArguments()),
        "frozen_blocks",
    )


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(UserError, match=r"efficientnet_bo.*did you mean 'efficientnet"):
        models.create("efficientnet_bo", outputs=3)
    with pytest.raises(UserError, match="no model is called 'vgg'"):
        models.resolution("vgg")


def test_an_unknown_argument_is_told_with_the_nearest():
    with pytest.raises(UserError, match=r"'dropout'.*did you mean 'dropout_rate'"):
        models.create("efficientnet_b0", outputs=3, dropout=0.1)
    with pytest.raises(UserError, match="'architecture'"):
        models.create("efficientnet_b0", outputs=3, architecture=1)


@pytest.mark.parametrize(
    "argument",
    [
        {"dropout_rate": 1.0},
        {"stochastic_depth": -0.1},
        {"batch_norm_momentum": 1.0},
        {"batch_norm_epsilon": 0.0},
        {"batch_norm_group": -1},
        {"dtype": "float16"},
        {"depthwise": "fast"},
        {"layers": "linen"},
        {"outputs": -1},
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_told(argument):
    with pytest.raises(UserError, match=f"{next(iter(argument))} must be"):
        models.create("efficientnet_b0", **{"outputs": 3, **argument})


def test_a_model_from_outside_needs_no_registration(outside_name):
    module = models.create(outside_name, outputs=4, dropout_rate=0.1, remat=None)
    assert module == Outside(4, 0.1)
    assert models.resolution("somebodys_models:sized") == 20
    assert models.normalization("somebodys_models:sized") == (
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
    )
    assert models.normalization(outside_name) == models.normalization("efficientnet_b0")
    with pytest.raises(UserError, match="must say its resolution"):
        models.resolution(outside_name)
    with pytest.raises(UserError, match="takes no argument 'remat'"):
        models.create(outside_name, outputs=4, remat=True)


def test_a_model_from_outside_that_is_not_there_is_told(outside_name):
    with pytest.raises(UserError, match="cannot import 'nowhere_at_all'"):
        models.create("nowhere_at_all:net", outputs=1)
    with pytest.raises(UserError, match="no function 'ned'"):
        models.create("somebodys_models:ned", outputs=1)
    with pytest.raises(UserError, match="model ':net'"):
        models.create(":net", outputs=1)


def test_the_table_alone_imports_no_framework():
    code = (
        "import sys, noisy_student_jax.models as m; m.names();"
        "sys.exit(any(x in sys.modules for x in ('flax', 'jax', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

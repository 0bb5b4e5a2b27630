"""timm: what is written loads there as it is, and computes the same."""

import json

import numpy as np
import pytest
from interop.export import some

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop.export import agreement, to_timm


def test_geffnet_loads_it_strictly_and_gives_the_same_logits(tmp_path):
    geffnet = pytest.importorskip("geffnet")
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    one = some.bundle("b0", side=37)
    path = tmp_path / "weights.safetensors"
    to_timm.export(one, path)

    model = geffnet.create_model("tf_efficientnet_b0", num_classes=4).eval()
    model.load_state_dict(load_file(path), strict=True)
    images = agreement.random_normalized(one)
    with torch.no_grad():
        logits = model(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    wanted = agreement.Reference(one, some.task(one)).of_normalized(images)["logits"]
    some.assert_agree({"logits": logits}, {"logits": wanted})


def test_the_file_says_whose_it_is(tmp_path):
    from safetensors import safe_open

    path = tmp_path / "weights.safetensors"
    to_timm.export(some.bundle("lite0", side=32), path)

    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_slice("blocks.1.0.conv_dw.weight").get_shape() == [96, 1, 3, 3]


def test_timms_config_has_the_preprocessing_of_the_weights():
    one = some.bundle("lite0", side=32, padding=8, interpolation="bilinear")

    config = json.loads(json.dumps(to_timm.config(one)))

    assert config["architecture"] == "tf_efficientnet_lite0"
    assert config["num_classes"] == 4
    assert config["label_names"] == list(some.CLASSES)
    cut = config["pretrained_cfg"]
    assert cut["input_size"] == [3, 32, 32]
    assert cut["crop_pct"] == 0.8
    assert cut["interpolation"] == "bilinear"
    np.testing.assert_allclose(cut["mean"], [127 / 255] * 3)
    np.testing.assert_allclose(cut["std"], [128 / 255] * 3)


def test_timms_config_names_a_resize_that_timm_has():
    one = some.bundle("lite0", interpolation="bicubic_tf1")
    assert to_timm.config(one)["pretrained_cfg"]["interpolation"] == "bicubic"


@pytest.mark.parametrize("name", ["test", "b0_small"])
def test_a_model_that_timm_has_not_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=f"timm has no model like 'efficientnet_{name}"):
        to_timm.export(some.bundle(name), tmp_path / "weights.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_detector_is_sent_to_another_format(tmp_path):
    with pytest.raises(UserError, match=r"'fcos_test', which has .* --format=onnx"):
        to_timm.export(some.detector(), tmp_path / "model.safetensors")


def test_outputs_that_are_not_classes_are_refused(tmp_path):
    one = some.bundle("lite0", side=32, classes=some.CLASSES[:3])
    with pytest.raises(UserError, match="has an output for each class, and this bund"):
        to_timm.export(one, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_several_networks_with_one_head_are_sent_to_another_format(tmp_path):
    with pytest.raises(UserError, match=r"this bundle is several .* --format=onnx"):
        to_timm.export(some.concatenated(), tmp_path / "model.safetensors")


def test_another_epsilon_is_refused(tmp_path):
    other = some.bundle("lite0", side=32)
    other.arguments["batch_norm_epsilon"] = 1e-5

    with pytest.raises(UserError, match=r"has a batch-norm epsilon of 0\.001"):
        to_timm.export(other, tmp_path / "weights.safetensors")


def test_a_disk_that_changes_numbers_is_found_out(tmp_path, monkeypatch):
    from safetensors.numpy import load_file

    def forgetful(path):
        tensors = load_file(path)
        tensors["classifier.bias"] = tensors["classifier.bias"] + 1
        return tensors

    monkeypatch.setattr(to_timm, "load_file", forgetful)

    with pytest.raises(UserError, match="did not keep the weights params/classifier"):
        to_timm.export(some.bundle("lite0", side=32), tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_letterbox_is_refused():
    boxed = Preprocessing(8, 0, framing="letterbox")
    one = some.bundle("lite0", preprocessing=boxed)
    with pytest.raises(UserError, match="timm only crops the middle"):
        to_timm.config(one)

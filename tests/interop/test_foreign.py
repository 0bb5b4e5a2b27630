"""Weights of others: geffnet's logits and shapes, all tensors or nothing."""

import hashlib
import json
import pathlib
from collections import OrderedDict

import jax
import ml_dtypes
import numpy as np
import pytest
import torch_writer
from foreign_weights import seeded, seeded_images, shapes_there
from safetensors.numpy import save_file

from noisy_student_jax import models
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.interop import foreign, imagenet, published, timm_names
from noisy_student_jax.interop.efficientnet_pytorch_names import EFFICIENTNET_PYTORCH

# Written by benchmarks/parity.py --golden, which has PyTorch and geffnet.
GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden_geffnet.json").read_text())


def from_file(path, model="efficientnet_b0", **options):
    return foreign.from_tensors(
        foreign.read(path),
        model,
        preprocessing=published.preprocessing(model, layout="timm"),
        source=path.name,
        layout="timm",
        **options,
    )


@pytest.fixture(scope="module")
def tensors():
    """B0's tensors as timm names them, with ten classes. Do not change them."""
    return seeded(shapes_there("efficientnet_b0", 10))


TEN = tuple(f"class {number}" for number in range(10))


@pytest.mark.parametrize("model", GOLDEN["structure"])
def test_every_member_has_geffnets_tensors_in_geffnets_shapes(model):
    shapes = shapes_there(model, 1000)
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items())

    wanted = GOLDEN["structure"][model]
    assert len(lines) == wanted["tensors"]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == wanted["sha256"], "\n".join(lines)


@pytest.mark.parametrize(
    "case", GOLDEN["logits"], ids=lambda case: f"{case['member']}-{case['side']}"
)
def test_logits_are_geffnets(tmp_path, case):
    model = f"efficientnet_{case['member']}"
    path = tmp_path / "weights.safetensors"
    save_file(seeded(shapes_there(model, 10)), path)
    bundle = from_file(path, model, classes=TEN)
    module = models.create(model, **bundle.arguments)

    images = seeded_images(2, case["side"])
    apply = jax.jit(module.apply)
    logits = np.asarray(apply(bundle.variables, images)["logits"])

    wanted = np.array(case["logits"])
    assert np.abs(logits - wanted).max() < 1e-4 * np.abs(wanted).max()
    # The images are told apart, so that a model that ignores them would not pass.
    assert np.abs(wanted[0] - wanted[1]).max() > 0.05 * np.abs(wanted).max()


def test_other_names_for_the_same_give_the_same(tmp_path, tensors):
    theirs = shapes_there("efficientnet_b0", 10, EFFICIENTNET_PYTORCH)
    renamed = dict(zip(theirs, tensors.values(), strict=True))
    save_file(tensors, tmp_path / "timm.safetensors")
    save_file(renamed, tmp_path / "other.safetensors")

    one = from_file(tmp_path / "timm.safetensors", classes=TEN)
    other = from_file(tmp_path / "other.safetensors", classes=TEN)

    np.testing.assert_equal(other.variables, one.variables)
    assert one.origin["names"] == "timm"
    assert other.origin["names"] == "efficientnet_pytorch"


def write_torch(path, tree, arrays):
    torch_writer.write_zip(path, tree, torch_writer.contents(arrays))


WRAPPERS = {
    "as it is": (lambda d: d, ()),
    "under state_dict": (
        lambda d: {"epoch": 3, "state_dict": d},
        ("read the tensors under 'state_dict'",),
    ),
    "averages beside": (
        lambda d: {"state_dict": OrderedDict(x=1), "state_dict_ema": d},
        ("read the tensors under 'state_dict_ema'",),
    ),
    "parallel": (
        lambda d: {"model": {f"module.{name}": one for name, one in d.items()}},
        ("read the tensors under 'model'", "removed 'module.' from every name"),
    ),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_what_training_scripts_wrap_around_is_taken_off_and_said(tmp_path, kind):
    arrays = {"conv_stem.weight": np.ones((2, 3), np.float32)}
    arrays["bn1.bias"] = np.zeros(2, np.float32)
    wrap, notes = WRAPPERS[kind]
    path = tmp_path / "weights.pth"
    write_torch(path, wrap(torch_writer.state_dict(arrays)), arrays)

    read = foreign.read(path)

    assert read.notes == notes
    np.testing.assert_equal(read.arrays, arrays)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=str)
def test_half_precision_becomes_float32(tmp_path, tensors, dtype):
    halves = {name: array.astype(dtype) for name, array in tensors.items()}
    save_file(halves, tmp_path / "weights.safetensors")

    bundle = from_file(tmp_path / "weights.safetensors", classes=TEN)

    kernel = bundle.variables["params"]["classifier"]["kernel"]
    assert kernel.dtype == np.float32
    wanted = halves["classifier.weight"].T.astype(np.float32)
    np.testing.assert_array_equal(kernel, wanted)


def counted(tensors):
    return tensors | {"bn1.num_batches_tracked": np.array(7)}


def test_counts_of_batches_are_left_out(tmp_path, tensors):
    save_file(counted(tensors), tmp_path / "weights.safetensors")

    bundle = from_file(tmp_path / "weights.safetensors", classes=TEN)

    assert bundle.arguments == {"outputs": 10}
    assert bundle.trained_on.shape == (0,)
    assert list(bundle.origin["sha256"]) == ["weights.safetensors"]


def without(*names):
    return lambda tensors: {n: a for n, a in tensors.items() if n not in names}


def changed(name, change):
    return lambda tensors: tensors | {name: change(tensors[name])}


SE = "blocks.1.0.se.conv_reduce.bias"
MISFITS = {
    "one missing": (without(SE), rf"it lacks {SE} \(1 in all\)"),
    "many missing": (
        lambda t: {n: a for n, a in t.items() if not n.startswith("blocks.6")},
        r"it lacks blocks\.6\.0\.conv_pw\.weight, .* and \d+ more \(\d+ in all\)",
    ),
    "one too many": (
        lambda t: t | {"blocks.7.0.conv.weight": np.ones(1, np.float32)},
        r"it has more than the model, namely blocks\.7\.0\.conv\.weight \(1 in all\)",
    ),
    "another shape": (
        changed("conv_stem.weight", lambda a: a[:, :1]),
        r"other shapes: conv_stem\.weight \[32, 1, 3, 3\] for \[32, 3, 3, 3\]",
    ),
    "a transposed classifier": (
        changed("classifier.weight", lambda a: np.ascontiguousarray(a.T)),
        r"classifier\.weight \[1280, 10\] for \[10, 1280\]",
    ),
    "a bias of no known width": (
        changed("classifier.bias", lambda a: a.reshape(2, 5)),
        r"classifier\.bias \[2, 5\]",
    ),
    "not a number": (
        changed("bn2.running_var", lambda a: a * np.nan),
        r"numbers that are not finite in bn2\.running_var",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_tensor_that_does_not_fit_is_named_and_nothing_imported(
    tmp_path, tensors, kind
):
    change, sentence = MISFITS[kind]
    path = tmp_path / "weights.safetensors"
    save_file(change(tensors), path)

    with pytest.raises(UserError, match=sentence) as caught:
        from_file(path, classes=TEN)
    assert "'weights.safetensors' does not fit efficientnet_b0" in str(caught.value)
    assert "nothing was imported" in str(caught.value)


def test_a_head_of_other_classes_needs_their_names(tmp_path, tensors):
    save_file(tensors, tmp_path / "weights.safetensors")

    with pytest.raises(UserError, match="has 10 classes, so they are not"):
        from_file(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="--classes names 3 classes, but"):
        from_file(tmp_path / "weights.safetensors", classes=("a", "b", "c"))


def test_a_name_of_no_model_is_refused_with_the_near_one(tmp_path, tensors):
    save_file(tensors, tmp_path / "weights.safetensors")

    with pytest.raises(UserError, match="did you mean 'efficientnet_b0'"):
        foreign.fit(tensors, timm_names.TIMM, "eficientnet_b0", source="x")
    with pytest.raises(UserError, match="EfficientNets, and none is called"):
        foreign.fit(tensors, timm_names.TIMM, "os.path:join", source="x")
    with pytest.raises(UserError, match="fused blocks"):
        foreign.fit(tensors, timm_names.TIMM, "efficientnet_tiny_s", source="x")


HEAD = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


def safetensors(head, data=bytes(8), size=None):
    return (len(head) if size is None else size).to_bytes(8, "little") + head + data


HEADERS = {
    "empty": b"",
    "one byte": b"x",
    "text": b"weights: 1, 2, 3, and so on",
    "html": b"<!DOCTYPE html><title>404: not found</title>",
    "a zipped tar": b"\x1f\x8b\x08\x00" + bytes(60),
    "other numpy": b"\x93NUMPY\x01\x00" + bytes(60),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "a git pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a length beyond the file": safetensors(HEAD, size=2**20),
    "a huge length": safetensors(HEAD, size=2**62),
    "a length within the head": safetensors(HEAD, size=20),
    "no JSON": safetensors(b"{weights}"),
    "a list": safetensors(b'{"x": []}'),
    "no offsets": safetensors(b'{"x":{"dtype":"F32","shape":[2]}}'),
    "an unknown kind": safetensors(HEAD.replace(b"F32", b"Z32")),
    "another size": safetensors(HEAD.replace(b"[2]", b"[3]")),
    "a negative shape": safetensors(HEAD.replace(b"[2]", b"[-2]")),
    "offsets beyond": safetensors(HEAD.replace(b",8]", b",80]")),
    "offsets turned round": safetensors(HEAD.replace(b"[0,8]", b"[8,0]")),
    "a huge shape": safetensors(HEAD.replace(b"[2]", b"[9999999999,9999999999]")),
    "less data": safetensors(HEAD, bytes(4)),
    "more data": safetensors(HEAD, bytes(80)),
    "a hole": safetensors(HEAD.replace(b"[0,8]", b"[4,12]"), bytes(12)),
    "not UTF-8": safetensors(b'{"\xff":1}'),
    "another layout": safetensors(HEAD),
    "no tensors": safetensors(b"{}", b""),
    "eight bit": safetensors(HEAD.replace(b"F32", b"F8_E4M3"), bytes(2)),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_files_that_are_not_weights_are_refused_in_one_sentence(tmp_path, kind):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(HEADERS[kind])

    with pytest.raises(UserError) as caught:
        from_file(path)

    assert "weights.safetensors'" in str(caught.value)
    assert "\n" not in str(caught.value)


TREES = {
    "a number": 3,
    "a list": [1],
    "nothing": {},
    "nothing beneath": {"state_dict": {}},
    "more than tensors": {
        "x": torch_writer.tensor("0", np.ones(2, np.float32)),
        "y": 1,
    },
}


@pytest.mark.parametrize("kind", TREES)
def test_torch_files_without_named_tensors_are_refused(tmp_path, kind):
    path = tmp_path / "weights.pth"
    torch_writer.write_zip(path, TREES[kind], {"0": np.ones(2, np.float32)})

    with pytest.raises(UserError, match=r"holds (no tensors by name|more than tens)"):
        foreign.read(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a folder: give the file in it"):
        foreign.read(tmp_path)
    with pytest.raises(UserError, match="is not there"):
        foreign.read(tmp_path / "weights.pth")


def test_imagenets_classes_are_told_apart():
    classes = imagenet.classes()

    assert len(set(classes)) == len(classes) == 1000
    assert list(imagenet.synsets()) == sorted(set(imagenet.synsets()))
    assert classes[0] == "n01440764 tench" and classes[999] == "n15075141 toilet tissue"
    assert classes[517] == "n03126707 crane" and classes[134] == "n02012849 crane"


def test_preprocessing_is_that_of_the_weights():
    b7 = published.preprocessing("efficientnet_b7", layout="timm")
    lite = published.preprocessing("efficientnet_lite4", layout="tf")
    timms = published.preprocessing("efficientnet_lite4", layout="timm")

    assert (b7.resolution, b7.crop_padding, b7.interpolation) == (600, 32, "bicubic")
    assert b7.mean == (0.485, 0.456, 0.406) and b7.std == (0.229, 0.224, 0.225)
    assert (lite.resolution, lite.interpolation) == (300, "bicubic")
    assert lite.mean == (127 / 255,) * 3 and lite.std == (128 / 255,) * 3
    assert (timms.resolution, timms.interpolation) == (380, "bilinear")

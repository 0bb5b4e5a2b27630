"""ONNX: onnxruntime computes what the bundle does, from any photograph."""

import collections
import json
import runpy
import sys

import numpy as np
import pytest
from bad_images import (
    DISPLAY_P3,
    card,
    deep_png,
    encoded,
    float_tiff,
    jpeg,
    palette,
    profile,
    turned,
    with_alpha,
)
from interop.export import some
from PIL import Image
from support import ROOT

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.images.decode import decode
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop.export import (
    agreement,
    onnx_graph,
    onnx_preprocessing,
    to_onnx,
)
from noisy_student_jax.interop.export.onnx_network import Network

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
PROGRAM = ROOT / "docs" / "onnx_predict.py"


def session(model):
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def run(session, images):
    names = ["probabilities", "logits"]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


@pytest.fixture(scope="module")
def lite():
    return some.bundle("lite0", side=33, padding=7)


@pytest.fixture(scope="module")
def lite_file(lite, tmp_path_factory):
    path = tmp_path_factory.mktemp("lite") / "model.onnx"
    to_onnx.export(lite, path, task=some.task(lite))
    return path


def test_photographs_of_any_size_are_seen_nearly_as_predict_sees_them(lite, lite_file):
    photographs, open_session = some.photographs(), session(lite_file)

    wanted = some.predictions(lite, photographs)
    got = [run(open_session, image[None]) for image in photographs]

    together = {name: np.concatenate([one[name] for one in got]) for name in wanted}
    # A pixel's last level moves a logit by about a thousandth.
    some.assert_agree(together, wanted, tolerance=5e-3)


def test_a_batch_has_any_number_of_images(lite, lite_file):
    open_session = session(lite_file)
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 41, 3), np.uint8)

    whole = run(open_session, images)["logits"]

    some.assert_agree(
        {"logits": whole}, {"logits": run(open_session, images)["logits"]}
    )
    for count in (1, 2):
        part = run(open_session, images[:count])["logits"]
        np.testing.assert_allclose(part, whole[:count], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "rare"), [("bicubic", 0.01), ("bilinear", 0.1)])
@pytest.mark.parametrize(("side", "padding"), [(24, 5), (31, 0), (200, 32)])
def test_few_pixels_differ_from_pillows_by_a_level_or_two(kind, rare, side, padding):
    preprocessing = Preprocessing(side, padding, kind)

    for image in some.photographs():
        [found] = to_onnx.resized(preprocessing, image[None])
        some.assert_few_differ(found, preprocessing.apply(image), rare)


@pytest.mark.parametrize(("kind", "rare"), [("bicubic", 0.01), ("bilinear", 0.2)])
@pytest.mark.parametrize("side", [24, 200])
def test_a_letterbox_shows_whole_images_as_pillow_does(kind, rare, side):
    preprocessing = Preprocessing(side, 0, kind, framing="letterbox")

    for image in some.photographs():
        [found] = to_onnx.resized(preprocessing, image[None])
        some.assert_few_differ(found, preprocessing.apply(image), rare)


@pytest.mark.parametrize("name", ["test", "tiny_s", "mini_s"])
def test_the_network_alone_takes_normalized_images(name, tmp_path):
    one = some.bundle(name, side=17)
    path = tmp_path / "model.onnx"

    to_onnx.export(one, path, task=some.task(one), preprocess=False)

    images = agreement.random_normalized(one)
    got = run(session(path), images.transpose(0, 3, 1, 2))
    some.assert_agree(
        got, agreement.Reference(one, some.task(one)).of_normalized(images)
    )


def test_several_networks_with_one_head_are_one_graph(tmp_path):
    one = some.concatenated()
    path = tmp_path / "model.onnx"

    to_onnx.export(one, path, task=some.task(one))

    names = {initializer.name for initializer in onnx.load(path).graph.initializer}
    for member in some.MEMBERS:
        assert f"{member}/stem_conv/kernel" in names
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    got = run(session(path), image)
    wanted = agreement.Reference(one, some.task(one)).of_pixels(
        to_onnx.resized(one.preprocessing, image)
    )
    some.assert_agree(got, wanted)


def test_depthwise_convolutions_are_grouped(lite_file):
    model = onnx.load(lite_file)
    groups = [
        attribute.i
        for node in model.graph.node
        if node.op_type == "Conv"
        for attribute in node.attribute
        if attribute.name == "group"
    ]
    kinds = collections.Counter(node.op_type for node in model.graph.node)

    assert sum(group > 1 for group in groups) == 16
    # One of the stem, one of the head, three a block, and the first without expansion.
    assert kinds["Conv"] == kinds["BatchNormalization"] == 2 + 3 * 16 - 1
    assert model.opset_import[0].version == onnx_graph.OPSET


def test_what_one_must_know_is_in_the_file(lite, lite_file):
    found = session(lite_file).get_modelmeta().custom_metadata_map

    assert tuple(json.loads(found["classes"])) == some.CLASSES
    assert Preprocessing.from_json(json.loads(found["preprocessing"])) == (
        lite.preprocessing
    )
    assert json.loads(found["preprocessing_inside"]) is True
    assert json.loads(found["origin"]) == some.ORIGIN
    assert found["architecture"] == "efficientnet_lite0"


def test_the_documented_program_needs_nothing_of_ours(lite, lite_file, tmp_path):
    photographs = some.photographs()[:3]
    paths = [tmp_path / f"{number}.png" for number in range(len(photographs))]
    for path, image in zip(paths, photographs, strict=True):
        Image.fromarray(image).save(path)

    out = some.run(PROGRAM.read_text(), lite_file, *paths, folder=tmp_path)

    found = some.predictions(lite, photographs)["probabilities"]
    wanted = [
        f"{path}: {some.CLASSES[row.argmax()]} ({row.max():.1%})"
        for path, row in zip(paths, found, strict=True)
    ]
    assert out == "\n".join(wanted) + "\n"


def test_the_documented_program_sees_the_pixels_that_predict_sees(tmp_path):
    program = runpy.run_path(str(PROGRAM))
    wide = {"icc_profile": profile(DISPLAY_P3)}
    shown = [
        encoded(with_alpha()),
        encoded(with_alpha("L")),
        palette(transparency=bytes([255, 255, 0, 255])),
        turned(6),
        encoded(card(), **wide),
        encoded(with_alpha(), **wide),
        encoded(card()[..., 0], icc_profile=profile(gamma=1.4)),
        encoded(card()[..., 0], icc_profile=profile(DISPLAY_P3, 1.4)),
        jpeg(Image.fromarray(card()).convert("CMYK")),
        encoded(card(), icc_profile=b"no profile"),
    ]
    for number, file in enumerate(shown):
        (tmp_path / "image").write_bytes(file)
        found = program["pixels"](tmp_path / "image")
        assert np.array_equal(found, decode(file)), number

    for file in (deep_png(), encoded(np.uint16([[7]])), float_tiff()):
        (tmp_path / "image").write_bytes(file)
        with pytest.raises(SystemExit, match="has more than 8 bits"):
            program["pixels"](tmp_path / "image")


def test_a_graph_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    one = some.bundle()
    monkeypatch.setattr(Network, "_activate", lambda self, hidden: hidden)

    with pytest.raises(UserError, match=r"read again and its \w+ differ"):
        to_onnx.export(one, tmp_path / "model.onnx", task=some.task(one))
    assert not list(tmp_path.iterdir())


def test_a_graph_that_sees_other_pixels_is_not_kept(tmp_path, monkeypatch):
    one = some.bundle()
    monkeypatch.setitem(onnx_preprocessing.MODES, "bicubic", {"mode": "linear"})

    with pytest.raises(UserError, match=r"its pixels differ .* levels of 255"):
        to_onnx.export(one, tmp_path / "model.onnx", task=some.task(one))
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_are_not_kept(tmp_path):
    one = some.bundle()
    one.variables["params"]["classifier"]["bias"][0] = np.nan

    with pytest.raises(UserError, match="differ from the bundle's by nan"):
        to_onnx.export(one, tmp_path / "model.onnx", task=some.task(one))
    assert not list(tmp_path.iterdir())


def test_a_bundle_of_half_precision_is_written_in_float32(tmp_path):
    one = some.bundle()
    half = some.bundle(arguments=one.arguments | {"dtype": "bfloat16"})

    to_onnx.export(
        half, tmp_path / "model.onnx", task=some.task(half), preprocess=False
    )

    images = agreement.random_normalized(one)
    got = run(session(tmp_path / "model.onnx"), images.transpose(0, 3, 1, 2))
    some.assert_agree(
        got, agreement.Reference(one, some.task(one)).of_normalized(images)
    )


def test_a_model_from_outside_is_sent_to_another_format(tmp_path):
    foreign = some.bundle(
        architecture="outside.gray:averages", arguments={"outputs": len(some.CLASSES)}
    )

    with pytest.raises(UserError, match=r"'outside\.gray:averages'.*savedmodel"):
        to_onnx.export(foreign, tmp_path / "model.onnx", task=some.task(foreign))


def test_a_residual_network_is_sent_to_another_format(tmp_path):
    one = some.bundle("wrn_28_2")
    with pytest.raises(UserError, match=r"not for 'wrn_28_2' .*savedmodel"):
        to_onnx.export(one, tmp_path / "model.onnx", task=some.task(one))


def test_a_model_too_large_for_the_format_is_told(tmp_path, monkeypatch):
    one = some.bundle()
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 1000)

    with pytest.raises(UserError, match="more than the 2 GiB of an ONNX file"):
        to_onnx.export(one, tmp_path / "model.onnx", task=some.task(one))
    assert not list(tmp_path.iterdir())


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)

    with pytest.raises(UserError, match=r"pip install 'noisy-student-jax\[onnx\]'"):
        onnx_graph.library("onnx")


@pytest.mark.parametrize("views", [2, 3, 4])
@pytest.mark.parametrize("made", [some.bundle, some.concatenated])
def test_views_are_averaged_in_the_file_too(tmp_path, made, views):
    one = made(side=33).in_views(views)
    path = tmp_path / "model.onnx"

    to_onnx.export(one, path, task=some.task(one))

    images = np.random.default_rng(0).integers(0, 256, (3, 60, 60, 3), np.uint8)
    got = run(session(path), images)
    some.assert_agree(got, some.predictions(one, images), tolerance=5e-3)
    single = some.predictions(one.in_views(1), images)["logits"]
    assert not np.allclose(got["logits"], single, rtol=1e-3)

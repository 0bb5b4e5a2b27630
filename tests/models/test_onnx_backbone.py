"""Backbones from outside: an ONNX file computes the features that a head learns on."""

import dataclasses
import json

import numpy as np
import pytest
from interop.export import some
from support import TINY

from noisy_student_jax import config, models
from noisy_student_jax.cli.main import main
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.preemption import Interruption
from noisy_student_jax.evaluation.predictor import Predictor
from noisy_student_jax.features import heads
from noisy_student_jax.interop import published
from noisy_student_jax.interop.export import to_onnx, to_savedmodel
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models import card as cards
from noisy_student_jax.models import cost, onnx_backbone
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.planning import plan
from noisy_student_jax.robustness.fgsm import gradient_sign
from noisy_student_jax.runs.run import Run

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE = 16
BESIDE = "efficientnet_tiny_s"


@pytest.fixture(scope="module")
def whole():
    """A network of ours, from which the file is made."""
    return some.bundle("test", side=SIDE)


@pytest.fixture(scope="module")
def file(whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("outside") / "backbone.onnx"
    to_onnx.export(whole, path, task=some.task(whole), preprocess=False)
    return path


def bundle(members, **changes):
    """A bundle with a head on members, some from outside; the head is drawn."""
    return some.concatenated(SIDE, members=members, **changes)


def made(path, given, shape):
    """Writes an ONNX file that averages each channel of its images, or of rows.

    Args:
      path: the file.
      given: dtype and shape of the images.
      shape: of the averages; with four axes, each is an image of one pixel.
    """
    helper, kind = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype
    axes = np.array([2, 3][: len(given[1]) - 2])
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=1),
        helper.make_node(
            "ReduceMean", ["float", "axes"], ["y"], keepdims=int(len(shape) > 2)
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "averages",
        [helper.make_tensor_value_info("x", kind(np.dtype(given[0])), given[1])],
        [helper.make_tensor_value_info("y", 1, shape)],
        [onnx.numpy_helper.from_array(axes, "axes")],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return f"onnx:{path}"


def test_the_features_of_our_own_network_are_the_same_from_its_file(whole, file):
    member = f"onnx:{file}"
    one = bundle((member,), preprocessing=whole.preprocessing)
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
    # The head of the network on the features of its file.
    classifier = whole.variables["params"]["classifier"]
    variables = {"params": {"classifier": classifier}, "batch_stats": {}}

    got = Predictor.from_bundle(one, some.task(one), batch=4)(variables, pixels)

    wanted = Predictor.from_bundle(whole, some.task(whole), batch=4)(
        whole.variables, pixels
    )
    some.assert_agree(got, wanted)
    assert np.ptp(wanted["logits"]) > 0


@pytest.mark.parametrize("first", [True, False])
def test_it_stands_beside_a_network_of_ours_in_any_order(whole, file, first):
    member = f"onnx:{file}"
    members = (member, BESIDE) if first else (BESIDE, member)
    module = models.create("concatenated", outputs=4, members=members)
    variables = initialize(module, resolution=SIDE, seed=0)
    images = np.random.default_rng(0).normal(size=(3, SIDE, SIDE, 3)).astype("f")
    outside = onnx_backbone.features(module.outside, images)

    pooled = module.apply(variables, images, outside=outside)["pooled"]

    channels = outside.shape[1]
    found = pooled[:, :channels] if first else pooled[:, -channels:]
    np.testing.assert_array_equal(found, outside)
    assert channels == 32
    assert variables["params"]["classifier"]["kernel"].shape[0] == pooled.shape[1]
    assert variables["params"].keys() == {"classifier", BESIDE}


@pytest.mark.parametrize("batch", [None, 3])
def test_its_operations_are_counted_as_those_of_a_network_of_ours(
    whole, file, batch, tmp_path
):
    if batch:
        fixed = onnx.load(file)
        fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
        file = tmp_path / "fixed.onnx"
        onnx.save(fixed, file)

    def flops(name, **arguments):
        module = models.create(name, outputs=4, **arguments)
        return cost.forward_flops(module, resolution=SIDE)

    alone = flops("concatenated", members=(BESIDE,))
    both = flops("concatenated", members=(BESIDE, f"onnx:{file}"))

    # The file has a classifier of its own, which the runtime computes too.
    assert both - alone == flops(whole.architecture) + 2 * 32 * 4


def test_a_plan_counts_its_copies_in_the_bundles(file, tmp_path):
    larger = onnx.load(file)
    larger.doc_string = 10**6 * "x"
    onnx.save(larger, tmp_path / "larger.onnx")

    def disk(path):
        fields = ["model.name=concatenated", f"model.members=onnx:{path}"]
        fields += ["train.part=head", "init=pretrained", "model.resolution=16"]
        asked = config.load(TINY, [f"--config.{field}" for field in fields])
        run = Run(asked, tmp_path / "none", interruption=Interruption())
        return plan.run_facts(run)["generations"][0]["disk"]

    more = disk(tmp_path / "larger.onnx") - disk(file)
    assert more == pytest.approx(2e6, rel=1e-3)


def test_what_needs_the_network_itself_is_told(file, tmp_path):
    one = bundle((f"onnx:{file}",))

    with pytest.raises(UserError, match=r"backbone\.onnx' there is a program for onnx"):
        to_savedmodel.export(one, tmp_path / "saved", task=some.task(one))
    with pytest.raises(UserError, match="alone, and no gradient"):
        gradient_sign(Predictor.from_bundle(one, some.task(one)))
    with pytest.raises(UserError, match="not joined with another"):
        to_onnx.export(one, tmp_path / "model.onnx", task=some.task(one))


def test_its_file_goes_with_the_bundle(file, tmp_path):
    one = bundle((BESIDE, f"onnx:{file}"))
    bundles.write(one, tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "moved")

    read = bundles.read(tmp_path / "moved")

    card = json.loads((tmp_path / "moved" / bundles.CARD).read_text())
    assert card["arguments"]["members"] == [BESIDE, "onnx:member_0.onnx"]
    assert card["members"][1]["sha256"] == files.sha256(file)
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    got, wanted = (
        Predictor.from_bundle(each, some.task(each), batch=2)(each.variables, pixels)
        for each in (read, one)
    )
    np.testing.assert_array_equal(got["logits"], wanted["logits"])


def test_a_bundle_whose_file_is_another_is_refused(file, tmp_path):
    bundles.write(bundle((f"onnx:{file}",)), tmp_path)
    copy = tmp_path / "member_0.onnx"
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1

    copy.write_bytes(data)
    with pytest.raises(UserError, match=r"'members\[0\]\.sha256'"):
        bundles.read(tmp_path)
    copy.unlink()
    with pytest.raises(UserError, match=r"lists member_0\.onnx, which is missing"):
        bundles.read(tmp_path)


def test_a_bundle_names_no_file_elsewhere(file, tmp_path):
    bundles.write(bundle((f"onnx:{file}",)), tmp_path)
    card = json.loads((tmp_path / bundles.CARD).read_text())
    card["arguments"]["members"] = [f"onnx:{file}"]
    del card[cards.SUM]
    (tmp_path / bundles.CARD).write_text(json.dumps(card))

    with pytest.raises(UserError, match=r"must be onnx:member_NUMBER\.onnx"):
        bundles.read(tmp_path)


@pytest.mark.parametrize(
    ("given", "shape", "told"),
    [
        ((np.uint8, ["b", 3, 8, 8]), ["b", 3], "should read one float32 array"),
        ((np.float32, ["b", 3, 64]), ["b", 3], "should read one float32 array"),
        ((np.float32, ["b", 4, 8, 8]), ["b", 4], "should have 3 channels"),
        ((np.float32, ["b", 3, 8, 9]), ["b", 3], "should be square"),
        ((np.float32, ["b", 3, 8, 8]), ["b", 3, 1, 1], "output should be float32"),
    ],
)
def test_a_file_that_maps_no_images_to_vectors_is_told(tmp_path, given, shape, told):
    member = made(tmp_path / "odd.onnx", given, shape)

    with pytest.raises(UserError, match=rf"odd\.onnx' is no backbone: .*{told}"):
        onnx_backbone.opened(member)


def test_a_file_that_is_none_or_not_there_is_told(tmp_path):
    (tmp_path / "text.onnx").write_text("no network")

    with pytest.raises(UserError, match=r"is no backbone: it cannot be opened"):
        onnx_backbone.opened(f"onnx:{tmp_path / 'text.onnx'}")
    with pytest.raises(UserError, match="there is no such file"):
        onnx_backbone.opened(f"onnx:{tmp_path / 'none.onnx'}")


def test_a_file_without_its_weights_is_told(file, tmp_path):
    parted = tmp_path / "parted.onnx"
    onnx.save(onnx.load(file), parted, save_as_external_data=True, size_threshold=0)

    with pytest.raises(UserError, match="its weights are in another file; export it"):
        onnx_backbone.opened(f"onnx:{parted}")


def test_images_of_a_large_network_are_predicted_few_at_a_time(file, monkeypatch):
    one = bundle((f"onnx:{file}",))
    monkeypatch.setattr(onnx_backbone.OnnxBackbone, "flops", lambda *_: 10**12)
    predictor = Predictor.from_bundle(one, some.task(one), batch=8)
    sizes = []
    whole = onnx_backbone.features
    monkeypatch.setattr(
        onnx_backbone,
        "features",
        lambda members, images: (sizes.append(len(images)), whole(members, images))[1],
    )

    predictor(one.variables, np.zeros((5, SIDE, SIDE, 3), np.uint8))

    assert max(sizes) == 2


def test_a_fixed_batch_is_filled_up(tmp_path):
    given = (np.float32, [4, 3, 8, 8])
    member = made(tmp_path / "four.onnx", given, [4, 3])
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype("f")

    found = onnx_backbone.features([member], images)

    np.testing.assert_allclose(found, images.mean((1, 2)), rtol=1e-5, atol=1e-6)
    assert models.resolution("concatenated", [member]) == 8
    with pytest.raises(UserError, match=r"set model\.resolution to 8"):
        onnx_backbone.features([member], np.zeros((1, 9, 9, 3), np.float32))


def louder(file, path):
    """Writes an ONNX file of a thousand times the features of another."""
    model = onnx.load(file)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["quiet" if one == "features" else one for one in names]
    by = onnx.numpy_helper.from_array(np.float32(1000), "by")
    model.graph.initializer.append(by)
    more = onnx.helper.make_node("Mul", ["quiet", "by"], ["features"])
    model.graph.node.append(more)
    onnx.save(model, path)
    return f"onnx:{path}"


def solved(workdir, *flags):
    """The kernel of a student's solved head, and its accuracies."""
    line = ["run", f"--config={TINY}", f"--workdir={workdir}", *flags]
    own = ["model.resolution=16", "train.part=head", "train.optimizer=lbfgs"]
    own += ["control.enabled=false"]
    assert main([*line, *(f"--config.{flag}" for flag in own)]) == 0
    params = bundles.read(workdir / "generation_1" / "model").variables["params"]
    evaluated = json.loads((workdir / "generation_1" / "evaluation.json").read_text())
    return params["classifier"]["kernel"], evaluated["splits"]["test"]["ema"]


def test_heads_on_our_own_network_are_the_same_from_its_file(
    whole, file, tmp_path, monkeypatch
):
    # Less regularized, the solution is known to fewer digits.
    monkeypatch.setattr(heads, "STRENGTHS", (0.01,))
    bundles.write(whole, tmp_path / "whole")
    members = "--config.model.members="
    outside = ["--config.model.name=concatenated", "--config.init=pretrained"]

    own, right = solved(tmp_path / "own", f"--config.init={tmp_path / 'whole'}")
    kernel, found = solved(tmp_path / "file", *outside, f"{members}onnx:{file}")
    both, _ = solved(
        tmp_path / "both",
        *outside,
        f"{members}onnx:{file},{louder(file, tmp_path / 'louder.onnx')}",
    )

    assert kernel == pytest.approx(own, abs=1e-4 * float(abs(own).max()))
    assert found == pytest.approx(right, abs=1e-4)
    # Each of both is on its own scale, so neither counts more.
    largest = float(abs(both).max())
    assert both[:32] == pytest.approx(1000 * both[32:], abs=1e-4 * largest)


def test_a_run_learns_heads_on_it_and_ships_a_teacher(whole, tmp_path, capsys):
    given = (np.float32, ["b", 3, 8, 8])
    member = made(tmp_path / "averages.onnx", given, ["b", 3])
    flags = [
        f"--config={TINY}",
        f"--workdir={tmp_path / 'run'}",
        "--config.model.name=concatenated",
        f"--config.model.members={member}",
        "--config.init=pretrained",
        "--config.control.enabled=false",
    ]

    assert main(["run", *flags]) == 2
    assert "set train.part to head" in capsys.readouterr().err
    assert main(["run", *flags, "--config.train.part=head"]) == 0

    best = bundles.read(tmp_path / "run" / "best")
    assert best.variables["params"]["classifier"]["kernel"].shape == (3, 10)
    assert (
        best.origin["started_from"]
        == published.bundle("concatenated", (member,)).sha256
    )
    assert dataclasses.asdict(best.preprocessing)["mean"] == (0.3, 0.3, 0.3)

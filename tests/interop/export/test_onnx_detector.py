"""ONNX: onnxruntime finds the boxes that a detector's bundle does."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop.export import some

from noisy_student_jax import models
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop.export import agreement, to_onnx
from noisy_student_jax.interop.export.onnx_graph import Graph
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models.fcos import locations
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.tasks.detection import onnx_head
from noisy_student_jax.tasks.detection.decode import decode

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
TASK = types.SimpleNamespace(predict=decode, onnx_head=onnx_head.onnx_head)
CLASSES = ("disc", "square")
PREDICTIONS = ("boxes", "scores", "classes", "reliabilities")


def bundle(name="fcos_test", side=37, **arguments):
    """A bundle of a detector that is sure of much, with drawn statistics."""
    arguments = {"outputs": len(CLASSES), **arguments}
    variables = initialize(models.create(name, **arguments), resolution=side, seed=0)
    random = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda x: (
            x if x.ndim > 1 else (x + random.uniform(0, 0.5, x.shape)).astype("f")
        ),
        variables,
    )
    logits = variables["params"]["detector"]["logits"]
    # Logits from −13 to 9: those of a trained detector were from −11 to 3.
    logits["kernel"] = logits["kernel"] * 20
    logits["bias"] = logits["bias"] + np.array([0, 4], np.float32)  # of both classes
    mean, std = models.normalization(name)
    return bundles.Bundle(
        architecture=name,
        arguments=arguments,
        preprocessing=Preprocessing(side, 0, "bilinear", mean, std, "letterbox"),
        task="detection",
        classes=CLASSES,
        variables=variables,
        origin=some.ORIGIN,
        trained_on=np.zeros(0, np.uint64),
    )


def session(model):
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("name", "side", "views"),
    [("fcos_test", 37, 1), ("fcos_test", 37, 2), ("fcos_lite0", 72, 1)],
)
def test_the_file_finds_the_boxes_of_the_bundle(tmp_path, name, side, views):
    one, path = bundle(name, side, views=views), tmp_path / "model.onnx"

    to_onnx.export(one, path, task=TASK, preprocess=False)

    images = agreement.random_normalized(one)
    opened = session(path)
    got = opened.run(list(PREDICTIONS), {"images": images.transpose(0, 3, 1, 2)})
    wanted = agreement.Reference(one, TASK).of_normalized(images)
    assert wanted["scores"][0].max() > 0.3
    assert len(np.unique(wanted["classes"])) == 2
    # Equal up to rounding, but for boxes whose order or overlap rounding decides.
    for name, value in zip(PREDICTIONS, got, strict=True):
        assert value.shape == wanted[name].shape and value.dtype == wanted[name].dtype
        agrees = np.isclose(value, wanted[name], atol=1e-4)
        assert agrees.mean() > 0.9, name
    np.testing.assert_allclose(got[1], wanted["scores"], atol=1e-3)


def test_photographs_of_any_size_are_letterboxed_in_the_file(tmp_path):
    one, path = bundle(), tmp_path / "model.onnx"
    pictures = some.photographs()[:3]

    to_onnx.export(one, path, task=TASK)

    opened = session(path)
    reference = agreement.Reference(one, TASK)
    for image in pictures:
        scores = opened.run(["scores"], {"images": image[None]})[0]
        wanted = reference.of_pixels(one.preprocessing.apply_all([image]))["scores"]
        np.testing.assert_allclose(scores, wanted, atol=0.02)


def head_alone(views, side=64, classes=2):
    """The head as a graph of its own, from outputs of a network."""
    where = locations(side, side, (8, 16, 32))
    shapes = {
        "logits": [views, len(where), classes],
        "distances": [views, len(where), 4],
    }
    graph = Graph()
    graph.constant(where, np.float32, name="locations")
    outputs = onnx_head.onnx_head(graph, shapes)
    named = {name: (kind, ["batch", *shape]) for name, (kind, shape) in outputs.items()}
    given = {name: (np.float32, ["batch", *shape]) for name, shape in shapes.items()}
    return session(graph.model(given, named, {})), where, shapes


@pytest.mark.parametrize("views", [1, 2])
def test_decoding_and_suppression_are_those_of_the_package(views):
    opened, where, shapes = head_alone(views)
    random = np.random.default_rng(3)
    given = {
        "logits": random.normal(-1, 2, (5, *shapes["logits"])).astype("f"),
        "distances": random.uniform(0, 0.3, (5, *shapes["distances"])).astype("f"),
    }
    # The mirror shows nearly the same, so that many boxes of two views match.
    if views == 2:
        grids = np.split(np.arange(len(where)), [64, 80])
        mirror = np.concatenate(
            [
                g.reshape(n, n)[:, ::-1].ravel()
                for g, n in zip(grids, (8, 4, 2), strict=True)
            ]
        )
        given["logits"][:, 1] = given["logits"][:, 0, mirror] + 0.1
        given["distances"][:, 1] = given["distances"][:, 0][:, mirror][
            ..., [2, 1, 0, 3]
        ]

    got = dict(zip(PREDICTIONS, opened.run(list(PREDICTIONS), given), strict=True))

    wanted = jax.jit(decode)({**jax.tree.map(jnp.asarray, given), "locations": where})
    assert (np.asarray(wanted["scores"]) > 0).sum(axis=1).min() > 10
    if views == 2:
        assert (np.asarray(wanted["reliabilities"]) > 0.99).any()
    for name, value in got.items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-5)


def test_no_objects_are_zeros():
    opened, _, shapes = head_alone(1)
    given = {
        "logits": np.full((2, *shapes["logits"]), -200, "f"),
        "distances": np.full((2, *shapes["distances"]), 0.1, "f"),
    }

    assert not any(part.any() for part in opened.run(list(PREDICTIONS), given))


def test_a_network_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    one = bundle()
    graph = to_onnx.onnx_detector
    monkeypatch.setattr(graph, "_GROUP_NORM_EPSILON", 1.0)

    with pytest.raises(UserError, match=r"read again and its \w+ differ"):
        to_onnx.export(one, tmp_path / "model.onnx", task=TASK, preprocess=False)
    assert not list(tmp_path.iterdir())


def test_a_task_without_a_head_for_onnx_is_sent_to_another_format(tmp_path):
    one = dataclasses.replace(bundle(), task="outside:Task")
    task = types.SimpleNamespace(predict=decode)

    with pytest.raises(UserError, match=r"'outside:Task'.*savedmodel"):
        to_onnx.export(one, tmp_path / "model.onnx", task=task, preprocess=False)

"""Several networks with one head: each sees and computes what it would alone."""

import json

import jax
import numpy as np
import pytest
from interop.export import some

from noisy_student_jax import models
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.interop import published
from noisy_student_jax.models import bundle as bundles
from noisy_student_jax.models import card as cards
from noisy_student_jax.models import concatenated, cost
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.training.step import normalize

TINY = ("efficientnet_test", "efficientnet_tiny_s")
LITE = ("efficientnet_test", "efficientnet_lite0_small")
"""Members with another mean and standard deviation each."""
SIDE = 16


def pixels(count=3):
    shape = (count, SIDE, SIDE, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def made(members, **arguments):
    module = models.create("concatenated", outputs=4, members=members, **arguments)
    return module, initialize(module, resolution=SIDE, seed=0)


def own_features(module, variables, member):
    """The pooled features of a member alone, of images normalized for it."""
    number = module.members.index(member)
    images = np.asarray(normalize(pixels(), *models.normalization(member)))
    own = concatenated.separate(variables, member)
    return module.networks[number].apply(own, images)["pooled"]


@pytest.mark.parametrize("members", [TINY, LITE], ids=["alike", "other normalization"])
def test_its_features_are_those_of_its_members_one_after_the_other(members):
    module, variables = made(members)

    images = np.asarray(normalize(pixels(), module.mean, module.std))
    outputs = module.apply(variables, images)

    wanted = [own_features(module, variables, member) for member in members]
    np.testing.assert_allclose(
        outputs["pooled"], np.concatenate(wanted, -1), rtol=1e-4, atol=1e-4
    )
    assert outputs["logits"].shape == (3, 4)
    with_head = module.head.apply(
        {"params": {"classifier": variables["params"]["classifier"]}},
        outputs["pooled"][:, None, None],
    )
    np.testing.assert_array_equal(with_head["logits"], outputs["logits"])


@pytest.mark.parametrize("members", [TINY, LITE], ids=["alike", "other normalization"])
def test_its_backbones_compute_the_features_that_its_head_reads(members):
    one = some.concatenated(SIDE, members=members)
    module = models.create(one.architecture, **one.arguments)

    parts = concatenated.backbones(
        one.architecture, module, one.variables, one.preprocessing
    )

    assert tuple(part.name for part in parts) == members
    images, (mean, std) = pixels(), (one.preprocessing.mean, one.preprocessing.std)
    whole = module.apply(one.variables, np.asarray(normalize(images, mean, std)))
    found = [
        part.module.apply(
            part.variables,
            np.asarray(
                normalize(images, part.preprocessing.mean, part.preprocessing.std)
            ),
        )["pooled"]
        for part in parts
    ]
    np.testing.assert_allclose(
        np.concatenate(found, -1), whole["pooled"], rtol=1e-4, atol=1e-4
    )
    # A member is the network that it is alone.
    lone = some.bundle("test", side=SIDE)
    (alone,) = concatenated.backbones(
        lone.architecture,
        models.create(lone.architecture, **lone.arguments),
        lone.variables,
        lone.preprocessing,
    )
    assert alone.module == parts[0].module
    assert jax.tree.structure(alone.variables) == jax.tree.structure(parts[0].variables)


def test_each_member_sees_its_own_normalization_of_images_normalized_otherwise():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)
    module, variables = made(TINY, mean=mean, std=std)

    outputs = module.apply(variables, np.asarray(normalize(pixels(), mean, std)))

    wanted = [own_features(module, variables, member) for member in TINY]
    np.testing.assert_allclose(
        outputs["pooled"], np.concatenate(wanted, -1), rtol=1e-4, atol=1e-4
    )


def test_parameters_and_operations_add_up():
    module, _ = made(TINY)
    alone = [models.create(member, outputs=4) for member in TINY]
    features = [one.architecture.head for one in alone]

    for count in (cost.parameter_count, cost.forward_flops):
        whole, parts = (
            [count(one, resolution=SIDE) for one in ones] for ones in ([module], alone)
        )
        biases = 4 * (len(TINY) - 1) if count is cost.parameter_count else 0
        assert sum(parts) - sum(whole) == biases
    kernel = initialize(module, resolution=SIDE, seed=0)["params"]["classifier"]
    assert kernel["kernel"].shape == (sum(features), 4)


def test_all_of_it_can_learn():
    module, variables = made(TINY)
    images = np.asarray(normalize(pixels(), module.mean, module.std))

    def loss(params):
        outputs, updated = module.apply(
            {**variables, "params": params},
            images,
            train=True,
            rngs={"dropout": jax.random.key(1), "stochastic_depth": jax.random.key(2)},
            mutable=["batch_stats"],
        )
        return jax.nn.log_softmax(outputs["logits"])[:, 0].mean(), updated

    gradient, updated = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    moved = jax.tree.map(
        lambda one, other: (one != other).any(),
        updated["batch_stats"],
        variables["batch_stats"],
    )
    assert all(jax.tree.leaves(moved))


def test_dropout_spares_images_without_noise():
    module, variables = made(TINY, dropout_rate=0.5, stochastic_depth=0.0)
    images = np.asarray(normalize(pixels(), module.mean, module.std))

    def logits(noisy):
        return module.apply(
            variables,
            images,
            train=True,
            noise={"dropout": np.full(3, noisy, np.float32)},
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )[0]["logits"]

    without = made(TINY, dropout_rate=0.0, stochastic_depth=0.0)[0].apply(
        variables, images, train=True, mutable=["batch_stats"]
    )[0]["logits"]
    np.testing.assert_array_equal(logits(0.0), without)
    assert (np.asarray(logits(1.0)) != np.asarray(without)).any()


def test_its_resolution_is_the_largest_and_its_normalization_the_firsts():
    members = ("efficientnet_lite0", "efficientnet_b1")

    assert models.resolution("concatenated", members) == 240
    assert models.normalization("concatenated", members) == (
        (127 / 255,) * 3,
        (128 / 255,) * 3,
    )
    # Without members: Lite0 to Lite2.
    assert models.resolution("concatenated") == 260
    assert models.create("concatenated", outputs=2).members == models.MEMBERS


@pytest.mark.parametrize(
    ("members", "told"),
    [
        (("efficientnet_lite9",), "no member 'efficientnet_lite9'.*did you mean 'eff"),
        (("concatenated",), "no member 'concatenated'"),
        (("somebodys:net",), "no member 'somebodys:net'"),
        (TINY[:1] * 2, "different members, got efficientnet_test, efficientnet_test"),
        ((), "different members, got none"),
    ],
)
def test_members_that_cannot_be_are_told(members, told):
    with pytest.raises(UserError, match=told):
        models.create("concatenated", outputs=2, members=members)


def test_of_published_weights_every_member_has_its_own():
    members = tuple(m for m in models.MEMBERS if m in published.available())
    if len(members) < 2:
        pytest.skip("published weights of two networks are not installed")

    whole = published.bundle("concatenated", members)

    assert "classifier" not in whole.variables["params"]
    for member in members:
        alone = published.lite_bundle(member).variables
        own = concatenated.separate(whole.variables, member)
        for collection, layers in own.items():
            for name, layer in layers.items():
                for one, other in zip(
                    *map(jax.tree.leaves, (layer, alone[collection][name])), strict=True
                ):
                    np.testing.assert_array_equal(one, other)
    one = published.bundle("concatenated", members[:1])
    assert one.variables["params"].keys() == {members[0]}


def test_its_card_lists_the_members_and_one_is_the_same_anywhere(tmp_path):
    one, other = (
        some.concatenated(SIDE, members=members) for members in (TINY, TINY[1:])
    )
    for collection, own in other.variables.items():
        own[TINY[1]] = one.variables[collection][TINY[1]]
    bundles.write(one, tmp_path / "one")
    bundles.write(other, tmp_path / "other")

    rows, (row,) = (
        json.loads((tmp_path / name / bundles.CARD).read_text())["members"]
        for name in ("one", "other")
    )

    assert [entry["name"] for entry in rows] == list(TINY)
    assert rows[1] == row
    assert rows[0]["sha256"] != row["sha256"]
    assert (row["mean"], row["std"]) == tuple(map(list, models.normalization(TINY[1])))
    read = bundles.read(tmp_path / "one")
    module = models.create(read.architecture, **read.arguments)
    assert module == models.create("concatenated", **one.arguments)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c["members"][1].update(mean=[0, 0, 0]), r"members\[1\]\.mean"),
        (lambda c: c["members"][0].update(sha256="0" * 64), r"members\[0\]\.sha256"),
        (lambda c: c["members"].pop(), r"members\[1\]\.name"),
        (lambda c: c["members"].append({}), "the model's 2 members"),
        (lambda c: c.pop("members"), r"members\[0\]\.name"),
        (lambda c: c.update(members=3), "a list of objects"),
        (lambda c: c["arguments"].update(members=[*TINY[:1]]), "the model's 1 members"),
        (lambda c: c["arguments"].update(members=3), "a list of names"),
        (lambda c: c["arguments"].update(mean=[0.5, 0.5, 0.5]), r"arguments\.mean"),
    ],
)
def test_a_card_whose_members_are_not_its_models_is_refused(tmp_path, change, told):
    bundles.write(some.concatenated(SIDE, members=TINY), tmp_path)
    card = json.loads((tmp_path / bundles.CARD).read_text())
    change(card)
    del card[cards.SUM]
    (tmp_path / bundles.CARD).write_text(json.dumps(card))

    with pytest.raises(UserError, match=told):
        bundles.read(tmp_path)

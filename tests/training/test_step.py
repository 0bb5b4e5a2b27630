"""One step: the loss, both streams in one pass, noise by stream, averages."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from noisy_student_jax.core.protocols import LossOptions
from noisy_student_jax.core.types import LABELED, PSEUDO, PerStream
from noisy_student_jax.models.layers import batch_norm, keep_factors
from noisy_student_jax.tasks.classification import Classification
from noisy_student_jax.training import optimizer as optimizers
from noisy_student_jax.training.optimizer import OptimizerOptions
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import (
    StepOptions,
    TrainStep,
    normalize,
    total_loss,
)

CLASSES, FEATURES = 3, 4
STREAM = np.array([LABELED, PSEUDO, PSEUDO] * 4, np.int32)
LABELED_ROWS, PSEUDO_ROWS = STREAM == LABELED, STREAM == PSEUDO
MEAN, STD = (0.4,), (0.25,)
RATE = 0.5


class Linear(nn.Module):
    """Logits are a linear map of the pixels."""

    @nn.compact
    def __call__(self, images, train, noise):
        return {"logits": nn.Dense(CLASSES)(images.reshape(len(images), -1))}


class Normed(nn.Module):
    """Batch norm, then a linear map: there are batch statistics to follow."""

    @nn.compact
    def __call__(self, images, train, noise):
        hidden = images.reshape(len(images), -1)
        hidden = nn.BatchNorm(
            use_running_average=not train, momentum=0.75, name="head_bn"
        )(hidden)
        return {"logits": nn.Dense(CLASSES)(hidden)}


class GroupNormed(nn.Module):
    """Batch norm by groups of examples, with weights on either side."""

    group: int

    @nn.compact
    def __call__(self, images, train, noise):
        hidden = nn.Dense(5, name="before")(images.reshape(len(images), -1))
        hidden = batch_norm(
            hidden,
            train=train,
            group=self.group,
            momentum=0.75,
            epsilon=1e-3,
            name="head_bn",
        )
        return {"logits": nn.Dense(CLASSES, name="after")(hidden)}


class Noised(nn.Module):
    """Both kinds of the model's noise, each on logits of its own."""

    @nn.compact
    def __call__(self, images, train, noise):
        pixels = images.reshape(len(images), -1)
        found = {}
        for name, shape in (
            ("dropout", (len(pixels), CLASSES)),
            ("stochastic_depth", (len(pixels), 1)),
        ):
            factors = keep_factors(
                self.make_rng(name), shape, rate=0.5, noise=noise[name][:, None]
            )
            found[name] = nn.Dense(CLASSES, name=name)(pixels) * factors
        return {"logits": found["dropout"], **found}


def batch(**changes):
    rng = np.random.default_rng(0)
    size = len(STREAM)
    target = rng.dirichlet(np.full(CLASSES, 0.7), size)
    hard = np.eye(CLASSES)[rng.integers(0, CLASSES, size)]
    target[LABELED_ROWS] = hard[LABELED_ROWS]
    whole = {
        "image": rng.integers(0, 256, (size, 2, 2, 1)).astype(np.uint8),
        "target": target.astype(np.float32),
        "weight": np.ones(size, np.float32),
        "stream": STREAM,
        "noise": {
            "dropout": np.ones(size, np.float32),
            "stochastic_depth": np.ones(size, np.float32),
        },
    }
    return jax.tree.map(jnp.asarray, whole | changes)


def classification_loss(**options):
    task = Classification(tuple("abc"))
    return functools.partial(task.loss, options=LossOptions(**options))


def state_of(module, optimizer, *, seed=0, generation=0):
    images = jnp.zeros((1, 2, 2, 1))
    if isinstance(module, Noised):
        ones = {name: jnp.ones(1) for name in ("dropout", "stochastic_depth")}
        keys = jax.random.split(jax.random.key(3), 3)
        names = ("params", "dropout", "stochastic_depth")
        rngs = dict(zip(names, keys, strict=True))
        variables = module.init(rngs, images, True, ones)
    else:
        variables = module.init(jax.random.key(3), images, False, None)
    return TrainState.create(variables, optimizer, seed=seed, generation=generation)


def take(
    module=None,
    examples=None,
    *,
    loss=None,
    optimizer=None,
    steps=1,
    state=None,
    **step_options,
):
    """Takes steps; returns the state before and after, and the last metrics."""
    module = module or Linear()
    optimizer = optimizer or optax.sgd(RATE)
    step = TrainStep(
        module,
        loss or classification_loss(),
        optimizer,
        lambda number: 0.25 + jnp.asarray(number, jnp.float32),
        StepOptions(**({"ratio": 2.0} | step_options)),
        mean=MEAN,
        std=STD,
    )
    before = after = state or state_of(module, optimizer)
    step = jax.jit(step)
    for _ in range(steps):
        after, metrics = step(after, batch() if examples is None else examples)
    return before, after, metrics


def inputs(examples):
    pixels = np.asarray(examples["image"], np.float64).reshape(len(STREAM), -1)
    return (pixels / 255 - MEAN[0]) / STD[0]


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def smoothed(one_hot, smoothing):
    return (1 - smoothing) * one_hot + smoothing / CLASSES


def expected_targets(examples, *, targets, temperature, smoothing):
    """What the paper's code trains towards, written out."""
    expected = np.asarray(examples["target"], np.float64)
    pseudo = expected[PSEUDO_ROWS]
    if targets == "hard":
        pseudo = smoothed(np.eye(CLASSES)[pseudo.argmax(axis=1)], smoothing)
    else:
        pseudo = softmax(np.log(pseudo) / temperature)
    expected[PSEUDO_ROWS] = pseudo
    expected[LABELED_ROWS] = smoothed(expected[LABELED_ROWS], smoothing)
    return expected


WEIGHTS = {"code": (1.0, 2.0), "sum": (1.0, 1.0), "average": (1 / 3, 2 / 3)}


@pytest.mark.parametrize("normalization", WEIGHTS)
@pytest.mark.parametrize(
    ("targets", "temperature"), [("soft", 1.0), ("soft", 2.5), ("hard", 1.0)]
)
def test_the_loss_and_its_gradient_are_the_papers(normalization, targets, temperature):
    examples, decay = batch(), 0.03
    before, after, metrics = take(
        examples=examples,
        loss=classification_loss(
            label_smoothing=0.1, targets=targets, temperature=temperature
        ),
        loss_normalization=normalization,
        weight_decay=decay,
    )

    dense = jax.tree.map(lambda w: np.asarray(w, np.float64), before.params["Dense_0"])
    x = inputs(examples)
    p = softmax(x @ dense["kernel"] + dense["bias"])
    q = expected_targets(
        examples, targets=targets, temperature=temperature, smoothing=0.1
    )
    each = -(q * np.log(p)).sum(axis=1)
    labeled, pseudo = each[LABELED_ROWS].mean(), each[PSEUDO_ROWS].mean()
    l2 = (dense["kernel"] ** 2).sum() / 2 + (dense["bias"] ** 2).sum() / 2
    own, other = WEIGHTS[normalization]
    assert metrics["labeled/loss"] == pytest.approx(labeled, rel=1e-5)
    assert metrics["pseudo/loss"] == pytest.approx(pseudo, rel=1e-5)
    assert metrics["l2"] == pytest.approx(l2, rel=1e-5)
    total = own * labeled + other * pseudo + decay * l2
    assert metrics["loss"] == pytest.approx(total, rel=1e-5)

    share = own * LABELED_ROWS / LABELED_ROWS.sum()
    share = share + other * PSEUDO_ROWS / PSEUDO_ROWS.sum()
    at_logits = (p - q) * share[:, None]
    gradient = {
        "kernel": x.T @ at_logits + decay * dense["kernel"],
        "bias": at_logits.sum(axis=0) + decay * dense["bias"],
    }
    moved = jax.tree.map(
        lambda new, old: (old - np.asarray(new)) / RATE,
        dict(after.params["Dense_0"]),
        dense,
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6),
        moved,
        gradient,
    )
    norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize(
    ("normalization", "total"), [("code", 13.0), ("sum", 6.4), ("average", 13 / 3.5)]
)
def test_the_three_normalizations_on_record(normalization, total):
    options = StepOptions(ratio=2.5, loss_normalization=normalization)

    assert total_loss(2.0, 4.4, options) == pytest.approx(total)


def test_images_are_normalized_on_the_0_to_1_scale():
    images = np.array([0, 255, 102], np.uint8).reshape(3, 1, 1, 1)

    found = normalize(images, (0.4,), (0.2,))

    np.testing.assert_allclose(np.ravel(found), [-2, 3, 0], atol=1e-6)
    assert found.dtype == jnp.float32


def test_each_channel_has_its_own_mean_and_deviation():
    images = np.full((1, 1, 1, 3), 51, np.uint8)

    found = normalize(images, (0.2, 0.1, 0.0), (1.0, 0.5, 0.1))

    np.testing.assert_allclose(np.ravel(found), [0, 0.2, 2], atol=1e-6)


def test_one_set_of_batch_statistics_spans_both_streams():
    before, after, _ = take(Normed())

    x = inputs(batch())
    old, new = before.batch_stats["head_bn"], after.batch_stats["head_bn"]
    np.testing.assert_allclose(
        new["mean"], 0.75 * old["mean"] + 0.25 * x.mean(axis=0), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        new["var"], 0.75 * old["var"] + 0.25 * x.var(axis=0), rtol=1e-4
    )


def test_the_loss_sees_the_statistics_of_both_streams_together():
    examples = batch()
    before, _, metrics = take(Normed(), examples)

    module = Normed()
    whole, _ = module.apply(
        before.raw_variables,
        normalize(examples["image"], MEAN, STD),
        True,
        None,
        mutable=["batch_stats"],
    )
    loss = classification_loss()(whole, examples)["loss"].means()
    assert metrics["labeled/loss"] == pytest.approx(float(loss[0]), rel=1e-6)
    assert metrics["pseudo/loss"] == pytest.approx(float(loss[1]), rel=1e-6)


def test_weight_decay_leaves_batch_norm_alone():
    zero = batch(weight=np.zeros(len(STREAM), np.float32))
    before, after, _ = take(Normed(), zero, weight_decay=0.1)

    kernel = before.params["Dense_0"]["kernel"]
    np.testing.assert_allclose(
        after.params["Dense_0"]["kernel"], kernel * (1 - RATE * 0.1), rtol=1e-6
    )
    np.testing.assert_array_equal(
        after.params["head_bn"]["scale"], before.params["head_bn"]["scale"]
    )


def test_coupled_weight_decay_passes_through_the_optimizers_statistics():
    options = OptimizerOptions("rmsprop", 0, "constant", 1, 1, 0, 0.0, 0.4)
    optimizer = optimizers.make_optimizer(options, lambda step: jnp.asarray(0.5))
    zero = batch(weight=np.zeros(len(STREAM), np.float32))
    before, after, _ = take(optimizer=optimizer, examples=zero, weight_decay=0.4)

    weight = np.asarray(before.params["Dense_0"]["kernel"], np.float64)
    gradient = 0.4 * weight
    mean_square = 0.9 + 0.1 * gradient**2
    np.testing.assert_allclose(
        after.params["Dense_0"]["kernel"],
        weight - 0.5 * gradient / np.sqrt(mean_square + 1e-3),
        rtol=1e-5,
    )


def test_averages_follow_weights_and_batch_statistics_with_the_ramp():
    decays = [min(0.28, (1 + t) / (10 + t)) for t in (1, 2, 3)]
    assert decays[-1] == 0.28
    module, optimizer = Normed(), optax.sgd(RATE)
    state = state_of(module, optimizer)
    expected = jax.tree.map(np.asarray, state.raw_variables)

    for decay in decays:
        _, state, _ = take(module, state=state, optimizer=optimizer, ema_decay=0.28)
        expected = jax.tree.map(
            lambda a, v, d=decay: d * a + (1 - d) * np.asarray(v),
            expected,
            state.raw_variables,
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            state.ema_variables,
            expected,
        )
    raw = state.raw_variables["batch_stats"]["head_bn"]["mean"]
    assert not np.allclose(expected["batch_stats"]["head_bn"]["mean"], raw)


@pytest.mark.parametrize("count", [2, 4])
def test_microbatches_average_their_gradients(count):
    _, whole, metrics = take(steps=3)
    _, parts, of_parts = take(steps=3, microbatches=count, group=3)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        whole.raw_variables,
        parts.raw_variables,
    )
    for name, value in metrics.items():
        assert of_parts[name] == pytest.approx(float(value), rel=1e-4), name


def test_microbatches_hand_their_batch_statistics_on():
    before, after, _ = take(Normed(), microbatches=2, group=3)

    x = inputs(batch()).reshape(2, 2, 3, -1)
    expected = np.asarray(before.batch_stats["head_bn"]["mean"])
    for part in range(2):
        # Every second group of three examples.
        mean = x[:, part].reshape(6, -1).mean(axis=0)
        expected = 0.75 * expected + 0.25 * mean
    np.testing.assert_allclose(
        after.batch_stats["head_bn"]["mean"], expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("count", [2, 4])
def test_microbatches_are_a_loop_that_averages_gradients(count):
    before, after, metrics = take(Normed(), microbatches=count, group=3)

    examples, stats = batch(), before.batch_stats
    rows = np.arange(len(STREAM)).reshape(-1, count, 3)
    gradients, losses = [], []
    for number in range(count):
        # Every so manieth group of three examples.
        chosen = rows[:, number].ravel()
        part = jax.tree.map(lambda x, chosen=chosen: x[chosen], examples)

        def loss(params, part=part, stats=stats):
            outputs, updated = Normed().apply(
                {"params": params, "batch_stats": stats},
                normalize(part["image"], MEAN, STD),
                True,
                None,
                mutable=["batch_stats"],
            )
            labeled, pseudo = classification_loss()(outputs, part)["loss"].means()
            return labeled + 2 * pseudo, updated["batch_stats"]

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(before.params)
        gradients.append(gradient)
        losses.append(value)

    params = jax.tree.map(
        lambda weight, *parts: weight - RATE * np.mean(parts, axis=0),
        before.params,
        *gradients,
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        after.raw_variables,
        {"params": params, "batch_stats": stats},
    )
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(("count", "group"), [(2, 6), (4, 3), (2, 3)])
def test_microbatches_of_whole_batch_norm_groups_equal_the_whole_batch(count, group):
    module = GroupNormed(group)
    before, whole, of_whole = take(module)
    _, parts, of_parts = take(module, microbatches=count, group=group)

    jax.tree.map(
        lambda a, b, old: np.testing.assert_allclose(
            np.asarray(a) - old, np.asarray(b) - old, rtol=1e-4, atol=1e-6
        ),
        parts.params,
        whole.params,
        before.params,
    )
    for name, value in of_whole.items():
        assert of_parts[name] == pytest.approx(float(value), rel=1e-5), name


def watch(outputs, examples):
    """A loss that only tells what came out, for each kind of noise."""
    by = {"stream": examples["stream"], "weight": examples["weight"]}
    found = {"loss": PerStream.of(outputs["logits"].sum(axis=-1), **by)}
    for name in ("dropout", "stochastic_depth"):
        values = jnp.stack([outputs[name], outputs[name]])
        found[name] = PerStream(values, jnp.ones((2, 1, 1)))
    return found


def watched(flags, **options):
    """Returns the outputs under each kind of noise, and what they are without."""
    ones = np.ones(len(STREAM), np.float32)
    noise = {"dropout": ones, "stochastic_depth": ones} | flags
    examples = batch(noise=noise)
    before, _, metrics = take(Noised(), examples, loss=watch, **options)
    x, found, still = inputs(examples), {}, {}
    for name in ("dropout", "stochastic_depth"):
        found[name] = np.asarray(metrics[f"labeled/{name}"])
        dense = before.params[name]
        still[name] = x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    return found, still


@pytest.mark.parametrize("source", ["dropout", "stochastic_depth"])
@pytest.mark.parametrize("off", [LABELED, PSEUDO], ids=["labeled", "pseudo"])
def test_the_models_noise_is_switched_off_alone_for_one_stream(source, off):
    on = (off != STREAM).astype(np.float32)
    found, still = watched({source: on})
    everywhere, _ = watched({})

    other = {"dropout": "stochastic_depth", "stochastic_depth": "dropout"}[source]
    np.testing.assert_allclose(
        found[source][on == 0], still[source][on == 0], rtol=1e-4, atol=1e-5
    )
    # What is on elsewhere is drawn as it was.
    np.testing.assert_array_equal(found[source][on == 1], everywhere[source][on == 1])
    np.testing.assert_array_equal(found[other], everywhere[other])
    assert not np.allclose(found[source][on == 1], still[source][on == 1])


def test_the_models_noise_drops_and_scales_what_is_left():
    found, still = watched({})

    ratio = np.round(found["dropout"] / still["dropout"], 3)
    assert set(np.unique(ratio)) == {0.0, 2.0}
    # Stochastic depth drops an example as a whole.
    depth = np.round(found["stochastic_depth"] / still["stochastic_depth"], 3)
    assert set(map(tuple, depth)) == {(0.0,) * 3, (2.0,) * 3}


def test_noise_is_new_in_every_step_generation_and_seed():
    optimizer = optax.sgd(0.0)

    def pattern(step=0, **numbers):
        state = state_of(Noised(), optimizer, **numbers)
        state = state.replace(step=jnp.asarray(step))
        found, _ = watched({}, state=state)
        return tuple((found["dropout"] == 0).ravel())

    patterns = [
        pattern(),
        pattern(step=1),
        pattern(generation=1),
        pattern(seed=1),
    ]
    assert len(set(patterns)) == 4
    assert pattern() == patterns[0]


def test_noise_is_new_in_every_microbatch():
    twice = jnp.tile(batch()["image"][:6], (2, 1, 1, 1))
    examples = batch(image=twice)
    before, _, metrics = take(Noised(), examples, loss=watch, microbatches=2, group=6)

    dense = before.params["dropout"]
    still = inputs(examples)[:6] @ np.asarray(dense["kernel"]) + np.asarray(
        dense["bias"]
    )
    # The mean over two microbatches of 0 or 2: 1 where they differ.
    ratio = np.round(np.asarray(metrics["labeled/dropout"]) / still, 3)
    assert np.any(ratio == 1)


def test_a_step_counts_itself_and_tells_the_rate_it_took():
    _, after, metrics = take(steps=3)

    assert int(after.step) == 3
    assert metrics["learning_rate"] == 0.25 + 2
    assert all(np.shape(value) == () for value in metrics.values())


def test_a_batch_of_labels_alone_has_no_pseudo_loss():
    examples = batch(stream=np.zeros(len(STREAM), np.int32))
    _, _, metrics = take(examples=examples)

    assert metrics["pseudo/loss"] == 0
    assert metrics["loss"] == metrics["labeled/loss"]


@pytest.mark.parametrize("normalization", WEIGHTS)
def test_the_first_teachers_loss_is_that_of_its_labels(tiny_student, normalization):
    from noisy_student_jax.generation import train as generation

    given = []
    for number in (0, 1):
        student = tiny_student(
            number,
            f"--config.train.loss_normalization={normalization}",
            "--config.train.ratio=2",
        )
        step, _ = generation.step_and_optimizer(generation.part(student))
        given.append(step.options)

    first, second = given
    assert total_loss(3.0, 0.0, first) == 3.0
    assert total_loss(3.0, 1.0, second) != 3.0
    assert second.ratio == 2.0


@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_schedules_are_told_of_the_labeled_batch_alone(
    tiny_student, monkeypatch, ratio
):
    from noisy_student_jax.generation import train as generation

    told = []
    schedule = generation.optimizers.make_schedule

    def noted(options, **times):
        told.append(times)
        return schedule(options, **times)

    monkeypatch.setattr(generation.optimizers, "make_schedule", noted)
    student = tiny_student(1, f"--config.train.ratio={ratio}")
    generation.step_and_state(generation.part(student))

    # Thirty labeled images, sixteen in a batch, twelve steps from the first.
    times = {"batch": 16, "steps": 12, "steps_per_epoch": 30 / 16, "start": 0}
    assert told == [times]

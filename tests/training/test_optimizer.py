"""Optimizers, schedules and weight decay, against the authors' arithmetic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from noisy_student_jax import models
from noisy_student_jax.models.initialize import abstract_variables
from noisy_student_jax.training import optimizer as optimizers
from noisy_student_jax.training.optimizer import OptimizerOptions

PAPER = {
    "optimizer": "rmsprop",
    "learning_rate": 0.016,
    "schedule": "exponential",
    "decay_epochs": 2.4,
    "decay_factor": 0.97,
    "warmup_epochs": 5.0,
    "momentum": 0.9,
    "weight_decay": 1e-5,
}
STEPS_PER_EPOCH = 1_281_167 / 2048


def options(**changes):
    return OptimizerOptions(**(PAPER | changes))


def schedule(batch=2048, steps=218_949, steps_per_epoch=STEPS_PER_EPOCH, **changes):
    return optimizers.make_schedule(
        options(**changes), batch=batch, steps=steps, steps_per_epoch=steps_per_epoch
    )


def tf1_rmsprop(weights, gradients, rates, momentum=0.9):
    """TensorFlow 1's ``ApplyRMSProp``, as its kernel has it."""
    mean_square = np.ones_like(weights)
    buffer = np.zeros_like(weights)
    for gradient, rate in zip(gradients, rates, strict=True):
        mean_square += (1 - 0.9) * (gradient**2 - mean_square)
        buffer = momentum * buffer + rate * gradient / np.sqrt(mean_square + 1e-3)
        weights = weights - buffer
        yield weights


def test_rmsprop_is_that_of_tensorflow_1_while_the_rate_changes():
    rng = np.random.default_rng(0)
    start = rng.normal(size=20)
    # Some gradients far below ε, where its place matters, and some far above.
    gradients = rng.normal(size=(12, 20)) * np.logspace(-3, 1, 20)
    rates = [0.1 * 0.5**step for step in range(12)]
    optimizer = optimizers.make_optimizer(
        options(), lambda step: jnp.asarray(rates, jnp.float32)[step]
    )

    weights = jnp.asarray(start, jnp.float32)
    state = optimizer.init(weights)
    for gradient, expected in zip(
        gradients, tf1_rmsprop(start, gradients, rates), strict=True
    ):
        updates, state = optimizer.update(
            jnp.asarray(gradient, jnp.float32), state, weights
        )
        weights = optax.apply_updates(weights, updates)
        np.testing.assert_allclose(weights, expected, rtol=2e-5, atol=2e-6)


def test_sgd_keeps_a_momentum_of_gradients():
    optimizer = optimizers.make_optimizer(
        options(optimizer="sgd", momentum=0.5), lambda step: jnp.asarray(0.1)
    )
    weights = jnp.zeros(1)
    state = optimizer.init(weights)

    for expected in (-0.1, -0.15, -0.175):
        updates, state = optimizer.update(jnp.ones(1), state, weights)
        assert updates[0] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("batch", "peak"), [(2048, 0.128), (4096, 0.256), (32, 0.002)])
def test_the_peak_is_0_016_for_256_labeled_images(batch, peak):
    rate = schedule(batch=batch, warmup_epochs=0.0)

    assert rate(0) == pytest.approx(peak, rel=1e-6)


def test_stairs_are_counted_from_step_0_and_not_from_the_end_of_the_warmup():
    rate = schedule(steps_per_epoch=100.0)

    # Warm-up ends at step 500, on the third stair of 240 steps.
    for step, stairs in ((500, 2), (719, 2), (720, 3), (959, 3), (960, 4)):
        assert rate(step) == pytest.approx(0.128 * 0.97**stairs, rel=1e-6), step


@pytest.mark.parametrize("steps_per_epoch", [100.0, 312.5, STEPS_PER_EPOCH, 1.875])
def test_a_stair_is_2_4_epochs_of_labeled_images(steps_per_epoch):
    rate = schedule(steps_per_epoch=steps_per_epoch, warmup_epochs=0.0)
    steps = np.arange(int(30 * 2.4 * steps_per_epoch))

    rates = jax.vmap(rate)(steps)

    stairs = np.floor(steps / (2.4 * steps_per_epoch) + 1e-9)
    np.testing.assert_allclose(rates, 0.128 * 0.97**stairs, rtol=1e-5)


def test_stairs_stay_exact_to_the_end_of_the_papers_training():
    rate = schedule()
    for stair in (10, 100, 145):
        edge = int(np.ceil(stair * 2.4 * STEPS_PER_EPOCH))
        assert rate(edge) == pytest.approx(0.128 * 0.97**stair, rel=1e-4)
        assert rate(edge - 1) == pytest.approx(0.128 * 0.97 ** (stair - 1), rel=1e-4)


@pytest.mark.parametrize("kind", ["exponential", "cosine", "constant"])
def test_the_warmup_is_a_line_from_zero_over_5_labeled_epochs(kind):
    rate = schedule(schedule=kind, steps_per_epoch=100.0)
    steps = np.arange(500)

    np.testing.assert_allclose(
        jax.vmap(rate)(steps), 0.128 * steps / 500, rtol=1e-6, atol=1e-9
    )
    assert rate(500) > rate(499) * 0.9


def test_a_training_of_twice_the_epochs_has_the_same_warmup():
    # B0 to B4: 700 epochs, stairs of 4.8, and still 5 epochs to the peak.
    rate = schedule(steps_per_epoch=100.0, steps=70_000, decay_epochs=4.8)

    assert rate(499) == pytest.approx(0.128 * 0.998, rel=1e-5)
    assert rate(500) == pytest.approx(0.128 * 0.97, rel=1e-5)


def test_the_cosine_goes_from_the_peak_to_zero():
    rate = schedule(schedule="cosine", warmup_epochs=0.0, steps=1000)

    assert rate(0) == pytest.approx(0.128, rel=1e-6)
    assert rate(250) == pytest.approx(0.128 * (1 + np.sqrt(0.5)) / 2, rel=1e-5)
    assert rate(500) == pytest.approx(0.064, rel=1e-5)
    assert rate(1000) == pytest.approx(0, abs=1e-9)
    assert 0 < rate(999) < 1e-6


def test_no_warmup_starts_at_the_peak():
    assert schedule(schedule="constant", warmup_epochs=0.0)(0) == pytest.approx(0.128)


@functools.cache
def parameters(name="efficientnet_b0"):
    module = models.create(name, outputs=10)
    params = abstract_variables(module, resolution=32)["params"]
    return {
        "/".join(part.key for part in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }, params


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_tiny_s"])
def test_all_decays_but_the_scale_and_bias_of_batch_norm(name):
    named, params = parameters(name)
    mask = {
        "/".join(part.key for part in path): decays
        for path, decays in jax.tree_util.tree_leaves_with_path(
            optimizers.decayed(params)
        )
    }

    assert mask.keys() == named.keys()
    kept = {path for path, decays in mask.items() if not decays}
    # Batch norm's are all that is called scale, and the biases beside them.
    scales = {path for path in named if path.endswith("/scale")}
    assert kept == scales | {path.replace("/scale", "/bias") for path in scales}
    biases = {path for path in named if path.endswith("/bias")} - kept
    assert "classifier/bias" in biases
    squeezing = [path for path in biases if "/se_" in path]
    assert len(squeezing) == 2 * sum("/se_reduce/kernel" in path for path in named) > 0
    assert len(biases) == len(squeezing) + 1


def test_flaxs_own_batch_norm_does_not_decay_either():
    params = {"BatchNorm_0": {"scale": 1.0, "bias": 2.0}, "Dense_0": {"bias": 3.0}}

    mask = optimizers.decayed(params)

    assert mask == {
        "BatchNorm_0": {"scale": False, "bias": False},
        "Dense_0": {"bias": True},
    }


def test_l2_is_half_the_sum_of_squares_of_what_decays():
    params = {
        "stem_conv": {"kernel": jnp.array([1.0, 2.0])},
        "stem_bn": {"scale": jnp.array([100.0]), "bias": jnp.array([100.0])},
        "classifier": {"kernel": jnp.array([[3.0]]), "bias": jnp.array([4.0])},
    }

    assert optimizers.l2(params) == pytest.approx((1 + 4 + 9 + 16) / 2)


def test_the_gradient_of_l2_is_each_weight_that_decays():
    large = jnp.arange(float(optimizers.JOINED)).reshape(2, -1)
    params = {
        "stem_conv": {"kernel": jnp.array([[1.0, -2.0]])},
        "head_conv": {"kernel": large},
        "stem_bn": {"scale": jnp.array([100.0]), "bias": jnp.array([100.0])},
        "classifier": {"kernel": jnp.array([[3.0]]), "bias": jnp.array([4.0])},
    }

    found = jax.grad(lambda p: 5 * optimizers.l2(p, frozen=("classifier",)))(params)

    decays = optimizers.decayed(params, frozen=("classifier",))
    expected = jax.tree.map(lambda w, decays: 5 * w * float(decays), params, decays)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("optimizer", "in_loss"), [("rmsprop", True), ("sgd", True), ("adamw", False)]
)
def test_only_adamw_decays_apart_from_the_loss(optimizer, in_loss):
    assert options(optimizer=optimizer).decay_in_loss is in_loss


def test_adamw_decays_decoupled_and_leaves_batch_norm_alone():
    optimizer = optimizers.make_optimizer(
        options(optimizer="adamw", weight_decay=0.1), lambda step: jnp.asarray(0.5)
    )
    params = {
        "classifier": {"kernel": jnp.array([2.0])},
        "head_bn": {"scale": jnp.array([2.0])},
    }

    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)

    # −rate · λ · w, whatever the gradient's statistics say.
    assert updates["classifier"]["kernel"] == pytest.approx(-0.5 * 0.1 * 2)
    assert updates["head_bn"]["scale"] == 0


def test_options_come_from_the_config_by_name():
    section = PAPER | {"batch": 7, "targets": "soft"}

    assert OptimizerOptions.from_config(section) == options()

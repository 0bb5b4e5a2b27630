"""Layers with gradients of their own, against Flax's and automatic ones."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax import models
from noisy_student_jax.models import cost
from noisy_student_jax.models.initialize import initialize
from noisy_student_jax.models.layers import batch_norm, convolution


class Norm(nn.Module):
    implementation: str
    activation: object
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, values):
        return batch_norm(
            values,
            self.activation,
            train=True,
            momentum=0.75,
            epsilon=1e-3,
            dtype=self.dtype,
            implementation=self.implementation,
            name="norm",
        )


class Convolution(nn.Module):
    implementation: str
    bias: bool
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, images):
        return convolution(
            7,
            bias=self.bias,
            dtype=self.dtype,
            implementation=self.implementation,
            name="conv",
        )(images)


@functools.partial(jax.jit, static_argnums=0)
def train(module, variables, values):
    """Returns the output, what is updated, and the gradients of some loss."""

    def loss(params, values):
        out, updated = module.apply(
            {**variables, "params": params}, values, mutable=["batch_stats"]
        )
        weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return jnp.sum(jnp.sin(out.astype(jnp.float32)) * weights), (out, updated)

    gradient, (out, updated) = jax.grad(loss, (0, 1), has_aux=True)(
        variables["params"], values
    )
    return out, updated, gradient


def assert_close(left, right, relative):
    def close(a, b):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=relative * max(np.abs(b).max(), 1e-2))

    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(close, left, right)


def moved(variables):
    """Away from ones and zeros, so that every parameter matters."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + 0.5 * rng.random(x.shape, np.float32), variables)


def levels(shape, level=0.0, dtype=jnp.float32):
    values = np.random.default_rng(0).standard_normal(shape) + level
    return jnp.asarray(values, dtype)


@pytest.mark.parametrize("activation", [jax.nn.swish, jax.nn.relu6, None])
@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (6, 5)], ids=str)
def test_batch_norm_is_flaxs_with_the_activation_after_it(shape, activation):
    values = levels(shape, level=3.0)
    own, flax = (Norm(kind, activation) for kind in ("own", "flax"))
    variables = moved(flax.init(jax.random.key(0), values))
    actual = train(own, variables, values)
    assert_close(actual, train(flax, variables, values), 3e-5)


def test_batch_norm_in_bfloat16_computes_in_float32():
    values = levels((8, 5, 5, 4), level=20.0, dtype=jnp.bfloat16)
    own = Norm("own", jax.nn.swish, jnp.bfloat16)
    variables = moved(own.init(jax.random.key(0), values))
    out, updated, _ = train(own, variables, values)
    assert out.dtype == jnp.bfloat16
    exact = np.asarray(values, np.float64).reshape(-1, 4)
    held = variables["batch_stats"]["norm"]
    for name, seen in (("mean", exact.mean(0)), ("var", exact.var(0))):
        got = updated["batch_stats"]["norm"][name]
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, 0.75 * held[name] + 0.25 * seen, rtol=1e-3)


def test_batch_norm_without_spread_stays_finite():
    # E[x²] − E[x]² falls below zero here, but for the clip.
    values = np.full((6, 3, 3, 5), 1000.1, np.float32)
    values[:, 0] += 0.01
    own = Norm("own", jax.nn.swish)
    variables = own.init(jax.random.key(0), values)
    leaves = jax.tree.leaves(train(own, variables, jnp.asarray(values)))
    assert all(np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_of_one_pixel_is_flaxs(bias, dtype):
    images = levels((3, 4, 5, 6))
    own, flax = (Convolution(kind, bias, dtype) for kind in ("own", "flax"))
    variables = moved(flax.init(jax.random.key(0), images))
    drawn = own.init(jax.random.key(0), images)
    jax.tree.map(
        np.testing.assert_array_equal, drawn, flax.init(jax.random.key(0), images)
    )
    precision = 1e-5 if dtype == jnp.float32 else 2e-2
    actual = train(own, variables, images)
    assert_close(actual, train(flax, variables, images), precision)


@pytest.mark.parametrize(
    ("side", "kernel", "stride"), [(8, 3, 2), (7, 3, 2), (8, 3, 1), (9, 5, 3)]
)
# Narrow ones are computed in another way.
@pytest.mark.parametrize("channels", [5, 32])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
def test_the_stem_is_flaxs_convolution(side, kernel, stride, channels, dtype):
    images = levels((2, side, side + 1, 3))

    class Stem(nn.Module):
        implementation: str

        @nn.compact
        def __call__(self, images):
            return convolution(
                channels,
                kernel=kernel,
                stride=stride,
                dtype=dtype,
                implementation=self.implementation,
                name="stem_conv",
            )(images)

    own, flax = Stem("own"), Stem("flax")
    variables = flax.init(jax.random.key(0), images)
    drawn = own.init(jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, drawn, variables)
    precision = 1e-5 if dtype == jnp.float32 else 2e-2
    wanted = train(flax, variables, images)
    assert_close(train(own, variables, images), wanted, precision)


@functools.cache
def model(layers, remat=False):
    return models.create(
        "efficientnet_test",
        outputs=3,
        dropout_rate=0.0,
        stochastic_depth=0.0,
        layers=layers,
        remat=remat,
    )


@functools.partial(jax.jit, static_argnums=0)
def gradients(module, variables, images):
    def loss(params):
        outputs, updated = module.apply(
            {**variables, "params": params},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.sum(jnp.sin(outputs["logits"])), (outputs["logits"], updated)

    return jax.grad(loss, has_aux=True)(variables["params"])


@pytest.mark.parametrize("remat", [False, True])
def test_a_model_of_own_layers_is_that_of_flaxs(remat):
    variables = moved(initialize(model("flax"), resolution=8, seed=0))
    images = levels((6, 8, 8, 3))
    actual = gradients(model("own", remat), variables, images)
    assert_close(actual, gradients(model("flax"), variables, images), 1e-4)


@pytest.mark.parametrize(("backend", "layers"), [("cpu", "own"), ("tpu", "flax")])
def test_layers_left_open_are_chosen_by_backend(monkeypatch, backend, layers):
    images = levels((2, 8, 8, 3))
    variables = initialize(model("flax"), resolution=8, seed=0)

    def lowered(module):
        # Not `gradients` itself, which would not be traced anew.
        function = functools.partial(gradients.__wrapped__, module)
        return jax.jit(lambda *given: function(*given)).lower(variables, images)

    expected = lowered(model(layers)).as_text()
    monkeypatch.setattr(jax, "default_backend", lambda: backend)

    assert lowered(model("auto")).as_text() == expected


def test_own_layers_keep_half_of_what_automatic_differentiation_keeps():
    own, flax = (
        cost.activation_bytes(model(layers), resolution=8) for layers in ("own", "flax")
    )
    assert own < 0.55 * flax

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from noisy_student_jax.models import depthwise
from noisy_student_jax.models.depthwise import depthwise_conv

CASES = [
    # batch, height, width, channels, kernel, stride
    (2, 8, 8, 3, 3, 1),
    (2, 8, 8, 3, 3, 2),
    (2, 7, 9, 3, 3, 2),
    (2, 8, 6, 2, 5, 2),
    (1, 9, 5, 2, 5, 2),
    (1, 5, 5, 4, 5, 1),
    (1, 2, 1, 2, 5, 2),
]


def make(case, dtype=jnp.float32):
    batch, height, width, channels, size, _ = case
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, height, width, channels))
    kernel = rng.standard_normal((size, size, 1, channels))
    return jnp.asarray(images, dtype), jnp.asarray(kernel, dtype)


def value_and_gradients(implementation, stride, wrap=lambda f: f):
    def loss(images, kernel):
        conv = wrap(
            lambda x, w: depthwise_conv(
                x, w, stride=stride, implementation=implementation
            )
        )
        out = conv(images, kernel)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    def both(images, kernel):
        (_, out), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            images, kernel
        )
        return (out, *gradients)

    return both


def assert_close(left, right, relative=1e-5):
    for a, b in zip(left, right, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=relative * max(np.abs(b).max(), 1e-3))


@pytest.mark.parametrize("implementation", ["shifted", "auto"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_both_gradients_equal_the_grouped_convolution(case, implementation):
    arrays, stride = make(case), case[-1]
    expected = jax.jit(value_and_gradients("grouped", stride))(*arrays)
    assert_close(
        jax.jit(value_and_gradients(implementation, stride))(*arrays), expected
    )


def test_an_even_image_is_padded_only_at_its_far_edge_when_the_stride_is_two():
    images = jnp.arange(16.0).reshape(1, 4, 4, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)
    for implementation in ("grouped", "shifted", "auto"):
        out = depthwise_conv(images, kernel, stride=2, implementation=implementation)
        np.testing.assert_array_equal(out[0, :, :, 0], [[0, 2], [8, 10]])


def test_bfloat16_images_with_a_float32_kernel_keep_both_dtypes():
    images, _ = make((2, 6, 6, 4, 5, 2), jnp.bfloat16)
    _, kernel = make((2, 6, 6, 4, 5, 2))
    expected = value_and_gradients("grouped", 2)(images, kernel)
    out, to_images, to_kernel = value_and_gradients("shifted", 2)(images, kernel)
    assert (out.dtype, to_images.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert to_kernel.dtype == jnp.float32
    assert_close((out, to_images, to_kernel), expected, relative=2e-2)


def test_it_works_under_rematerialisation():
    case = (2, 6, 6, 3, 3, 2)
    expected = value_and_gradients("grouped", 2)(*make(case))
    actual = jax.jit(value_and_gradients("auto", 2, jax.checkpoint))(*make(case))
    assert_close(actual, expected)


def test_it_works_under_vmap_over_images_and_over_kernels():
    images, kernel = make((2, 6, 6, 3, 3, 2))
    images, kernels = images[:, None], jnp.stack([kernel, -2 * kernel])
    run = {
        name: jax.jit(jax.vmap(value_and_gradients(name, 2)))(images, kernels)
        for name in ("auto", "grouped")
    }
    assert_close(run["auto"], run["grouped"])


def test_it_works_with_the_batch_sharded_over_a_mesh():
    devices = jax.device_count()
    case = (2 * devices, 6, 6, 3, 3, 2)
    images, kernel = make(case)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    replicated = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    actual = jax.jit(value_and_gradients("auto", 2))(sharded, replicated)
    assert_close(actual, value_and_gradients("grouped", 2)(images, kernel))


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="implementation"):
        depthwise_conv(*make(CASES[0]), implementation="fast")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernels_gradient_is_the_same_row_by_row_and_tap_by_tap(case):
    images, kernel = make(case)
    stride = case[-1]
    out = jax.eval_shape(lambda *a: depthwise_conv(*a, stride=stride), images, kernel)
    gradient = jnp.asarray(np.random.default_rng(1).standard_normal(out.shape))
    rows, taps = (
        jax.jit(way, static_argnums=3)(gradient, images, kernel, stride)
        for way in (
            depthwise._kernel_gradient_by_rows,
            depthwise._kernel_gradient_by_taps,
        )
    )
    assert_close((rows,), (taps,))

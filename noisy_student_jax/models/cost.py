"""Cost of a model, from an abstract forward pass that computes nothing.

It supports any Linen module with the call signature of this package's models.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from noisy_student_jax.core import random_keys
from noisy_student_jax.models.initialize import (
    abstract_variables,
    arguments,
    with_grouped_convolutions,
)
from noisy_student_jax.models.onnx_backbone import opened


def parameter_count(module: nn.Module, *, resolution: int, channels: int = 3) -> int:
    """Returns the number of trainable parameters (no batch statistics)."""
    variables = abstract_variables(module, resolution=resolution, channels=channels)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def forward_flops(module: nn.Module, *, resolution: int, channels: int = 3) -> int:
    """Returns the FLOPs of one image's forward pass, counted as in `flops`.

    Backbones whose features the host computes are counted too.
    """
    module = with_grouped_convolutions(module)
    variables = abstract_variables(module, resolution=resolution, channels=channels)
    counted = flops(
        functools.partial(module.apply, train=False),
        variables,
        _images(1, resolution, channels),
    )
    members = getattr(module, "outside", ())
    return counted + sum(opened(member).flops(resolution) for member in members)


def flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the FLOPs of a function of arrays or their shapes.

    A multiply–add of a convolution or matrix product counts as two; other operations
    (batch norm, activations, pooling) are ignored. The most expensive branch of a
    conditional counts; a loop of unknown length counts once.
    """
    return 2 * _multiplications(jax.make_jaxpr(function)(*arguments).jaxpr)


def activation_bytes(module: nn.Module, *, resolution: int, channels: int = 3) -> int:
    """Estimates the activation memory in bytes that training needs per image.

    It counts the residuals that differentiation stores for the backward pass, in the
    module's own dtype and with its `remat`, before the compiler fuses anything. It
    excludes memory that does not grow with the batch (parameters, optimizer,
    workspace), and the temporaries of the backward pass of a layer, or with `remat` of
    a block (see `memory.HELD`).
    """
    module = with_grouped_convolutions(module)
    variables = abstract_variables(module, resolution=resolution, channels=channels)
    # The smallest batch that batch norm supports.
    group = getattr(arguments(module), "batch_norm_group", 0) or 1
    less, more = (
        _residual_bytes(module, variables, _images(batch, resolution, channels))
        for batch in (group, 2 * group)
    )
    return (more - less) // group


def _images(batch: int, resolution: int, channels: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, resolution, resolution, channels), jnp.float32)


def _residual_bytes(
    module: nn.Module, variables: Any, images: jax.ShapeDtypeStruct
) -> int:
    def pullback(variables: dict[str, Any], images: jax.Array) -> Any:
        rest = {key: value for key, value in variables.items() if key != "params"}
        streams = {name: random_keys.key(0) for name in ("dropout", "stochastic_depth")}

        def forward(parameters: Any) -> Any:
            return module.apply(
                {"params": parameters, **rest},
                images,
                train=True,
                rngs=streams,
                mutable=list(rest),
            )

        return jax.vjp(forward, variables["params"])[1]

    # The pullback is a pytree whose leaves are the residuals.
    kept = jax.eval_shape(pullback, variables, images)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


def _multiplications(jaxpr: Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    parameters = equation.params
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[parameters["dimension_numbers"].rhs_spec[0]]
        return equation.outvars[0].aval.size * math.prod(kernel) // outputs
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return equation.outvars[0].aval.size * math.prod(left[i] for i in contracted)
    if equation.primitive.name == "cond":
        return max(_multiplications(b.jaxpr) for b in parameters["branches"])
    times = parameters["length"] if equation.primitive.name == "scan" else 1
    return times * sum(_multiplications(inner) for inner in _inner(parameters))


def _inner(parameters: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in parameters.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value

"""Parameter initialization on the host.

Compiling a model's ``init`` takes ten times as long as drawing its values. So layers
of this package describe the distribution of a parameter by an `Initializer`; an
abstract run of ``init`` returns it together with the parameter's shape; and NumPy draws
the values. Every parameter has its own generator, keyed by the seed, the generation and
its path, so values do not depend on the order of layers.

User-defined modules with ordinary initializer functions work as well: their ``init``
is compiled and run.
"""

import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike

from noisy_student_jax.core import random_keys
from noisy_student_jax.core.model_arguments import ModelArguments
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.models.depthwise import IMPLEMENTATIONS

Shape = tuple[int, ...]

_marking: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "marking", default=False
)
# Initial running statistics of `flax.linen.BatchNorm`, by name.
_STATISTICS = {"mean": 0.0, "var": 1.0}


@dataclasses.dataclass(frozen=True)
class Initializer:
    """Distribution of a parameter, callable by Flax and drawable on the host.

    Attributes:
      kind: "normal" (zero mean), "uniform" (around zero) or "constant".
      scale: maps the parameter's shape to the standard deviation, the bound or the
        value, respectively.
    """

    kind: str
    scale: Callable[[Shape], float]

    def __call__(
        self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32
    ) -> Any:
        """Draws values with JAX, like Flax's own initializers."""
        shape = tuple(shape)
        scale = self.scale(shape)
        if _marking.get():
            return _Marked(jnp.zeros(shape, dtype), self)
        if self.kind == "normal":
            return scale * jax.random.normal(key, shape, dtype)
        if self.kind == "uniform":
            return jax.random.uniform(key, shape, dtype, -scale, scale)
        return jnp.full(shape, scale, dtype)

    def draw(self, generator: np.random.Generator, shape: Shape) -> np.ndarray:
        """Draws float32 values of the given shape with NumPy."""
        scale = np.float32(self.scale(shape))
        if self.kind == "normal":
            return generator.standard_normal(shape, np.float32) * scale
        if self.kind == "uniform":
            return (generator.random(shape, np.float32) * 2 - 1) * scale
        return np.full(shape, scale, np.float32)


def _convolution_deviation(shape: Shape) -> float:
    height, width, _, outputs = shape
    return math.sqrt(2 / (height * width * outputs))


def _depthwise_deviation(shape: Shape) -> float:
    # The authors' kernel is [k, k, channels, 1], so their fan-out is k² alone.
    height, width, _, _ = shape
    return math.sqrt(2 / (height * width))


def _dense_bound(shape: Shape) -> float:
    return 1 / math.sqrt(shape[1])


# `efficientnet_builder.py` and `efficientnet_model.py` of the authors' code: normals
# are not truncated, and no batch-norm scale starts at zero.
CONVOLUTION = Initializer("normal", _convolution_deviation)
DEPTHWISE = Initializer("normal", _depthwise_deviation)
DENSE = Initializer("uniform", _dense_bound)
ZEROS = Initializer("constant", lambda _: 0.0)
ONES = Initializer("constant", lambda _: 1.0)


class _Marked(struct.PyTreeNode, nn.meta.AxisMetadata):
    """A box of a parameter and its initializer; Flax unboxes it for the layer."""

    value: Any
    rule: Initializer | None = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "_Marked":
        return self.replace(value=val)

    def add_axis(self, index: int, params: Any) -> "_Marked":
        # The rule reads the shape of one layer, not of a stack of them.
        return self.replace(rule=None)

    def remove_axis(self, index: int, params: Any) -> "_Marked":
        return self.replace(rule=None)


@contextlib.contextmanager
def _marks() -> Iterator[None]:
    token = _marking.set(True)
    try:
        yield
    finally:
        _marking.reset(token)


def abstract_variables(
    module: nn.Module, *, resolution: int, channels: int = 3
) -> PyTree:
    """Returns the shapes and dtypes of a module's variables, computing nothing.

    Args:
      module: any Linen module whose call takes images ``[batch, height, width,
        channels]``.
      resolution: height and width of the images.
      channels: of the images.

    Returns:
      The tree of variables, with a `jax.ShapeDtypeStruct` for each array.
    """
    return nn.meta.unbox(_traced(module, resolution, channels)[1])


def abstract_outputs(module: nn.Module, *, resolution: int, channels: int = 3) -> Any:
    """Returns the shapes and dtypes of a module's outputs for one image.

    See `abstract_variables`.
    """
    return _traced(module, resolution, channels)[0]


def with_grouped_convolutions(module: nn.Module) -> nn.Module:
    """Returns a module whose depthwise convolutions are XLA convolutions.

    The variables are the same. Sums of shifted slices are many operations, which take
    long to trace and would not be counted. Features that the host computes are blank.
    """
    if hasattr(module, "blank"):
        module = module.clone(blank=True)
    given = arguments(module)
    if getattr(given, "depthwise", None) not in IMPLEMENTATIONS:
        return module
    if not isinstance(given, ModelArguments):
        return module.clone(depthwise="grouped")
    grouped = dataclasses.replace(given, depthwise="grouped")
    return module.clone(arguments=grouped)


def arguments(module: nn.Module) -> nn.Module | ModelArguments:
    """Returns the `ModelArguments` of a module; the module itself if it has none."""
    held = getattr(module, "arguments", None)
    return held if isinstance(held, ModelArguments) else module


def _traced(module: nn.Module, resolution: int, channels: int) -> tuple[Any, PyTree]:
    """Returns the shapes of outputs, and of variables boxed with their initializers."""
    module = with_grouped_convolutions(module)
    try:
        hash(module)
    except TypeError:
        # A user-defined module that is not hashable.
        return _shapes(module, resolution, channels)
    return _remembered(module, resolution, channels)


def _shapes(module: nn.Module, resolution: int, channels: int) -> tuple[Any, PyTree]:
    images = jax.ShapeDtypeStruct((1, resolution, resolution, channels), jnp.float32)
    with _marks():
        return jax.eval_shape(
            lambda x: module.init_with_output(random_keys.key(0), x), images
        )


_remembered = functools.lru_cache(maxsize=16)(_shapes)


def initialize(
    module: nn.Module,
    *,
    resolution: int,
    channels: int = 3,
    seed: int,
    generation: int = 0,
) -> PyTree:
    """Returns initial variables of a module, on the host.

    Args:
      module: any Linen module whose call takes images ``[batch, height, width,
        channels]``. If some parameter's initializer is not an `Initializer`,
        ``module.init`` is compiled and run instead (slow for a large model).
      resolution: height and width of the images.
      channels: of the images.
      seed: the run's seed.
      generation: 0 for the first teacher. Generations start from different values.

    Returns:
      ``{"params": …, "batch_stats": …}``: nested dictionaries of NumPy arrays,
      float32 for every module of this package.
    """
    _, marked = _traced(module, resolution, channels)
    leaves, tree = jax.tree_util.tree_flatten_with_path(
        marked, is_leaf=lambda leaf: isinstance(leaf, _Marked)
    )
    found = [_rule(path, leaf) for path, leaf in leaves]
    rules = [rule for rule in found if rule is not None]
    if len(rules) < len(found):
        return _compiled(module, resolution, channels, seed, generation)
    values = [
        rule.draw(_generator(seed, generation, path), nn.meta.unbox(leaf).shape)
        for rule, (path, leaf) in zip(rules, leaves, strict=True)
    ]
    return jax.tree_util.tree_unflatten(tree, values)


def _rule(path: tuple[Any, ...], leaf: Any) -> Initializer | None:
    if isinstance(leaf, _Marked):
        return leaf.rule
    if path[0].key == "batch_stats" and path[-1].key in _STATISTICS:
        value = _STATISTICS[path[-1].key]
        return Initializer("constant", lambda _: value)
    return None


def _generator(
    seed: int, generation: int, path: tuple[Any, ...]
) -> np.random.Generator:
    name = "/".join(str(part.key) for part in path)
    digest = hashlib.sha256(f"{seed}/{generation}/{name}".encode()).digest()
    key = int.from_bytes(digest[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))


def _compiled(
    module: nn.Module, resolution: int, channels: int, seed: int, generation: int
) -> PyTree:
    key = jax.random.fold_in(random_keys.key(seed), generation)
    images = jnp.zeros((1, resolution, resolution, channels))
    variables = nn.meta.unbox(jax.jit(module.init)(key, images))
    return jax.tree_util.tree_map(np.array, variables)

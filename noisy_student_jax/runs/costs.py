"""Parameters, FLOPs and activation memory of models, computed once for each model."""

import dataclasses
import functools

import flax.linen as nn
import jax

from noisy_student_jax.core.types import PyTree
from noisy_student_jax.models import cost
from noisy_student_jax.models.initialize import abstract_outputs, abstract_variables
from noisy_student_jax.runs.spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """Costs of a model. Each figure is computed on first access.

    Attributes:
      model: the model.
    """

    model: ModelSpec

    @functools.cached_property
    def shapes(self) -> PyTree:
        """Shapes and dtypes of the variables."""
        return abstract_variables(self._module, resolution=self.model.resolution)

    @functools.cached_property
    def outputs(self) -> PyTree:
        """Shapes and dtypes of the outputs for one view of an image."""
        return abstract_outputs(self._module, resolution=self.model.resolution)

    @functools.cached_property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes["params"]))

    @functools.cached_property
    def flops(self) -> int:
        """FLOPs of one forward pass of one view of an image."""
        return cost.forward_flops(self._module, resolution=self.model.resolution)

    @functools.cached_property
    def activation_bytes(self) -> int:
        """Bytes of activations that one image adds in training."""
        return cost.activation_bytes(self._module, resolution=self.model.resolution)

    @functools.cached_property
    def _module(self) -> nn.Module:
        return self.model.in_views(1).module


class Costs:
    """A cache of model costs: tracing a large model takes seconds."""

    def __init__(self) -> None:
        """Starts empty."""
        self._known: dict[tuple, ModelCost] = {}

    def of(self, model: ModelSpec) -> ModelCost:
        """Returns a model's cost, shared by all models with the same key."""
        return self._known.setdefault(model.key, ModelCost(model))

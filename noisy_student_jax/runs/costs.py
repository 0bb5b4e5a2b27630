"""What a model costs: parameters, FLOPs, activations; worked out once for each."""

import dataclasses
import functools

import jax

from noisy_student_jax.core.types import PyTree
from noisy_student_jax.models import cost
from noisy_student_jax.models.initialize import abstract_variables
from noisy_student_jax.runs.spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """What a model costs. Each figure is worked out when it is first asked for.

    Attributes:
      model: in question.
    """

    model: ModelSpec

    @functools.cached_property
    def shapes(self) -> PyTree:
        """Its variables, as shapes and dtypes."""
        return abstract_variables(self.model.module, resolution=self.model.resolution)

    @functools.cached_property
    def parameters(self) -> int:
        """Number of its parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes["params"]))

    @functools.cached_property
    def flops(self) -> int:
        """FLOPs of one forward pass of one image."""
        return cost.forward_flops(self.model.module, resolution=self.model.resolution)

    @functools.cached_property
    def activation_bytes(self) -> int:
        """Bytes that one more image takes in training."""
        return cost.activation_bytes(
            self.model.module, resolution=self.model.resolution
        )


class Costs:
    """The costs of models, remembered: a large one takes seconds to go through."""

    def __init__(self) -> None:
        """Knows none yet."""
        self._known: dict[tuple, ModelCost] = {}

    def of(self, model: ModelSpec) -> ModelCost:
        """Returns a model's cost: one for all that cost the same."""
        return self._known.setdefault(model.key, ModelCost(model))

"""The training state, and moving averages."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from noisy_student_jax.core import random_keys
from noisy_student_jax.core.types import PyTree


class TrainState(flax.struct.PyTreeNode):
    """The content of a checkpoint; with the config, it determines how training resumes.

    Attributes:
      step: int32, number of completed steps.
      params: raw weights.
      batch_stats: raw moving statistics of batch norm.
      ema_params: moving average of `params`, used for evaluation and as the teacher.
      ema_batch_stats: moving average of `batch_stats`.
      opt_state: state of the optimizer.
      noise_key: uint32 ``[2]``, folded with the step to key the model's noise.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    ema_params: PyTree
    ema_batch_stats: PyTree
    opt_state: PyTree
    noise_key: jax.Array

    @classmethod
    def create(
        cls,
        variables: PyTree,
        optimizer: optax.GradientTransformation,
        *,
        seed: int,
        generation: int,
    ) -> "TrainState":
        """Creates a state from initial variables ``{"params", "batch_stats"}``."""
        given = variables["params"], variables.get("batch_stats", {})
        # Copies: the step donates its state, and a buffer can be donated only once.
        (params, batch_stats), (ema_params, ema_batch_stats) = _twice(given)
        key = jax.random.fold_in(random_keys.key(seed), generation)
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            ema_params=ema_params,
            ema_batch_stats=ema_batch_stats,
            # One program instead of one per shape.
            opt_state=jax.jit(optimizer.init)(params),
            noise_key=jnp.copy(jax.random.key_data(key)),
        )

    @property
    def raw_variables(self) -> PyTree:
        """Raw weights and batch statistics as Flax variables."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def ema_variables(self) -> PyTree:
        """Averaged weights and batch statistics as Flax variables."""
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}


@jax.jit
def _twice(tree: PyTree) -> tuple[PyTree, PyTree]:
    # One program instead of one per shape, as separate copies would be.
    return jax.tree.map(jnp.copy, tree), jax.tree.map(jnp.copy, tree)


def ema_decay(decay: float, updates: jax.Array) -> jax.Array:
    """Returns ``min(decay, (1 + t) / (10 + t))``, the ramp of TensorFlow's EMA."""
    updates = jnp.asarray(updates, jnp.float32)
    return jnp.minimum(decay, (1 + updates) / (10 + updates))


def ema_update(average: PyTree, value: PyTree, decay: jax.Array) -> PyTree:
    """Updates a moving average with a value."""
    return jax.tree.map(lambda a, v: a + (1 - decay) * (v - a), average, value)

"""Compilation of the training step in the background."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from noisy_student_jax.core import sharding as partitioning
from noisy_student_jax.core.types import Batch, PyTree
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import (
    Metrics,
    TrainStep,
    jit_halves,
    jit_train_step,
)


class StepProgram:
    """A training step compiled ahead of time from the shapes of its arguments.

    The constructor traces the step. Compiling it, or loading it from JAX's compilation
    cache, overlaps state and input setup; the first step blocks until it finishes.

    On a single CPU the step is two programs, gradients and update. A third of the
    compile time goes to loops of the optimizer and the moving averages, four for each
    array shape; it starts before the model is traced.

    Compilation cannot be canceled: a process that exits meanwhile waits for it.

    Attributes:
      held: shardings of the state.
    """

    def __init__(
        self,
        step: TrainStep,
        mesh: Mesh,
        *,
        state: TrainState,
        batch: Batch,
        taught_by: PyTree | None = None,
        shard_state: bool = False,
    ):
        """Traces the step and starts to compile it.

        Args:
          step: the step to compile.
          mesh: devices.
          state: a state, or its shapes.
          batch: a batch, or its shapes.
          taught_by: variables of the teacher that labels within the step; replicated,
            and passed to every step.
          shard_state: whether the state is sharded instead of replicated.
        """
        self.held = partitioning.state_sharding(state, mesh, sharded=shard_state)
        whole, spread = partitioning.replicated(mesh), partitioning.along_batch(mesh)
        self._fixed = () if taught_by is None else (jax.device_put(taught_by, whole),)
        taught = bool(self._fixed)
        self._jitted = jit_train_step(
            step, mesh, taught=taught, state_sharding=self.held
        )
        state, batch = _shapes(state, self.held), _shapes(batch, spread)
        given = state, batch, *(_shapes(one, whole) for one in self._fixed)
        self._foreseen: Any = _kinds((state, batch))
        self._take: Callable[..., Any]
        if mesh.size > 1 or mesh.devices.flat[0].platform != "cpu":
            self._take = _compiled(self._jitted, given)
            return
        jitted_gradients, jitted_update = jit_halves(step, mesh, taught=taught)
        made = state.params, state.batch_stats
        # The update traces quickly and compiles while the gradients are traced.
        update = _compiled(jitted_update, (state, *made))
        gradients = _compiled(jitted_gradients, given)
        self._take = _one_after_the_other(gradients, update)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Trains one step; the state is donated."""
        if self._foreseen is not None:
            if _kinds((state, batch)) != self._foreseen:
                # A user-defined task makes targets of other shapes or dtypes.
                self._take = self._jitted
            self._foreseen = None
        return self._take(state, batch, *self._fixed)


def _one_after_the_other(
    gradients: Callable[..., Any], update: Callable[..., Any]
) -> Callable[..., Any]:
    def step(state: TrainState, *given: PyTree) -> tuple[TrainState, Metrics]:
        gradient, batch_stats, measured = gradients(state, *given)
        state, further = update(state, gradient, batch_stats)
        return state, measured | further

    return step


def _compiled(jitted: Any, given: tuple[PyTree, ...]) -> Callable[..., Any]:
    """Compiles a jitted function in a thread, which the first call waits for."""
    # Traced here, not in the thread: only one thread can trace at a time.
    lowered = jitted.lower(*given)
    thread = concurrent.futures.ThreadPoolExecutor(1, "compile")
    program = thread.submit(lowered.compile)
    thread.shutdown(wait=False)
    return lambda *given: program.result()(*given)


def _shapes(tree: PyTree, sharding: PyTree) -> PyTree:
    """Returns the shapes of arrays with their shardings: one for all, or a tree."""

    def shape(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda array: shape(array, sharding), tree)
    return jax.tree.map(shape, tree, sharding)


def _kinds(tree: PyTree) -> PyTree:
    """Returns the structure, shapes and dtypes of a tree, to compare trees by."""
    kinds = jax.tree.map(lambda array: (array.shape, str(array.dtype)), tree)
    return jax.tree.leaves(kinds), jax.tree.structure(kinds)

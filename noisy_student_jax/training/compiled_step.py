"""Compilation of the training step in the background, or loading it from a cache."""

import concurrent.futures
import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from noisy_student_jax.core import kept_programs
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

    The constructor traces the step, unless it is cached. Compilation, or loading from
    the cache, overlaps state and input setup; the first step blocks until it finishes.

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
        reuse: bool = True,
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
          reuse: whether to load programs that an earlier process compiled
            (`kept_programs`), and to cache them for later ones.
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
        program = functools.partial(_Program, mesh=mesh, reuse=reuse)
        self._take: Callable[..., Any]
        if mesh.size > 1 or mesh.devices.flat[0].platform != "cpu":
            self._take = program(step, self._jitted, given, (state,))
            return
        jitted_gradients, jitted_update = jit_halves(step, mesh, taught=taught)
        made = state.params, state.batch_stats
        # The update traces quickly and compiles while the gradients are traced.
        update = program(step.update, jitted_update, (state, *made), (state,))
        gradients = program(step.gradients, jitted_gradients, given, made)
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


class _Program:
    """A function whose last output is metrics, compiled or loaded in a thread."""

    def __init__(
        self,
        function: Callable[..., Any],
        jitted: Any,
        given: tuple[PyTree, ...],
        made: tuple[PyTree, ...],
        *,
        mesh: Mesh,
        reuse: bool,
    ):
        """Traces the function, unless its program is cached.

        Args:
          function: the function to trace, which determines the cache key.
          jitted: the same function under `jax.jit`.
          given: shapes of its arguments.
          made: shapes of its outputs before the metrics.
          mesh: devices.
          reuse: see `StepProgram`.
        """
        self._jitted, self._given, self._made = jitted, given, made
        self._devices = list(mesh.devices.flat)
        self._name = (
            kept_programs.name(function, given, self._devices) if reuse else None
        )
        self._may_be_kept = False
        if self._name and kept_programs.has(self._name):
            begin = functools.partial(self._found, self._name)
        else:
            # Traced here, not in the thread: only one thread can trace at a time.
            begin = functools.partial(self._compiled, jitted.lower(*given))
        thread = concurrent.futures.ThreadPoolExecutor(1, "compile")
        self._begun = thread.submit(begin)
        thread.shutdown(wait=False)
        self._program: jax.stages.Compiled | None = None

    def __call__(self, *given: PyTree) -> Any:
        """Calls the program; the first call waits for it."""
        if self._program is not None:
            return self._program(*given)
        self._program = self._begun.result()
        try:
            made = jax.block_until_ready(self._program(*given))
        except jax.errors.JaxRuntimeError:
            # The program may be at fault: the next process must not load it again.
            if self._name:
                kept_programs.forget(self._name)
            raise
        if self._may_be_kept:
            kept = self._name, self._program, sorted(made[-1])
            # In the background: nothing depends on it.
            threading.Thread(target=kept_programs.keep, args=kept).start()
        return made

    def _found(self, name: str) -> jax.stages.Compiled:
        def outputs(metrics: list[str]) -> Any:
            return jax.tree.structure((*self._made, dict.fromkeys(metrics, 0)))

        inputs = jax.tree.structure((self._given, {}))
        found = kept_programs.find(name, self._devices, inputs, outputs)
        return found or self._compiled(self._jitted.lower(*self._given))

    def _compiled(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        if not self._name:
            return lowered.compile()
        made, self._may_be_kept = kept_programs.compiled(lowered)
        return made


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

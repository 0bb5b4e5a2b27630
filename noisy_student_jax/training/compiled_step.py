"""The programs of a training step: found, or compiled while other things are made."""

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
    """A training step, compiled for devices, from the shapes of what it will take.

    It is traced at once, if it is not kept from before. Threads compile it, or load it:
    whoever is to give it weights and images makes them meanwhile, and waits at the
    first step.

    For a single CPU it is two programs, gradients and update. A third of what there is
    to compile is loops of the optimizer and of the averages, four for each shape of an
    array, and that begins before the model has been traced.

    A compiler cannot be stopped: a process that ends meanwhile waits for it.

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
        """Traces it, and begins to compile it.

        Args:
          step: to take.
          mesh: devices.
          state: its shapes, or one.
          batch: its shapes, or one.
          taught_by: variables of the teacher that labels in the step; replicated, and
            given to every step.
          shard_state: whether devices share the state instead of each holding all.
          reuse: whether programs may be what an earlier process has compiled
            (`kept_programs`), and are kept for later ones.
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
        # Traced in a moment, it is compiled while the other one is traced.
        update = program(step.update, jitted_update, (state, *made), (state,))
        gradients = program(step.gradients, jitted_gradients, given, made)
        self._take = _one_after_the_other(gradients, update)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Trains one step; the state is given away."""
        if self._foreseen is not None:
            if _kinds((state, batch)) != self._foreseen:
                # A task of somebody's own makes targets of another kind.
                self._take = self._jitted
            self._foreseen = None
        return self._take(state, batch, *self._fixed)


def _one_after_the_other(
    gradients: Callable[..., Any], update: Callable[..., Any]
) -> Callable[..., Any]:
    def step(state: TrainState, *given: PyTree) -> tuple[TrainState, Metrics]:
        gradient, batch_stats, measured = gradients(state, *given)
        state, told = update(state, gradient, batch_stats)
        return state, measured | told

    return step


class _Program:
    """A function whose last output is metrics, compiled or loaded by a thread."""

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
        """Traces it, if it is not kept from before.

        Args:
          function: as it is traced, by which it is known.
          jitted: of `jax.jit`.
          given: shapes of what it takes.
          made: shapes of what it makes before the metrics.
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
            # Before others begin: one thread can trace at a time.
            begin = functools.partial(self._compiled, jitted.lower(*given))
        thread = concurrent.futures.ThreadPoolExecutor(1, "compile")
        self._begun = thread.submit(begin)
        thread.shutdown(wait=False)
        self._program: jax.stages.Compiled | None = None

    def __call__(self, *given: PyTree) -> Any:
        """Waits until it is there, the first time, and calls it."""
        if self._program is not None:
            return self._program(*given)
        self._program = self._begun.result()
        try:
            made = jax.block_until_ready(self._program(*given))
        except jax.errors.JaxRuntimeError:
            # Should it be to blame, the next process is not to find it again.
            if self._name:
                kept_programs.forget(self._name)
            raise
        if self._may_be_kept:
            kept = self._name, self._program, sorted(made[-1])
            # Nobody waits for it.
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
    """Returns the shapes of arrays, with their shardings: one for all, or a tree."""

    def shape(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda array: shape(array, sharding), tree)
    return jax.tree.map(shape, tree, sharding)


def _kinds(tree: PyTree) -> PyTree:
    """Returns what has to be alike for a program to take one tree for another."""
    kinds = jax.tree.map(lambda array: (array.shape, str(array.dtype)), tree)
    return jax.tree.leaves(kinds), jax.tree.structure(kinds)

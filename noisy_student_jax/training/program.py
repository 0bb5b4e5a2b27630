"""The program of a training step: found, or compiled while other things are made."""

import concurrent.futures
import threading
from typing import Any

import jax
from jax.sharding import Mesh

from noisy_student_jax import kept_programs
from noisy_student_jax.training import partitioning
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import Metrics, TrainStep, jit_train_step
from noisy_student_jax.types import Batch, PyTree


class StepProgram:
    """A training step, compiled for devices, from the shapes of what it will take.

    It is traced at once, if it is not kept from before. A thread compiles it, or loads
    it: whoever is to give it weights and images makes them meanwhile, and waits at the
    first step.

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
          step: of `make_train_step`.
          mesh: devices.
          state: its shapes, or one.
          batch: its shapes, or one.
          taught_by: variables of the teacher that labels in the step; replicated, and
            given to every step.
          shard_state: whether devices share the state instead of each holding all.
          reuse: whether the program may be one that an earlier process has compiled
            (`kept_programs`), and is kept for later ones.
        """
        self.held = partitioning.state_sharding(state, mesh, sharded=shard_state)
        whole, spread = partitioning.replicated(mesh), partitioning.along_batch(mesh)
        self._fixed = () if taught_by is None else (jax.device_put(taught_by, whole),)
        self._placed = jit_train_step(
            step, mesh, taught=bool(self._fixed), state_sharding=self.held
        )
        arguments = state, batch, *self._fixed
        shardings = self.held, spread, *(whole for _ in self._fixed)
        self._shapes = tuple(map(_shapes, arguments, shardings))
        self._program: Any = None
        devices = list(mesh.devices.flat)
        self._name = reuse and kept_programs.name(step, self._shapes, devices)
        if self._name and kept_programs.has(self._name):
            make = self._found
        else:
            # Before others begin: no two threads can trace at a time.
            make = self._placed.lower(*self._shapes).compile
            self._new = True
        thread = concurrent.futures.ThreadPoolExecutor(1, "compile")
        self._begun = thread.submit(make)
        thread.shutdown(wait=False)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Trains one step; the state is given away."""
        if self._program is not None:
            return self._program(state, batch, *self._fixed)
        made = self._begun.result()
        # A task of somebody's own may make targets of a kind that was not foreseen.
        foreseen = _kinds(self._shapes[:2]) == _kinds((state, batch))
        self._program = made if foreseen else self._placed
        state, metrics = self._program(state, batch, *self._fixed)
        if foreseen and self._name and not kept_programs.has(self._name):
            # Nobody waits for it.
            keep = threading.Thread(
                target=kept_programs.keep, args=(self._name, made, sorted(metrics))
            )
            keep.start()
        return state, metrics

    def _found(self) -> jax.stages.Compiled:
        inputs = jax.tree.structure((self._shapes, {}))
        found = kept_programs.find(self._name, inputs, self._outputs)
        return found or self._placed.lower(*self._shapes).compile()

    def _outputs(self, metrics: list[str]) -> Any:
        return jax.tree.structure((self._shapes[0], dict.fromkeys(metrics, 0)))


def _shapes(tree: PyTree, sharding: PyTree) -> PyTree:
    """Returns the shapes of arrays, with their shardings: one for all, or a tree."""

    def shape(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda array: shape(array, sharding), tree)
    return jax.tree.map(shape, tree, sharding)


def _kinds(tree: PyTree) -> PyTree:
    kinds = jax.tree.map(lambda array: (array.shape, str(array.dtype)), tree)
    return jax.tree.leaves(kinds), jax.tree.structure(kinds)

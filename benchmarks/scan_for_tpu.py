"""The gain and the price of scanning a stage's equal blocks when compiling for a TPU.

    pip install 'noisy-student-jax[tpu]'
    python benchmarks/scan_for_tpu.py
    python benchmarks/scan_for_tpu.py --blocks 12 --no-remat

No TPU is needed. Some of the equal blocks of B7's sixth stage are differentiated, in
bfloat16 and with recomputation in the backward pass as in the large configs, over the
chips of a slice: batch statistics and gradients are summed over them. Three forms of
the same computation are compiled ahead of time:

- *flat*: one block after the other, as in the models of this package;
- *scanned*: a `lax.scan` over the blocks, whose weights are stacked in the program, so
  that the state and its checkpoints do not change;
- *stacked*: the same with weights, statistics and gradients stacked outside.

"ours" is 1 / processor seconds of compiling *scanned*, "peer" that of *flat*: above 1,
scanning compiles faster. Processor seconds of all threads are used because compiling
takes minutes in which a machine is seldom quiet; ``_clock`` has wall-clock seconds.
``_peak`` is a chip's memory and ``_program`` the program's part of it, in MB.
``--check`` runs small versions of the three forms here and compares the results.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import side_by_side

from noisy_student_jax.core import sharding
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.models import architectures
from noisy_student_jax.models.efficientnet import Block
from noisy_student_jax.models.layers import batch_norm, convolution
from noisy_student_jax.planning import memory
from noisy_student_jax.planning.topology import slices

FORMS = ("flat", "scanned", "stacked")
B7 = architectures.MEMBERS["b7"]
SIDE = 19
"""Side of stage six's activations at 600 px; all but its first block are equal."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Equal blocks, one after the other, and their gradient.

    Attributes:
      count: number of blocks.
      remat: whether a block is recomputed in the backward pass.
      dtype: dtype of the computation.
    """

    count: int
    remat: bool = True
    dtype: Any = jnp.bfloat16

    @functools.cached_property
    def block(self) -> Block:
        """Returns one block, as in the model."""
        stage = B7.stages[5]
        return Block(
            stage=dataclasses.replace(stage, inputs=stage.outputs, stride=1),
            conv=functools.partial(convolution, dtype=self.dtype),
            norm=functools.partial(
                batch_norm, train=True, momentum=0.99, epsilon=1e-3, dtype=self.dtype
            ),
            activation=B7.activation,
            dtype=self.dtype,
            depthwise="auto",
        )

    def maps(self, batch: int, side: int = SIDE) -> tuple[int, ...]:
        """Returns the shape of a batch of activations."""
        return batch, side, side, self.block.stage.outputs

    def fresh(self, key: jax.Array) -> list[PyTree]:
        """Returns initial variables of each block."""
        maps = jnp.zeros(self.maps(1), self.dtype)
        keys = jax.random.split(jax.random.wrap_key_data(key), self.count)
        return [self.block.init(one, maps) for one in keys]

    def gradient(self, form: str) -> Callable[[PyTree, jax.Array, jax.Array], tuple]:
        """Returns the gradient function of the blocks in a form.

        Args:
          form: one of `FORMS`.

        Returns:
          A function of variables (of each block, or stacked), activations and a key's
          data, to the gradients of weights and activations, and the new statistics.
        """

        def one(maps: jax.Array, of_block: tuple) -> tuple[jax.Array, PyTree]:
            params, held, kept = of_block
            variables = {"params": params, **held}
            return self.block.apply(variables, maps, kept, mutable=["batch_stats"])

        one = jax.checkpoint(one) if self.remat else one

        def loss(params: PyTree, maps: jax.Array, held: PyTree, key: jax.Array):
            drawn = (self.count, len(maps))
            kept = jax.random.bernoulli(jax.random.wrap_key_data(key), 0.9, drawn) / 0.9
            if form == "flat":
                updated = []
                for of_block in zip(params, held, kept, strict=True):
                    maps, new = one(maps, of_block)
                    updated.append(new)
            else:
                if form == "scanned":
                    params, held = stack(params), stack(held)
                maps, updated = jax.lax.scan(one, maps, (params, held, kept))
                if form == "scanned":
                    updated = [
                        jax.tree.map(lambda leaf, n=n: leaf[n], updated)
                        for n in range(self.count)
                    ]
            return jnp.sum(jnp.sin(maps.astype(jnp.float32))), updated

        def gradient(variables: PyTree, maps: jax.Array, key: jax.Array) -> tuple:
            params, held = split(variables)
            return jax.grad(loss, (0, 1), has_aux=True)(params, maps, held, key)

        return gradient


def stack(each: list[PyTree]) -> PyTree:
    """Stacks the trees of all blocks along a first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def split(variables: PyTree) -> tuple[PyTree, PyTree]:
    """Returns weights and statistics, of each block or stacked."""
    if not isinstance(variables, list):
        return variables["params"], {"batch_stats": variables["batch_stats"]}
    parts = [split(one) for one in variables]
    return [params for params, _ in parts], [held for _, held in parts]


def compiled(
    blocks: Blocks, form: str, *, batch: int, mesh: jax.sharding.Mesh
) -> dict[str, float]:
    """Compiles a form from shapes; returns its compile time and its memory."""
    key = jax.random.key_data(jax.random.key(0))
    variables = jax.eval_shape(blocks.fresh, key)
    if form == "stacked":
        variables = jax.eval_shape(stack, variables)
    maps = jax.ShapeDtypeStruct(blocks.maps(batch * mesh.size), blocks.dtype)
    whole, spread = sharding.replicated(mesh), sharding.along_batch(mesh)
    program = jax.jit(
        blocks.gradient(form),
        in_shardings=(whole, spread, whole),
        out_shardings=((whole, spread), whole),
    )
    clock, processor = time.perf_counter(), time.process_time()
    made = program.lower(variables, maps, key).compile()
    found = {
        "processor": time.process_time() - processor,
        "clock": time.perf_counter() - clock,
        "peak": memory.of_program(made) / 1e6,
        "program": made.memory_analysis().generated_code_size_in_bytes / 1e6,
    }
    return {name: round(value, 1) for name, value in found.items()}


def check() -> None:
    """Fails unless the three forms compute the same."""
    blocks = Blocks(3, dtype=jnp.float32)
    key = jax.random.key_data(jax.random.key(0))
    each = jax.jit(blocks.fresh)(key)
    maps = jax.random.normal(jax.random.key(1), blocks.maps(4, side=5))
    flat, scanned, stacked = (
        jax.jit(blocks.gradient(form))(
            stack(each) if form == "stacked" else each, maps, key
        )
        for form in FORMS
    )
    (of_weights, of_maps), updated = scanned
    for other in (flat, ((stack(of_weights), of_maps), stack(updated))):
        mine = scanned if other is flat else stacked
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())
    print("flat, scanned and stacked compute the same")


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.set_defaults(repeats=1)
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--batch", type=int, default=8, help="images a chip")
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--no-remat", dest="remat", action="store_false")
    parser.add_argument("--check", action="store_true", help="compare the forms here")
    options = parser.parse_args()
    if options.check:
        check()
        return
    cases = [compared(count, options) for count in options.blocks]
    side_by_side.show(
        cases, unit="1/s of the processor", peers=("libtpu",), as_json=options.json
    )


def compared(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Compiles all forms of that many blocks, in turns."""
    mesh = sharding.make_mesh(slices.find(options.topology).devices)
    blocks = Blocks(count, remat=options.remat)
    turns = [
        {form: compiled(blocks, form, batch=options.batch, mesh=mesh) for form in FORMS}
        for _ in range(options.repeats)
    ]
    found = {
        f"{form}_{what}": statistics.median(turn[form][what] for turn in turns)
        for form in FORMS
        for what in turns[0][form]
    }
    return side_by_side.case(
        f"{count} blocks, {options.batch} images a chip",
        1 / found["scanned_processor"],
        1 / found["flat_processor"],
        **found,
    )


if __name__ == "__main__":
    main()

"""The batch layout: every device and microbatch sees the configured ratio."""

import types as namespaces

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from noisy_student_jax.core import types
from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.types import PerStream
from noisy_student_jax.training.state import TrainState
from noisy_student_jax.training.step import StepOptions, TrainStep


@pytest.mark.parametrize(
    ("labeled", "ratio", "pseudo"),
    [(4, 0.0, 0), (4, 1.0, 4), (128, 5.0, 640), (2048, 14.0, 28672), (10, 0.25, 3)],
)
def test_the_second_stream_is_the_ratio_rounded_up(labeled, ratio, pseudo):
    layout = BatchLayout.from_ratio(labeled, ratio)

    assert (layout.labeled, layout.pseudo) == (labeled, pseudo)
    assert layout.total == labeled + pseudo == len(layout.stream())


def microbatches_seen(batch, layout, microbatches):
    """Runs one step on a model that does nothing; returns the batches its loss saw."""
    seen = []

    def loss(outputs, batch):
        seen.append({"stream": batch["stream"], "image": batch["image"]})
        zeros = jnp.zeros(len(batch["stream"]))
        return {"loss": PerStream.of(zeros, stream=batch["stream"], weight=zeros)}

    module = namespaces.SimpleNamespace(
        apply=lambda variables, images, **_: ({"logits": images}, {})
    )
    optimizer = optax.sgd(0.0)
    step = TrainStep(
        module,
        loss,
        optimizer,
        lambda step: 0.0,
        StepOptions(
            ratio=1.0,
            microbatches=microbatches,
            group=layout.total // layout.groups,
        ),
        mean=(0.0,),
        std=(1.0,),
    )
    variables = {"params": {"w": jnp.zeros(())}}
    with jax.disable_jit():
        step(TrainState.create(variables, optimizer, seed=0, generation=0), batch)
    return [jax.tree.map(np.asarray, part) for part in seen]


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 3.0, 1.5])
def test_every_device_and_microbatch_holds_the_ratio(devices, microbatches, ratio):
    layout = BatchLayout.from_ratio(32, ratio)
    layout.check(devices=devices, microbatches=microbatches)
    batch = {
        "image": jnp.arange(layout.total, dtype=jnp.float32).reshape(-1, 1, 1, 1),
        "stream": jnp.asarray(layout.stream()),
        "noise": {},
    }

    seen = microbatches_seen(batch, layout, microbatches)

    assert len(seen) == microbatches
    drawn = np.concatenate([part["image"].ravel() for part in seen])
    assert np.array_equal(np.sort(drawn), np.arange(layout.total))
    share = layout.total // (devices * microbatches)
    for part in seen:
        for device in range(devices):
            mine = slice(device * share, (device + 1) * share)
            streams = part["stream"][mine]
            pseudo = (streams == types.PSEUDO).sum()
            assert pseudo * layout.labeled == (share - pseudo) * layout.pseudo
            # What a device works on is what it was given: nothing has to move.
            given = part["image"][mine].ravel() // (layout.total // devices)
            assert (given == device).all()


def test_examples_come_in_one_order_whatever_takes_them():
    layout = BatchLayout(4, 6)

    assert layout.groups == 2
    assert layout.stream().tolist() == [0, 0, 1, 1, 1, 0, 0, 1, 1, 1]
    assert layout.stream().dtype == np.int32


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_interleaving_puts_every_example_where_its_stream_says(array):
    layout = BatchLayout(4, 6)
    labeled, pseudo = np.arange(8).reshape(4, 2), 100 + np.arange(12).reshape(6, 2)

    batch = layout.interleave(array(labeled), array(pseudo))

    assert isinstance(batch, np.ndarray) == (array is np.asarray)
    assert np.array_equal(np.asarray(batch)[layout.stream() == 0], labeled)
    assert np.array_equal(np.asarray(batch)[layout.stream() == 1], pseudo)


def test_one_stream_alone_is_left_as_it_is():
    layout = BatchLayout(5, 0)
    labeled = np.arange(5)

    assert layout.interleave(labeled, np.zeros(0)) is labeled
    assert layout.stream().tolist() == [types.LABELED] * 5
    layout.check(devices=5)


def test_a_batch_that_cannot_be_dealt_evenly_is_refused_in_a_sentence():
    layout = BatchLayout.from_ratio(12, 1.5)

    layout.check(devices=3, microbatches=2)
    with pytest.raises(UserError) as caught:
        layout.check(devices=4, microbatches=2)
    assert str(caught.value) == (
        "a batch of 12 labeled + 18 pseudo-labeled images cannot give each of 4"
        " devices × 2 microbatches the same mix: make config.train.batch (and batch ×"
        " ratio) a multiple of 8"
    )

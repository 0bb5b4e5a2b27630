"""A second task, from outside the package: find the bright square.

A label is where its center is, (y, x) as fractions of the side. The model draws a heat
map over a grid; what selection balances is the quadrant. It is judged by the mean over
quadrants of the share that is found, which is no mean over images.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from noisy_student_jax.core.types import PerStream

GRID = 6
TOLERANCE = 0.15
_ROWS, _COLUMNS = np.divmod(np.arange(GRID * GRID), GRID)
CELLS = ((np.stack([_ROWS, _COLUMNS], axis=1) + 0.5) / GRID).astype(np.float32)


class BrightSquare:
    name = "outside.bright_square:BrightSquare"
    outputs = GRID * GRID
    primary_metric = "found"

    def __init__(self, classes):
        self.classes = tuple(classes)

    def targets(self, labels):
        return {"center": labels.astype(np.float32)}

    def loss(self, outputs, batch, options):
        row, column = jnp.floor(batch["target"]["center"] * GRID).astype(jnp.int32).T
        heat = jax.nn.log_softmax(outputs["logits"])
        chosen = jnp.take_along_axis(heat, (row * GRID + column)[:, None], axis=1)[:, 0]
        by_stream = {"stream": batch["stream"], "weight": batch["weight"]}
        return {"loss": PerStream.of(-chosen, **by_stream)}

    def predict(self, outputs):
        heat = jax.nn.softmax(outputs["logits"])
        return {"heat": heat, "center": heat @ CELLS}

    def bucket(self, predictions):
        below, right = (predictions["center"] >= 0.5).T
        return (2 * below + right).astype(np.int32)

    def score(self, predictions):
        """How much of the heat is within the tolerance of the answer."""
        apart = np.abs(CELLS[None] - predictions["center"][:, None]).max(axis=2)
        heat = np.where(apart <= TOLERANCE, predictions["heat"], 0)
        return heat.sum(axis=1).astype(np.float32)

    def columns(self, predictions, *, top_k):
        return {"center": pa.array(list(predictions["center"]), pa.list_(pa.float32()))}

    def stored_targets(self, rows):
        center = rows.column("center").flatten().to_numpy(zero_copy_only=False)
        return {"center": center.reshape(rows.num_rows, 2)}

    def chooser(self, batches, labels, options):
        return Chosen(self, batches, labels)

    def repeats(self, labels, keys):
        """Squares in the first quadrant are drawn twice."""
        return 1 + (labels < 0.5).all(axis=1).astype(np.int64)

    def pseudo_targets(self, stored):
        return stored

    def moved(self, targets, matrices):
        """Moves centers as (x, y); those that leave the image stay at its border."""
        place = targets["center"][:, ::-1, None]
        there = (matrices[:, :, :2] @ place)[..., 0] + matrices[:, :, 2]
        return {"center": jnp.clip(there[:, ::-1], 0, 0.999)}

    def statistics(self, predictions, labels):
        apart = np.abs(predictions["center"] - labels).max(axis=1)
        quadrant = self.bucket({"center": labels})
        return pa.StructArray.from_arrays(
            [pa.array(apart <= TOLERANCE), pa.array(quadrant)], ["found", "quadrant"]
        )

    def primary(self, statistics, draws=None):
        if draws is None:
            draws = np.ones((1, len(statistics)), int)
        found, quadrant = (np.array(one) for one in statistics.flatten())
        inside = quadrant[:, None] == np.arange(4)
        there = draws @ inside  # [resamples, quadrants]
        with np.errstate(invalid="ignore"):
            shares = draws @ (inside & found[:, None]) / there
        return shares.mean(axis=1, where=there > 0)

    def resampled(self, statistics, draws=None):
        return {"found": self.primary(statistics, draws)}

    def metrics(self, predictions, labels):
        apart = np.linalg.norm(predictions["center"] - labels, axis=1)
        found = self.primary(self.statistics(predictions, labels))[0]
        return {"found": float(found), "distance": float(apart.mean())}


class Chosen:
    """All centers as they are; those in the first quadrant are drawn twice as often."""

    warnings = ("look at a few squares",)

    def __init__(self, task, batches, labels):
        found = [task.stored_targets(rows)["center"].mean(axis=0) for rows in batches()]
        far = {"labeled": labels.mean(), "pseudo-labeled": np.mean(found)}
        self.facts = {"mean coordinate": {name: float(at) for name, at in far.items()}}
        self.targets = task.stored_targets

    def copies(self, rows):
        return 1 + (rows.column("label").to_numpy() == 0).astype(np.int64)

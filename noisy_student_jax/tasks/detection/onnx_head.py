"""Decoding and non-maximum suppression in an ONNX graph, as in `decode` and `nms`."""

import dataclasses
from typing import NamedTuple

import numpy as np

from noisy_student_jax.core.protocols import OnnxOutputs
from noisy_student_jax.interop.export.onnx_graph import Graph
from noisy_student_jax.tasks.detection import nms
from noisy_student_jax.tasks.detection.decode import CANDIDATES, OUTPUTS, TINY


class Named(NamedTuple):
    """Names of the values of `decode.Found`, ``[batch, boxes, …]``.

    Attributes:
      boxes: float32 ``[batch, boxes, 4]``.
      scores: float32 ``[batch, boxes]``.
      classes: int64 ``[batch, boxes]``.
      reliabilities: float32 ``[batch, boxes]``.
    """

    boxes: str
    scores: str
    classes: str
    reliabilities: str


def onnx_head(graph: Graph, shapes: dict[str, list[int]]) -> OnnxOutputs:
    """Adds the predictions of `decode.decode`; see `Task.onnx_head`."""
    views, locations, classes = shapes["logits"]
    head = _Head(graph, locations, classes)
    seen = [head.suppressed(head.candidates(view)) for view in range(views)]
    found = seen[0]
    if views > 1:
        found = head.merged(found, head.mirrored(seen[1]))
    names: OnnxOutputs = {
        "boxes": (np.float32, [OUTPUTS, 4]),
        "scores": (np.float32, [OUTPUTS]),
        "classes": (np.int32, [OUTPUTS]),
        "reliabilities": (np.float32, [OUTPUTS]),
    }
    found = found._replace(classes=graph.cast(found.classes, np.int32))
    for name, value in zip(names, found, strict=True):
        graph.node("Identity", value, name=name)
    return names


@dataclasses.dataclass(frozen=True)
class _Head:
    """Adds nodes to a graph.

    Attributes:
      graph: the graph to extend.
      locations: number of locations.
      classes: number of classes.
    """

    graph: Graph
    locations: int
    classes: int

    def candidates(self, view: int) -> Named:
        """Adds the best pairs of a location and a class of a view."""
        node = self.graph.node
        logits, distances = (
            node("Gather", name, self._whole(view), axis=1)
            for name in ("logits", "distances")
        )
        count = min(CANDIDATES, self.locations * self.classes)
        flat = node("Reshape", logits, self._wholes([0, -1]))
        best, at = self.graph.several("TopK", flat, self._wholes([count]), count=2)
        classes = self._whole(self.classes)
        where = node("Div", at, classes)
        center = node("Gather", "locations", where, axis=0)
        center = self._columns(center, 0, 2)
        index = node("Unsqueeze", where, self._wholes([2]))
        reach = node("GatherND", distances, index, batch_dims=1)
        low = node("Sub", center, self._columns(reach, 0, 2))
        high = node("Add", center, self._columns(reach, 2, 4))
        boxes = node("Concat", low, high, axis=2)
        boxes = node("Clip", boxes, self._real(0), self._real(1))
        scores = node("Sigmoid", best)
        ones = self._ones(scores)
        return Named(boxes, scores, node("Mod", at, classes), ones)

    def suppressed(self, found: Named) -> Named:
        """Adds `decode.suppressed`."""
        kept = self._kept(found.boxes, found.scores, found.classes)
        own = self._mul(found.scores, kept)
        remaining = self._best(found._replace(scores=own))
        return remaining._replace(boxes=self._voted(remaining, found))

    def _voted(self, remaining: Named, candidates: Named) -> str:
        """Adds `decode.voted`."""
        node = self.graph.node
        alike = self._alike(remaining, candidates)
        overlaps = self._iou_matrix(remaining.boxes, candidates.boxes)
        beyond = node("Relu", node("Sub", overlaps, self._real(nms.THRESHOLD)))
        scores = node("Unsqueeze", candidates.scores, self._wholes([1]))
        votes = node("Where", alike, self._mul(beyond, scores), self._real(0))
        total = node("ReduceSum", votes, self._wholes([2]))
        places = node("MatMul", votes, candidates.boxes)
        places = node("Div", places, node("Max", total, self._real(TINY)))
        some = node("Greater", total, self._real(TINY))
        return node("Where", some, places, remaining.boxes)

    def _alike(self, one: Named, other: Named) -> str:
        """Adds whether two boxes are of one class, bool ``[batch, boxes, boxes]``."""
        return self.graph.node(
            "Equal",
            self.graph.node("Unsqueeze", one.classes, self._wholes([2])),
            self.graph.node("Unsqueeze", other.classes, self._wholes([1])),
        )

    def mirrored(self, found: Named) -> Named:
        """Adds `boxes.mirror`."""
        left, top, right, bottom = (
            self._columns(found.boxes, side, side + 1) for side in range(4)
        )
        left, right = (
            self.graph.node("Sub", self._real(1), side) for side in (right, left)
        )
        boxes = self.graph.node("Concat", left, top, right, bottom, axis=2)
        return found._replace(boxes=boxes)

    def merged(self, one: Named, other: Named) -> Named:
        """Adds `decode.merged`."""
        both = self._seen_by(one, other), self._seen_by(other, one)
        joined = Named(
            *(
                self.graph.node("Concat", *parts, axis=1)
                for parts in zip(*both, strict=True)
            )
        )
        own = self.graph.node("Concat", one.scores, other.scores, axis=1)
        kept = self._kept(joined.boxes, own, joined.classes)
        return self._best(joined._replace(scores=self._mul(joined.scores, kept)), own)

    def _seen_by(self, one: Named, other: Named) -> Named:
        """Adds `decode._seen_by`."""
        node = self.graph.node
        alike = self._alike(one, other)
        there = node("Greater", other.scores, self._real(0))
        there = node("Unsqueeze", there, self._wholes([1]))
        overlaps = self._iou_matrix(one.boxes, other.boxes)
        alike = node("And", alike, there)
        overlaps = node("Where", alike, overlaps, self._real(0))
        values, at = self.graph.several("TopK", overlaps, self._wholes([1]), count=2)
        overlap = node("Squeeze", values, self._wholes([2]))
        matched = node("Greater", overlap, self._real(nms.THRESHOLD))
        theirs = node("GatherND", other.scores, at, batch_dims=1)
        theirs = node("Where", matched, theirs, self._real(0))
        both = node("Add", one.scores, theirs)
        share = node("Div", theirs, node("Max", both, self._real(TINY)))
        share = node("Unsqueeze", share, self._wholes([2]))
        apart = node("Sub", node("GatherND", other.boxes, at, batch_dims=1), one.boxes)
        return one._replace(
            boxes=node("Add", one.boxes, self._mul(share, apart)),
            scores=self._mul(both, self._real(0.5)),
            reliabilities=node("Where", matched, overlap, self._real(0)),
        )

    def _iou_matrix(self, one: str, other: str) -> str:
        node = self.graph.node
        one = node("Unsqueeze", one, self._wholes([2]))
        other = node("Unsqueeze", other, self._wholes([1]))
        low, high = (
            node(kind, *(self._columns(box, *at, axis=3) for box in (one, other)))
            for kind, at in (("Max", (0, 2)), ("Min", (2, 4)))
        )
        shared = self._area(low, high)
        areas = [
            self._area(*(self._columns(box, *at, axis=3) for at in ((0, 2), (2, 4))))
            for box in (one, other)
        ]
        union = node("Sub", node("Add", *areas), shared)
        some = node("Greater", union, self._real(0))
        safe = node("Where", some, union, self._real(1))
        return node("Where", some, node("Div", shared, safe), self._real(0))

    def _area(self, low: str, high: str) -> str:
        sides = self.graph.node("Relu", self.graph.node("Sub", high, low))
        width, height = (
            self.graph.node(
                "Squeeze",
                self._columns(sides, at, at + 1, axis=3),
                self._wholes([3]),
            )
            for at in range(2)
        )
        return self._mul(width, height)

    def _kept(self, boxes: str, scores: str, classes: str) -> str:
        """Adds `nms.keep`: float32 ``[batch, boxes]``, 1 for a box that remains."""
        node = self.graph.node
        of_class = node(
            "Equal",
            node("Unsqueeze", classes, self._wholes([1])),
            self.graph.constant(
                np.arange(self.classes).reshape(1, self.classes, 1), np.int64
            ),
        )
        by_class = node(
            "Where",
            of_class,
            node("Unsqueeze", scores, self._wholes([1])),
            self._real(0),
        )
        chosen = node(
            "NonMaxSuppression",
            boxes,
            by_class,
            self._wholes([2 * CANDIDATES]),
            self.graph.constant([nms.THRESHOLD], np.float32),
            self.graph.constant([0], np.float32),
        )
        # Rows of (image, class, box).
        index = node("Gather", chosen, self._wholes([0, 2]), axis=1)
        image = node("Squeeze", self._columns(chosen, 0, 1, axis=1), self._wholes([1]))
        nothing = self._mul(scores, self._real(0))
        return node("ScatterND", nothing, index, self._ones(image))

    def _best(self, found: Named, order: str | None = None) -> Named:
        """Adds `decode.best`; of equal scores the first in `order` is the better."""
        node = self.graph.node
        if order is not None:
            count = node("Shape", order, start=1, end=2)
            _, at = self.graph.several("TopK", order, count, count=2)
            found = self._taken(found, at)
        # Zeros, so that there are as many in any case.
        found = self._filled_up(found)
        scores, at = self.graph.several(
            "TopK", found.scores, self._wholes([OUTPUTS]), count=2
        )
        taken = self._taken(found, at)
        there = node("Greater", scores, self._real(0))
        wide = node("Unsqueeze", there, self._wholes([2]))
        return Named(
            node("Where", wide, taken.boxes, self._real(0)),
            scores,
            node("Where", there, taken.classes, self._whole(0)),
            node("Where", there, taken.reliabilities, self._real(0)),
        )

    def _taken(self, found: Named, at: str) -> Named:
        index = self.graph.node("Unsqueeze", at, self._wholes([2]))
        return Named(
            *(self.graph.node("GatherND", one, index, batch_dims=1) for one in found)
        )

    def _filled_up(self, found: Named) -> Named:
        flat = self._wholes([0, 0, 0, OUTPUTS])
        wide = self._wholes([0, 0, 0, 0, OUTPUTS, 0])
        return Named(
            self.graph.node("Pad", found.boxes, wide),
            *(self.graph.node("Pad", one, flat) for one in found[1:]),
        )

    def _columns(self, value: str, start: int, end: int, *, axis: int = 2) -> str:
        return self.graph.node(
            "Slice",
            value,
            self._wholes([start]),
            self._wholes([end]),
            self._wholes([axis]),
        )

    def _mul(self, one: str, other: str) -> str:
        return self.graph.node("Mul", one, other)

    def _ones(self, like: str) -> str:
        """Adds as many ones as a value has numbers."""
        shape = self.graph.node("Shape", like)
        return self.graph.node("Expand", self._real(1), shape)

    def _real(self, value: float) -> str:
        return self.graph.constant(value, np.float32)

    def _whole(self, value: int) -> str:
        return self.graph.constant(value, np.int64)

    def _wholes(self, values: list[int]) -> str:
        return self.graph.constant(values, np.int64)

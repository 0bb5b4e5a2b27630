"""The few types that every floor speaks of.

A *batch* is a dictionary, the same for every task:

- ``image``: uint8 or float32 ``[batch, height, width, channels]``, values 0–255;
- ``target``: the task's pytree, leading axis ``[batch]``. A pseudo-label has the
  same type as a true label;
- ``weight``: float32 ``[batch]``, 0 for padding;
- ``stream``: int32 ``[batch]``, `LABELLED` or `PSEUDO`;
- ``noise``: ``{"dropout", "stochastic_depth"}``, each float32 ``[batch]``, 1 where
  that noise of the model applies to the example, 0 where it does not.
"""

from typing import Any

LABELLED = 0
PSEUDO = 1
STREAMS = ("labelled", "pseudo")

Batch = dict[str, Any]
PyTree = Any

"""What a model is created with, whatever it is: the fields of one dataclass.

The ``model`` section of a config has a field for each, with the same default; a member
of the family of `models.efficientnet` holds them; a bundle records them.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelArguments:
    """How a model is noised, normalized and computed.

    Attributes:
      dropout_rate: before the classifier; None for the architecture's own.
      stochastic_depth: the drop rate that the blocks' rates grow towards.
      batch_norm_momentum: of the moving statistics.
      batch_norm_epsilon: added to the variance.
      batch_norm_group: examples that share batch statistics in training: each run of
        so many in the batch has its own. 0 for the whole batch.
      dtype: ``float32`` or ``bfloat16``, of the computation; parameters, batch
        statistics and logits are float32.
      remat: whether to compute each block again in the backward pass rather than
        keep what it computed.
      depthwise: how depthwise convolutions are computed, as in `depthwise_conv`.
      layers: ``own`` computes 1×1 convolutions as matrix products, and batch norm and
        activation with one gradient written out; ``flax`` leaves both to Flax and to
        automatic differentiation. The variables are the same.
    """

    dropout_rate: float | None = None
    stochastic_depth: float = 0.2
    batch_norm_momentum: float = 0.99
    batch_norm_epsilon: float = 1e-3
    batch_norm_group: int = 0
    dtype: str = "float32"
    remat: bool = False
    depthwise: str = "auto"
    layers: str = "own"

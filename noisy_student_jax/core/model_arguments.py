"""The constructor arguments that models share, as one dataclass.

The ``model`` section of a config has a field for each, with the same default; the
networks of `models.network` hold them; a bundle records them.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelArguments:
    """Model noise, batch norm and computation options.

    Attributes:
      dropout_rate: before the classifier; None for the architecture's default.
      stochastic_depth: the drop rate that the rates of the blocks approach.
      batch_norm_momentum: of the moving statistics.
      batch_norm_epsilon: added to the variance.
      batch_norm_group: number of consecutive examples that share batch statistics in
        training; 0 for the whole batch.
      dtype: ``float32`` or ``bfloat16``, of the computation; parameters, batch
        statistics and logits are float32.
      remat: whether to recompute each block in the backward pass instead of storing
        its activations.
      depthwise: implementation of depthwise convolutions, as in `depthwise_conv`.
      layers: ``own`` computes 1×1 convolutions as matrix products, and batch norm and
        activation with one gradient written out; ``flax`` leaves both to Flax and to
        automatic differentiation; ``auto`` is own on CPU, where it was measured, and
        flax elsewhere. The variables are the same.
      views: number of views of an image whose features are averaged where the model
        predicts (`models.views`); it costs as many times as much.
    """

    dropout_rate: float | None = None
    stochastic_depth: float = 0.2
    batch_norm_momentum: float = 0.99
    batch_norm_epsilon: float = 1e-3
    batch_norm_group: int = 0
    dtype: str = "float32"
    remat: bool = False
    depthwise: str = "auto"
    layers: str = "auto"
    views: int = 1

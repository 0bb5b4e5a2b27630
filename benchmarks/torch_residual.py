"""Our residual networks and their training step as a PyTorch user would write them.

The twins have our modules' names, so that our weights are theirs by name. Both sides
take the same step: SGD with momentum, L2 on all but batch norm, and a moving average.
"""

from collections.abc import Callable

import jax
import numpy as np
import torch
from flax import traverse_util
from our_programs import OurResidual, TrainingWork
from side_by_side import Work
from torch import nn
from torch.nn import functional
from torch_twin import BATCH_NORM, Same, dropped

from noisy_student_jax.core.batch_layout import BatchLayout
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.models import resnet
from noisy_student_jax.models.architectures import Architecture
from noisy_student_jax.models.resnet import ResNet, Stage

NOISE = 0.2
"""Rates of dropout and stochastic depth."""
BATCHES = 10
"""Different batches of a loss curve, in turn."""
FIRST, TOLERANCE = 5, 1e-4
Act = Callable[[torch.Tensor], torch.Tensor]


def relu(values: torch.Tensor) -> torch.Tensor:
    return functional.relu(values, inplace=True)


def leaky_relu(values: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(values, 0.1, inplace=True)


def norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, **BATCH_NORM)


class Bottleneck(nn.Module):
    """The block of ResNet-50."""

    def __init__(self, stage: Stage, drop: float, act: Act):
        super().__init__()
        self.drop, self.act, stride = drop, act, stage.stride
        self.pool = nn.Identity()
        if stage.pooled and stride > 1:
            self.pool, stride = nn.MaxPool2d(3, stride, padding=1), 1
        width = stage.outputs // resnet.BOTTLENECK
        self.reduce_conv = nn.Conv2d(stage.inputs, width, 1, bias=False)
        self.reduce_bn = norm(width)
        self.spatial_conv = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.spatial_bn = norm(width)
        self.expand_conv = nn.Conv2d(width, stage.outputs, 1, bias=False)
        self.expand_bn = norm(stage.outputs)
        self.projects = stride > 1 or stage.inputs != stage.outputs
        if self.projects:
            self.shortcut_conv = nn.Conv2d(
                stage.inputs, stage.outputs, 1, stride, bias=False
            )
            self.shortcut_bn = norm(stage.outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps ``[n, inputs, h, w]`` to ``[n, outputs, ⌈h/s⌉, ⌈w/s⌉]``."""
        images = self.pool(images)
        hidden = self.act(self.reduce_bn(self.reduce_conv(images)))
        hidden = self.act(self.spatial_bn(self.spatial_conv(hidden)))
        hidden = dropped(self.expand_bn(self.expand_conv(hidden)), self)
        if self.projects:
            images = self.shortcut_bn(self.shortcut_conv(images))
        return self.act(hidden + images)


class PreActivation(nn.Module):
    """The block of the wide network."""

    def __init__(self, stage: Stage, drop: float, act: Act):
        super().__init__()
        self.drop, self.act = drop, act
        wider = stage.inputs != stage.outputs
        self.projects = wider or stage.stride > 1
        self.activated_too = wider and stage.stride == 1
        self.first_bn = norm(stage.inputs)
        self.first_conv = Same(stage.inputs, stage.outputs, 3, stride=stage.stride)
        self.second_bn = norm(stage.outputs)
        self.second_conv = Same(stage.outputs, stage.outputs, 3)
        if self.projects:
            self.shortcut_conv = nn.Conv2d(
                stage.inputs, stage.outputs, 1, stage.stride, bias=False
            )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps ``[n, inputs, h, w]`` to ``[n, outputs, ⌈h/s⌉, ⌈w/s⌉]``."""
        activated = self.act(self.first_bn(images))
        hidden = self.act(self.second_bn(self.first_conv(activated)))
        hidden = dropped(self.second_conv(hidden), self)
        if self.projects:
            images = self.shortcut_conv(activated if self.activated_too else images)
        return hidden + images


class Twin(nn.Module):
    """A residual network.

    Attributes:
      act: its activation.
      bottlenecks: whether it is ResNet-50, and not the wide network.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        outputs: int,
        bottlenecks: bool,
        noise: float = NOISE,
    ):
        """Builds it; `noise` is the rate of dropout and of stochastic depth."""
        super().__init__()
        own, self.bottlenecks = architecture, bottlenecks
        self.act: Act = relu if own.activation is jax.nn.relu else leaky_relu
        if bottlenecks:
            self.stem_conv = nn.Conv2d(
                3, own.stem, 7, own.stem_stride, padding=3, bias=False
            )
            self.stem_bn = norm(own.stem)
        else:
            self.stem_conv = Same(3, own.stem, 3, stride=own.stem_stride)
            self.head_bn = norm(own.head)
        build = Bottleneck if bottlenecks else PreActivation
        self.names = [f"blocks_{index}" for index in range(len(own.blocks))]
        for index, (name, stage) in enumerate(zip(self.names, own.blocks, strict=True)):
            drop = noise * index / len(own.blocks)
            self.add_module(name, build(stage, drop, self.act))
        self.dropout = nn.Dropout(noise)
        self.classifier = nn.Linear(own.head, outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps ``[n, 3, h, w]`` to ``[n, outputs]``."""
        hidden = self.stem_conv(images)
        if self.bottlenecks:
            hidden = self.act(self.stem_bn(hidden))
        for name in self.names:
            hidden = self.get_submodule(name)(hidden)
        if not self.bottlenecks:
            hidden = self.act(self.head_bn(hidden))
        return self.classifier(self.dropout(hidden.mean((2, 3))))

    def load(self, variables: PyTree) -> None:
        """Copies our variables."""
        given = {}
        for path, array in traverse_util.flatten_dict(variables["params"]).items():
            *owner, leaf = path
            if array.ndim > 1:
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            name = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
            given[".".join([*owner, name])] = torch.tensor(np.ascontiguousarray(array))
        missing, unknown = self.load_state_dict(given, strict=False)
        left = [
            name for name in missing if "running_" not in name and "num_" not in name
        ]
        assert not left and not unknown, (left, unknown)


class Trained:
    """A twin with its optimizer and the average of its weights."""

    def __init__(
        self, ours: OurResidual, *, noise: float, dtype: torch.dtype = torch.float32
    ):
        """Starts from our weights.

        Args:
          ours: our side.
          noise: rate of dropout and stochastic depth.
          dtype: of everything.
        """
        self.dtype = dtype
        module = Twin(
            ours.module.architecture,
            outputs=ours.task.outputs,
            bottlenecks=isinstance(ours.module, ResNet),
            noise=noise,
        )
        module.load(ours.variables)
        module = module.to(dtype=dtype, memory_format=torch.channels_last)
        self.module = module.train()
        self.mean, self.std = (
            torch.tensor(values, dtype=dtype).view(1, 3, 1, 1) * 255
            for values in (ours.preprocessing.mean, ours.preprocessing.std)
        )
        weights = dict(module.named_parameters())
        self.weights = list(weights.values())
        self.average = [weight.detach().clone() for weight in self.weights]
        decayed, rest = (
            [w for name, w in weights.items() if ("_bn." in name) == plain]
            for plain in (False, True)
        )
        self.optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": ours.DECAY}, {"params": rest}],
            lr=ours.RATE,
            momentum=ours.MOMENTUM,
            foreach=True,
        )

    def step(self, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Takes a step on bytes ``[n, 3, h, w]``; returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.module((pixels.to(self.dtype) - self.mean) / self.std)
        loss = functional.cross_entropy(logits, targets)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            own = [weight.detach() for weight in self.weights]
            torch._foreach_lerp_(self.average, own, 1e-3)
        return loss.detach()


def given(ours: OurResidual, count: int, number: int) -> tuple[torch.Tensor, ...]:
    """Returns pixels, channels last in memory, and classes of a batch."""
    pixels = torch.from_numpy(ours.images(count, number)).permute(0, 3, 1, 2)
    return pixels, torch.from_numpy(ours.labels(count, number))


def residual_step(ours: OurResidual, count: int) -> Work:
    """Returns a work that does the same step in PyTorch."""
    trained = Trained(ours, noise=NOISE)
    pixels, targets = given(ours, count, 0)

    def work() -> int:
        trained.step(pixels, targets)
        return count

    return work


def curves_apart(
    ours: OurResidual, work: TrainingWork, count: int, steps: int
) -> dict[str, str]:
    """Compares our losses of the first steps with PyTorch's.

    All start from the same weights and see the same images, without dropout and
    stochastic depth, whose draws differ. The first steps agree to rounding; later ones
    amplify it. How far rounding alone takes two curves apart is seen in PyTorch's own
    in float64.

    Args:
      ours: our side.
      work: its step, not taken yet.
      count: images of a step.
      steps: steps to compare.

    Returns:
      ``first_apart``, the largest relative difference of the `FIRST` steps;
      ``curve_apart``, the mean of the absolute differences over all steps between ours
      and PyTorch's in float32; ``rounding``, the same between PyTorch's two; and the
      losses ``from`` which and ``to`` which ours goes.

    Raises:
      SystemExit: the first steps do not compute the same.
    """
    single, double = (
        Trained(ours, noise=0.0, dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    )
    losses = []
    for number in range(steps):
        batch = ours.batch(BatchLayout(count, 0), number % BATCHES)
        quiet = {name: np.zeros_like(value) for name, value in batch["noise"].items()}
        found = work.step(work.placed({**batch, "noise": quiet}))
        seen = given(ours, count, number % BATCHES)
        losses.append(
            [
                float(found["labeled/loss"]),
                *(float(t.step(*seen)) for t in (single, double)),
            ]
        )
    mine, theirs, exact = np.array(losses).T
    first = np.abs(mine / theirs - 1)[:FIRST].max()
    if not first <= TOLERANCE:
        raise SystemExit(f"losses: ours are {mine[:FIRST]}, PyTorch's {theirs[:FIRST]}")
    apart, rounding = np.abs(mine - theirs).mean(), np.abs(theirs - exact).mean()
    return {
        "first_apart": f"{first:.0e}",
        "curve_apart": f"{apart:.1e}",
        "rounding": f"{rounding:.1e}",
        "from": f"{mine[0]:.3f}",
        "to": f"{mine[-1]:.3f}",
    }

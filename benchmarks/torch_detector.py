"""Our detector and its training step as a PyTorch user would write them.

The network is that of `models.fcos` on `torch_twin`'s backbone. Assignment and losses
are those of `tasks.detection`, over a whole batch at once, and boxes of objects are
compared for the locations that are to find one only.
"""

import torch
from our_programs import OurDetector
from side_by_side import Work
from torch import nn
from torch.nn import functional
from torch_twin import Backbone

from noisy_student_jax.core.types import PyTree
from noisy_student_jax.data.labels import IGNORE, OBJECT
from noisy_student_jax.models import fcos
from noisy_student_jax.models.architectures import Architecture
from noisy_student_jax.tasks.detection import assign, loss, settings

Target = dict[str, torch.Tensor]
WEIGHT_DECAY, AVERAGED = 0.01, 0.01


class Detector(nn.Module):
    """Backbone, pyramid and head."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        side: int,
        outputs: int,
        frozen_blocks: int = -1,
        noise: bool = True,
    ):
        """Builds it.

        Args:
          architecture: the backbone's.
          side: of the images, in pixels.
          outputs: number of classes.
          frozen_blocks: see `Backbone`.
          noise: whether there are dropout and stochastic depth, of 0.2 each.
        """
        super().__init__()
        rate, width = 0.2 * noise, fcos.WIDTH
        self.backbone = Backbone(
            architecture, stochastic_depth=rate, frozen_blocks=frozen_blocks
        )
        self.strides = fcos.levels(architecture)
        self.units = [stride / side for stride in self.strides]
        self.laterals = nn.ModuleList(
            nn.Conv2d(self.backbone.channels[stride], width, 1)
            for stride in self.strides
        )
        tower: list[nn.Module] = []
        for _ in range(fcos.CONVOLUTIONS):
            tower += [
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.GroupNorm(width // fcos.CHANNELS_PER_GROUP, width, eps=1e-6),
                nn.SiLU(inplace=True),
            ]
        self.tower = nn.Sequential(*tower)
        self.dropout = nn.Dropout(rate)
        self.logits = nn.Conv2d(width, outputs, 3, padding=1)
        self.distances = nn.Conv2d(width, 4, 3, padding=1)
        self.scales = nn.Parameter(torch.zeros(len(self.strides)))
        self.register_buffer("kept", torch.ones(1, width, 1, 1))
        where = fcos.locations(side, side, self.strides)
        self.register_buffer("locations", torch.from_numpy(where))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns logits ``[n, locations, classes]`` and distances ``[…, 4]``."""
        features = self.backbone(images)
        levels: list[torch.Tensor] = []
        for number in reversed(range(len(self.strides))):
            finer = self.laterals[number](features[self.strides[number]])
            if levels:
                finer = finer + functional.interpolate(levels[0], finer.shape[-2:])
            levels.insert(0, finer)
        kept = self.dropout(self.kept.expand(len(images), -1, -1, -1))
        logits, distances = [], []
        for number, level in enumerate(levels):
            hidden = self.tower(level)
            unit = self.units[number] * self.scales[number].exp()
            reach = functional.softplus(self.distances(hidden)) * unit
            logits.append(in_a_row(self.logits(hidden * kept)))
            distances.append(in_a_row(reach))
        return torch.cat(logits, 1), torch.cat(distances, 1)

    def load(self, architecture: Architecture, variables: PyTree) -> None:
        """Copies our variables."""
        self.backbone.load(architecture, variables)
        ours = variables["params"]
        head = ours["detector"]
        for level, lateral in enumerate(self.laterals):
            copy(lateral, ours["neck"][f"lateral_{level}_conv"])
        for number in range(fcos.CONVOLUTIONS):
            copy(self.tower[3 * number], head[f"conv_{number}"])
            copy(self.tower[3 * number + 1], head[f"conv_{number}_gn"])
        copy(self.logits, head["logits"])
        copy(self.distances, head["distances"])
        self.scales.data = torch.tensor(head["scales"])


def in_a_row(level: torch.Tensor) -> torch.Tensor:
    return level.flatten(2).transpose(1, 2)


def copy(layer: nn.Module, ours: PyTree) -> None:
    """Copies our variables of a convolution or norm into a layer."""
    given = {name: torch.tensor(value) for name, value in ours.items()}
    weight = (
        given["kernel"].permute(3, 2, 0, 1) if "kernel" in given else given["scale"]
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if "bias" in given:
            layer.bias.copy_(given["bias"])


@torch.no_grad()
def assigned(
    locations: torch.Tensor, target: Target, outputs: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what `assign.assign` does, for a batch.

    Args:
      locations: ``[locations, 3]``.
      target: arrays ``[n, places, …]``.
      outputs: number of classes.

    Returns:
      The objects' indices ``[n, locations]``, −1 for none; and bool ``[n, locations,
      classes]``, whether a class's score is not learned.
    """
    boxes, kinds = target["boxes"][:, None], target["kinds"][:, None]
    center, stride = locations[None, :, None, :2], locations[:, 2]
    sides = torch.cat([center - boxes[..., :2], boxes[..., 2:] - center], -1)
    offset = center - (boxes[..., :2] + boxes[..., 2:]) / 2
    inside, reach = sides.amin(-1) > 0, sides.amax(-1)
    central = offset.abs().amax(-1) < assign.RADIUS * stride[:, None]
    finest = stride == stride.min()
    low = torch.where(finest, 0, assign.NEAR * stride)[:, None]
    high = torch.where(stride == stride.max(), torch.inf, assign.FAR * stride)[:, None]
    objects = kinds == OBJECT
    found = inside & central & (reach > low) & (reach <= high) & objects
    missed = objects & ~found.any(1, keepdim=True)
    apart = offset.square().sum(-1).masked_fill(~finest[:, None], torch.inf)
    found |= missed & functional.one_hot(apart.argmin(1), len(stride)).bool().mT
    sizes = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    smallest = torch.where(found, sizes, torch.inf).argmin(-1)
    box = torch.where(found.any(-1), smallest, -1)
    of_class = functional.one_hot(target["classes"], outputs)
    ignored = (inside & (kinds == IGNORE)).float() @ of_class.float() > 0
    mine = torch.take_along_dim(target["classes"], box.clamp(min=0), 1)
    positive = functional.one_hot(mine, outputs).bool() & (box >= 0)[..., None]
    return box, ignored & ~positive


def losses(
    logits: torch.Tensor,
    distances: torch.Tensor,
    locations: torch.Tensor,
    target: Target,
) -> torch.Tensor:
    """Returns the loss of a batch of true boxes, as `loss.loss` does."""
    box, ignored = assigned(locations, target, logits.shape[-1])
    image, where = (box >= 0).nonzero(as_tuple=True)
    which = box[image, where]
    fitting, center = target["boxes"][image, which], locations[where, :2]
    reach = distances[image, where]
    proposed = torch.cat([center - reach[:, :2], center + reach[:, 2:]], -1)
    overlap, generalized = overlaps(proposed, fitting)
    quality = torch.zeros_like(logits)
    quality[image, where, target["classes"][image, which]] = overlap.detach()
    entropy = functional.binary_cross_entropy_with_logits(
        logits, quality, reduction="none"
    )
    focal = (logits.sigmoid() - quality).square() * entropy
    classification = focal.masked_fill(ignored, 0).sum()
    misfit = (1 - generalized) * target["box_weights"][image, which]
    return (classification + loss.BOXES * misfit.sum()) / quality.sum().clamp(min=1)


def overlaps(
    one: torch.Tensor, other: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns IoU and generalized IoU of pairs of boxes ``[pairs, 4]``."""
    low = torch.maximum(one[:, :2], other[:, :2])
    high = torch.minimum(one[:, 2:], other[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = sum((box[:, 2:] - box[:, :2]).prod(-1) for box in (one, other)) - shared
    low = torch.minimum(one[:, :2], other[:, :2])
    high = torch.maximum(one[:, 2:], other[:, 2:])
    around = (high - low).prod(-1)
    overlap = shared / union
    return overlap, overlap - (around - union) / around


def twin(ours: OurDetector, *, noise: bool = True) -> Detector:
    """Returns the same detector, with the same weights, ready to be trained."""
    architecture = ours.module.architecture
    made = Detector(
        architecture,
        side=ours.side,
        outputs=ours.task.outputs,
        frozen_blocks=ours.module.frozen_blocks,
        noise=noise,
    )
    made.load(architecture, ours.variables)
    return made.to(memory_format=torch.channels_last).train()


def given(
    ours: OurDetector, batch: int
) -> tuple[torch.Tensor, Target, torch.Tensor, torch.Tensor]:
    """Returns pixels (channels-last), targets, and the pixels' mean and deviation."""
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) * 255
        for values in (ours.preprocessing.mean, ours.preprocessing.std)
    )
    targets = ours.task.targets(ours.labels(batch))
    target = {name: torch.from_numpy(value) for name, value in targets.items()}
    target["classes"] = target["classes"].long()
    return torch.from_numpy(ours.images(batch)).permute(0, 3, 1, 2), target, mean, std


def loss_and_norm(ours: OurDetector, batch: int) -> tuple[float, float]:
    """Returns the first loss without noise, and the norm of its gradient."""
    module = twin(ours, noise=False)
    pixels, target, mean, std = given(ours, batch)
    value = losses(*module((pixels.float() - mean) / std), module.locations, target)
    value.backward()
    gradients = [w.grad for w in module.parameters() if w.grad is not None]
    return value.item(), torch.nn.utils.get_total_norm(gradients).item()


def detector_step(ours: OurDetector, batch: int) -> Work:
    """Returns a work that does our training step in PyTorch."""
    torch.manual_seed(0)
    module = twin(ours)
    pixels, target, mean, std = given(ours, batch)
    norms = {
        id(weight)
        for part in module.modules()
        if isinstance(part, (nn.BatchNorm2d, nn.GroupNorm))
        for weight in part.parameters()
    }
    weights = [one for one in module.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [one for one in weights if (id(one) in norms) == is_norm],
                "weight_decay": 0.0 if is_norm else WEIGHT_DECAY,
            }
            for is_norm in (False, True)
        ],
        lr=settings.RATE,
        fused=True,
    )
    moving = [
        value
        for part in module.modules()
        if isinstance(part, nn.BatchNorm2d) and part.training
        for value in (part.running_mean, part.running_var)
    ]
    kept = [one.detach() for one in (*weights, *moving)]
    average = [one.clone() for one in kept]

    def work() -> int:
        optimizer.zero_grad(set_to_none=True)
        outputs = module((pixels.float() - mean) / std)
        losses(*outputs, module.locations, target).backward()
        optimizer.step()
        torch._foreach_lerp_(average, kept, AVERAGED)
        return batch

    return work

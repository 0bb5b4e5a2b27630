"""torchvision's FCOS on our backbone with its ImageNet weights, and its training."""

import collections
import itertools
import sys
from collections.abc import Iterator

import jax
import numpy as np
import torch
from torch import nn
from torch_twin import Backbone
from torchvision import tv_tensors
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.transforms import v2

from noisy_student_jax import models
from noisy_student_jax.data.labels import OBJECT
from noisy_student_jax.interop import published
from noisy_student_jax.models import architectures
from noisy_student_jax.models.fcos import STRIDES
from noisy_student_jax.training.step import normalize

MEMBER = "lite0"
MODEL = f"efficientnet_{MEMBER}"
WARMUP = 0.1
"""Share of the steps."""
LEAST_SIDE = 4
"""Pixels; of a box at the border of which less is left, nothing is to be found."""
ALIKE = 1e-3
"""Difference of features from ours, relative to the largest."""


class Pyramid(nn.Module):
    """A backbone with torchvision's pyramid on it."""

    def __init__(self, backbone: Backbone, width: int):
        super().__init__()
        self.backbone, self.out_channels = backbone, width
        channels = [backbone.channels[stride] for stride in STRIDES]
        self.pyramid = FeaturePyramidNetwork(channels, width)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the levels, the finest first."""
        features = self.backbone(images)
        own = ((str(stride), features[stride]) for stride in STRIDES)
        return self.pyramid(collections.OrderedDict(own))


def detector(*, classes: int, side: int, width: int, frozen_blocks: int) -> FCOS:
    """Returns torchvision's detector, to be trained.

    Args:
      classes: number of classes.
      side: of the images, in pixels.
      width: channels of pyramid and head.
      frozen_blocks: see `Backbone`.
    """
    backbone = Backbone(architectures.MEMBERS[MEMBER], frozen_blocks=frozen_blocks)
    variables = published.lite_bundle(MODEL).variables
    backbone.load(architectures.MEMBERS[MEMBER], variables)
    mean, std = models.normalization(MODEL)
    # Of a stride, the size is what torchvision calls an anchor's.
    anchors = AnchorGenerator(tuple((stride,) for stride in STRIDES), ((1.0,),) * 3)
    model = FCOS(
        Pyramid(backbone, width),
        classes,
        min_size=side,
        max_size=side,
        image_mean=mean,
        image_std=std,
        anchor_generator=anchors,
        # AP asks for all boxes, in order of score.
        score_thresh=0.001,
    )
    return model.to(memory_format=torch.channels_last)


def check_features(model: FCOS, pixels: torch.Tensor) -> None:
    """Checks that an untrained detector's backbone has the features of our own.

    Args:
      model: the detector.
      pixels: uint8 ``[n, 3, side, side]``.

    Raises:
      SystemExit: it has others.
    """
    images = normalize(pixels.permute(0, 2, 3, 1).numpy(), *models.normalization(MODEL))
    variables = published.lite_bundle(MODEL).variables
    ours = jax.jit(models.create(MODEL, outputs=0).apply)(variables, images)["features"]
    with torch.inference_mode():
        given = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)
        theirs = model.backbone.backbone.eval()(given)
    for stride in STRIDES:
        own = np.asarray(ours[stride]).transpose(0, 3, 1, 2)
        apart = np.abs(own - theirs[stride].numpy()).max() / np.abs(own).max()
        if not apart <= ALIKE:
            sys.exit(f"features of stride {stride} differ from ours by {apart:.1e}")


def train(
    model: FCOS,
    pixels: torch.Tensor,
    labels: np.ndarray,
    *,
    steps: int,
    batch: int,
    rate: float,
) -> None:
    """Trains a detector.

    Args:
      model: the detector.
      pixels: uint8 ``[n, 3, side, side]``.
      labels: see `data.labels`.
      steps: number of steps.
      batch: images of a step.
      rate: the learning rate at its peak.
    """
    model.train()
    weights = [one for one in model.parameters() if one.requires_grad]
    # Norms and biases do not decay.
    optimizer = torch.optim.AdamW(
        [
            {"params": [one for one in weights if one.ndim > 1], "weight_decay": 0.01},
            {"params": [one for one in weights if one.ndim < 2], "weight_decay": 0.0},
        ],
        lr=rate,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=WARMUP, cycle_momentum=False
    )
    for images, targets in itertools.islice(batches(pixels, labels, batch), steps):
        optimizer.zero_grad(set_to_none=True)
        sum(model(images, targets).values()).backward()
        optimizer.step()
        schedule.step()


def batches(
    pixels: torch.Tensor, labels: np.ndarray, batch: int
) -> Iterator[tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]]:
    """Yields noised images and their targets; every epoch has an order of its own."""
    side = pixels.shape[-1]
    noise = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02),
            v2.ScaleJitter((side, side), scale_range=(2 / 3, 3 / 2)),
            v2.RandomCrop(side, pad_if_needed=True, fill=128),
            v2.SanitizeBoundingBoxes(min_size=LEAST_SIDE),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )

    def drawn(index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        own = torch.tensor(labels[index][labels[index, :, 5] == OBJECT])
        boxes = tv_tensors.BoundingBoxes(
            own[:, :4] * side, format="XYXY", canvas_size=(side, side)
        )
        target = {"boxes": boxes, "labels": own[:, 4].long()}
        return noise(tv_tensors.Image(pixels[index]), target)

    epochs = (torch.randperm(len(pixels)).tolist() for _ in itertools.count())
    order = itertools.chain.from_iterable(epochs)
    while True:
        images, targets = zip(*(drawn(next(order)) for _ in range(batch)), strict=True)
        yield list(images), list(targets)


def predictions(model: FCOS, pixels: torch.Tensor) -> dict[str, np.ndarray]:
    """Returns what a detector finds, as `decode.decode` does, one image at a time."""
    model.eval()
    side, most = pixels.shape[-1], model.detections_per_img
    shapes = {"boxes": (most, 4), "scores": (most,), "classes": (most,)}
    found = {
        name: np.zeros((len(pixels), *shape), np.float32)
        for name, shape in shapes.items()
    }
    for row, image in enumerate(pixels):
        with torch.inference_mode():
            (one,) = model([image.float() / 255])
        count = len(one["scores"])
        found["boxes"][row, :count] = one["boxes"] / side
        found["scores"][row, :count] = one["scores"]
        found["classes"][row, :count] = one["labels"]
    return found

"""All config fields in one table: default, type, limits, and the meaning of ``None``.

A field that can be left open, or that names something optional, can be ``None``
(``none`` on the command line); `RULES` describes how it is filled in. ``"auto"`` only
names a strategy chosen when a program is lowered or a reader is opened:
``model.depthwise``, ``model.layers``, ``noise.*.randaugment_form``, ``data.decoder``.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from noisy_student_jax.config.accelerators import CHIPS
from noisy_student_jax.core.model_arguments import ModelArguments

GENERATION_SECTIONS = ("model", "train", "noise", "labels", "selection", "fixres")
"""Sections that each generation can set; the others belong to the run."""

LABELS_ONLY = ("control", "probe", "fine_tuning")
"""Baselines trained on labels only, to compare the generations with. Each inherits
unset fields from the last generation."""

OWNERS = ("generations", *LABELS_ONLY)
"""Owners of sections."""

DEFINED: dict[str, dict[str, Any]] = {
    "probe": {
        "train": {"part": "head", "ratio": 0.0},
        "noise": {"labeled": {"dropout": False}},
        "fixres": {"resolution": None},
    },
    "fine_tuning": {"train": {"part": "all", "ratio": 0.0}},
}
"""Fixed fields that define some of `LABELS_ONLY`; they cannot be overridden."""

OFF, MODEL, WITH_MODEL, DECIDED = "off", "model", "with_model", "decided"
RUN, OTHER = "run", "other"
RULES = {
    OFF: "there is none, or it is off",
    MODEL: "the model's own value, or that of the bundle that it starts from",
    WITH_MODEL: "decided with model.name where that is none, else the model's own",
    DECIDED: "decided from images of one's own and the machine",
    RUN: "the run knows: its folder, its images, its machine, its dataset",
    OTHER: "the other of steps and epochs says how long",
}
"""How a field that is ``None`` is filled in. `planning.auto_config` fills ``decided``
fields for a user's own images; otherwise they must be given. It also decides the steps
if both ``train.steps`` and ``train.epochs`` are open."""

_INFINITY = float("inf")
ABOVE_0 = (1e-12, _INFINITY)
_FROM_0 = (0, _INFINITY)
_FROM_1 = (1, _INFINITY)
_FRACTION = (0.0, 1.0)
_SEED = (0, 2**31 - 1)


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a config.

    Attributes:
      kind: its type.
      default: the value of the paper's ImageNet runs.
      about: its meaning.
      limits: the smallest and the largest valid number.
      choices: the valid strings; any if empty.
      of: the type of a tuple's members.
      none: the key of `RULES` that fills it in when it is ``None``; ``None`` if it must
        be given.
      operational: whether it affects how a run executes but not its result, so no
        stage depends on it.
      length: number of members of a tuple.
    """

    kind: type
    default: Any
    about: str
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    of: type = float
    none: str | None = None
    operational: bool = False
    length: int | None = None


def _whole(default: Any, limits: tuple, about: str, none: Any = None) -> Field:
    return Field(int, default, about, limits=limits, none=none)


def _number(default: Any, limits: tuple, about: str, none: Any = None) -> Field:
    return Field(float, default, about, limits=limits, none=none)


def _text(default: Any, about: str, none: Any = None) -> Field:
    return Field(str, default, about, none=none)


def _one_of(choices: Sequence[str], about: str, *, first: bool = True) -> Field:
    default, none = (choices[0], None) if first else (None, OFF)
    return Field(str, default, about, choices=tuple(choices), none=none)


def _per_channel() -> Field:
    about = "of each channel, on the 0–1 scale"
    return Field(tuple, None, about, none=MODEL, length=3)


def _switch(default: bool, about: str, none: Any = None) -> Field:
    return Field(bool, default, about, none=none)


def _operational(**fields: Any) -> dict[str, Any]:
    return {
        key: _operational(**one)
        if isinstance(one, dict)
        else dataclasses.replace(one, operational=True)
        for key, one in fields.items()
    }


_EXPECTED = {
    "labeled": _whole(None, _FROM_1, "labeled images", OFF),
    "pool": _whole(None, _FROM_1, "unlabeled images", OFF),
    "validation": _whole(None, _FROM_1, "validation images", OFF),
    "test": _whole(None, _FROM_1, "test images", OFF),
    "classes": _whole(None, _FROM_1, "classes", OFF),
}
"""Sizes of datasets that are not present, for `plan`; no run reads them."""
_DATA = {
    "name": _text("digits", "dataset: 'digits', 'own', or 'module:function'"),
    "pipeline": _one_of(("prepared", "streamed"), "images are cached, or streamed"),
    "decoder": _one_of(("auto", "plain"), "plain: Pillow alone decodes and resizes"),
    "lanes": _whole(None, _FROM_1, "sequential readers of slow storage", OFF),
    "lane_block": _whole(256, _FROM_1, "records that a lane reads in a row"),
    "lane_window": _whole(16, _FROM_1, "blocks that a lane shuffles among"),
    "image_feature": _text(None, "name of the images in record files", RUN),
    "label_feature": _text(None, "name of the labels in record files", RUN),
    "first_label": _whole(1, (0, 1), "index of the first class in TFRecord files"),
    "labels_per_class": _whole(None, _FROM_1, "labels kept; None keeps all", OFF),
    "validation": _whole(200, _FROM_1, "validation images of the digits"),
    "test": _whole(600, _FROM_1, "test images of the digits"),
    "validation_fraction": _number(
        0.1, (0.0, 0.9), "split off; 0: labeled images, left out in turn", DECIDED
    ),
    "test_fraction": _number(0.2, (0.001, 0.9), "split off if none are given"),
    "pool_shards": _whole(4, _FROM_1, "files that the pool's labels are kept in"),
    "options": {},
    # Location and loading of images; the images are identified by their keys.
    **_operational(
        sources={
            "labeled": _text(None, "folder, tfds: or tfrecord: of labeled images", OFF),
            "unlabeled": _text(None, "the same, of unlabeled images", OFF),
            "validation": _text(None, "the same, of validation images", OFF),
            "test": _text(None, "the same, of test images", OFF),
        },
        augment=_one_of(
            ("host", "device"), "where streamed images are noised; the same pixels"
        ),
        cache=_text(None, "folder of prepared images", RUN),
        side=_whole(None, _FROM_1, "shorter side of prepared images", RUN),
        workers=_whole(None, _FROM_1, "processes that prepare images", RUN),
        near_duplicates=_one_of(
            ("keep", "exclude"),
            "training images that look like validation or test images",
        ),
        max_quarantined=_number(0.05, _FRACTION, "fraction of unusable images allowed"),
        scale=Field(
            tuple,
            None,
            "of more than 8 bits: values of black and white",
            none=RUN,
            length=2,
        ),
        max_pixels=_whole(
            64_000_000, _FROM_1, "most pixels decoded; of JPEGs, after shrinking"
        ),
        resident_gigabytes=_number(
            2.0, _FROM_0, "limit for images kept on the devices"
        ),
        prefetch=_whole(1, (0, 8), "batches prepared ahead"),
        expected=_EXPECTED,
    ),
}
_OWN = ModelArguments()
_MODEL = {
    "name": _text("efficientnet_b0", "architecture, or 'module:function'", DECIDED),
    "members": Field(
        tuple,
        None,
        "networks of 'concatenated'; None: Lite0 to Lite2",
        of=str,
        none=MODEL,
    ),
    # The hash of the weights is an input of the stage.
    **_operational(
        init=_text("random", "'random', 'teacher', 'pretrained', or a bundle", DECIDED)
    ),
    "resolution": _whole(None, _FROM_1, "side of the images", WITH_MODEL),
    "crop_padding": _whole(32, _FROM_0, "border cut off in evaluation", DECIDED),
    "framing": _one_of(
        ("center_crop", "letterbox"), "letterbox: whole images beside gray"
    ),
    "interpolation": _one_of(
        ("bicubic", "bilinear", "bicubic_tf1"), "how images are resized"
    ),
    "mean": _per_channel(),
    "std": _per_channel(),
    "dropout_rate": _number(
        _OWN.dropout_rate, (0.0, 0.999), "before the classifier", MODEL
    ),
    "stochastic_depth": _number(
        _OWN.stochastic_depth, (0.0, 0.999), "of the last block; less before"
    ),
    "batch_norm_momentum": _number(
        _OWN.batch_norm_momentum, _FRACTION, "of the moving statistics"
    ),
    "batch_norm_epsilon": _number(
        _OWN.batch_norm_epsilon, ABOVE_0, "added to the variance"
    ),
    "batch_norm_group": _whole(
        None, _FROM_1, "images that share batch statistics", OFF
    ),
    "dtype": _one_of(("float32", "bfloat16"), "of the activations"),
    "remat": _switch(_OWN.remat, "activations are recomputed in the backward pass"),
    "depthwise": _one_of(("auto", "grouped", "shifted"), "auto: chosen when lowered"),
    "layers": _one_of(("auto", "own", "flax"), "auto: own on a CPU, else Flax's"),
    "views": _whole(_OWN.views, (1, 4), "of an image, averaged in prediction", DECIDED),
}
_TRAIN = {
    "part": Field(
        str, "all", "all, or the head alone", choices=("all", "head"), none=DECIDED
    ),
    "batch": _whole(2048, _FROM_1, "labeled images in a step"),
    "ratio": _number(14.0, _FROM_0, "pseudo-labeled images per labeled image"),
    "epochs": _number(350.0, ABOVE_0, "over the labeled images", OTHER),
    "steps": _whole(None, _FROM_1, "in place of epochs", OTHER),
    "microbatches": _whole(1, _FROM_1, "parts of a batch computed sequentially"),
    **_operational(
        shard_state=_switch(False, "each device holds a shard of the state"),
    ),
    "frozen_blocks": _whole(None, (0, 10_000), "and the stem keep their weights", OFF),
    "optimizer": Field(
        str,
        "rmsprop",
        "lbfgs: a head alone is solved",
        choices=("rmsprop", "sgd", "adamw", "lbfgs"),
        none=DECIDED,
    ),
    "learning_rate": _number(0.016, ABOVE_0, "peak per 256 labeled images", DECIDED),
    "schedule": _one_of(("exponential", "cosine", "constant"), "after the warm-up"),
    "decay_epochs": _number(2.4, ABOVE_0, "of a stair of the exponential schedule"),
    "decay_factor": _number(0.97, _FRACTION, "of a stair of the exponential schedule"),
    "warmup_epochs": _number(5.0, _FROM_0, "of the learning rate, from zero"),
    "momentum": _number(0.9, (0.0, 0.9999), "of RMSProp and SGD"),
    "weight_decay": _number(1e-5, _FROM_0, "of all but batch norm's scale and bias"),
    "label_smoothing": _number(0.1, (0.0, 0.999), "of true labels"),
    "loss_normalization": _one_of(("code", "sum", "average"), "of the two streams"),
    "targets": _one_of(("soft", "hard"), "soft or hard pseudo-labels"),
    "temperature": _number(1.0, ABOVE_0, "of soft pseudo-labels"),
    "ema_decay": _number(0.9999, (0.0, 0.9999999), "of the averaged weights"),
}
_NOISE = {
    "randaugment_layers": _whole(2, (0, 16), "operations on each image", DECIDED),
    "randaugment_magnitude": _number(27.0, (0.0, 30.0), "of the operations"),
    "randaugment_behavior": _one_of(
        ("reference", "clean"), "the authors', or repaired"
    ),
    "randaugment_translate": _number(100.0, _FROM_0, "most, in pixels", DECIDED),
    "randaugment_cutout": _number(40.0, _FROM_0, "most, in pixels", DECIDED),
    # The pixels are the same.
    **_operational(
        randaugment_form=_one_of(
            ("auto", "one_by_one", "together"), "auto: chosen when lowered"
        )
    ),
    "flip": _switch(True, "half of the images are mirrored"),
    "crop_area": _number(0.0, _FRACTION, "least share of a crop; 0: no crop", DECIDED),
    "crop_padding": _whole(0, _FROM_0, "border that crops move in, in pixels", DECIDED),
    "cutout_size": _whole(0, _FROM_0, "side of a gray square, in pixels"),
    "zoom": _number(0.0, (0.0, 16.0), "largest factor; where targets move; 0: off"),
    "turns": _switch(False, "turns by quarters; where targets move"),
    "dropout": _switch(True, "dropout is on for this stream"),
    "stochastic_depth": _switch(True, "stochastic depth is on for this stream"),
}
_SCHEMA: dict[str, Any] = {
    "seed": _whole(0, _SEED, "of all random numbers"),
    "task": _text("classification", "task: 'classification', or 'module:function'"),
    "budget_hours": _number(None, ABOVE_0, "time that the run is fitted to", OFF),
    "teacher": _text(None, "bundle in place of the first teacher", OFF),
    "data": _DATA,
    "model": _MODEL,
    "train": _TRAIN,
    "noise": {"labeled": _NOISE, "pseudo": _NOISE},
    "labels": {
        **_operational(batch=_whole(256, _FROM_1, "images labeled at once")),
        "top_k": _whole(None, _FROM_1, "classes kept; None: all, of many some", RUN),
        "mode": _one_of(("stored", "on_the_fly"), "labels on disk, or in the step"),
    },
    "selection": {
        "method": _one_of(("paper", "reference", "all"), "how classes are balanced"),
        "min_score": _number(0.3, _FRACTION, "scores below are left out", DECIDED),
        "per_class": _whole(130_000, _FROM_1, "records drawn per class", DECIDED),
        "max_copies": _whole(None, _FROM_1, "copies of one record, at most", OFF),
        "share": _number(1.0, _FRACTION, "of the pool: the surest, for 'all'", DECIDED),
        "max_score": _number(1.0, _FRACTION, "scores above are left out"),
        "pool_fraction": _number(1.0, _FRACTION, "of the pool, drawn at random"),
        "seed": _whole(0, _SEED, "of ties and of the last repeats"),
        "relabel": _switch(False, "the teacher's own selection is labeled anew"),
    },
    "fixres": {
        "resolution": _whole(None, _FROM_1, "side of the fine-tuning's images", OFF),
        "epochs": _number(1.5, ABOVE_0, "over the labeled images", OTHER),
        "steps": _whole(None, _FROM_1, "in place of epochs", OTHER),
        "frozen_blocks": _whole(0, (0, 10_000), "and the stem; None: nothing", OFF),
        "batch": _whole(None, _FROM_1, "None: as in training", RUN),
    },
    "generations": (),
    "control": {"enabled": _switch(True, "labels alone, the last student's model")},
    "probe": {
        "enabled": _switch(False, "labels alone, the head of given weights", DECIDED)
    },
    "fine_tuning": {"enabled": _switch(False, "labels alone, all of given weights")},
    "evaluation": {
        **_operational(batch=_whole(256, _FROM_1, "images at once")),
        "confidence": _number(0.95, (0.5, 0.9999), "of intervals"),
        "bootstrap": _whole(10_000, (100, 10_000_000), "samples of an interval"),
    },
    **_operational(
        checkpoint={
            "every_steps": _whole(1000, _FROM_1, "between checkpoints"),
            "keep": _whole(2, _FROM_1, "checkpoints kept"),
        },
        log={
            "every_steps": _whole(100, _FROM_1, "between lines of metrics.jsonl"),
            "validate_every_steps": _whole(1000, _FROM_1, "between validations"),
            "every_seconds": _number(10.0, _FROM_0, "between progress lines"),
            "profile_steps": _whole(
                None,
                _FROM_1,
                "traced for TensorBoard's xprof plugin, or Perfetto",
                OFF,
            ),
        },
        # Assumptions of `plan`; no run reads them.
        plan={
            "chip": _one_of(tuple(CHIPS), "accelerator of the estimate", first=False),
            "devices": _whole(None, _FROM_1, "None: the devices of this machine", RUN),
            "utilization": _number(
                0.1, (0.001, 1.0), "fraction of peak FLOP/s achieved"
            ),
        },
    ),
}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Field]:
    found: dict[str, Field] = {}
    for key, value in tree.items():
        if isinstance(value, Field):
            found[prefix + key] = value
        elif isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
    return found


FIELDS = _flat(_SCHEMA)
"""Every field by its dotted path."""

OWNER = re.compile(rf"^(generations\[\d+\]|{'|'.join(LABELS_ONLY)})\.(?!enabled$)")
"""Prefix of the path of a field of one owner of sections."""


def field(path: str) -> Field | None:
    """Returns the field at a path, with or without an owner; None for a free option."""
    return FIELDS.get(OWNER.sub("", path))


def base_config() -> ConfigDict:
    """Returns a config with all fields at the values of the paper's ImageNet runs."""

    def defaults(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: defaults(value) for key, value in tree.items()}
        return tree.default if isinstance(tree, Field) else tree

    return ConfigDict(defaults(_SCHEMA))


SHORT_NAMES = {
    "labeled": "data.sources.labeled",
    "unlabeled": "data.sources.unlabeled",
    "validation": "data.sources.validation",
    "test": "data.sources.test",
    "init": "model.init",
    "members": "model.members",
    "train": "train.part",
}
"""Abbreviations of field names on the command line."""

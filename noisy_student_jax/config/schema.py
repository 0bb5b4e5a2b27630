"""Every field of a config: its default, what it may be, whether it identifies a run."""

import dataclasses

import ml_collections

from noisy_student_jax.config.accelerators import CHIPS
from noisy_student_jax.core.model_arguments import ModelArguments

ConfigDict = ml_collections.ConfigDict

GENERATION_SECTIONS = ("model", "train", "noise", "labels", "selection", "fixres")
"""What a generation may say for itself; the rest is the run's."""

LABELS_ONLY = ("control", "probe", "fine_tuning")
"""What is trained beside the generations, on labels only, to compare them with. Each
takes from the last generation what it does not say itself."""

DEFINED = {
    "probe": {
        "train": {"part": "head", "ratio": 0.0},
        "noise": {"labeled": {"dropout": False}},
        "fixres": {"resolution": 0},
    },
    "fine_tuning": {"train": {"part": "all", "ratio": 0.0}},
}
"""What makes some of `LABELS_ONLY` what they are; nothing overrides it."""

OPERATIONAL = (
    "checkpoint",
    "log",
    # Where weights lie that a model starts from; their hash is an input of its stage.
    "model.init",
    # Where the state lives while it is trained; it is the same state.
    "train.shard_state",
    # Whether it was compiled by this process or an earlier one: it is the same program.
    "train.reuse_program",
    # Where images lie and how they are brought in: what they are is told by their keys.
    "data.sources",
    "data.cache",
    "data.side",
    "data.workers",
    "data.max_quarantined",
    "data.resident_gigabytes",
    "data.prefetch",
    # How it is computed; the pixels are the same.
    "noise.labeled.randaugment_form",
    "noise.pseudo.randaugment_form",
    # The same pixels either way.
    "data.augment",
    "labels.batch",
    "evaluation.batch",
    "evaluation.in_pieces",
    # What `plan` reckons with; no run reads them.
    "data.expected",
    "plan",
)
"""Fields that change how a run goes but not its result; no stage depends on them."""

_DATA = {
    "name": "digits",
    "sources": {
        "labeled": "",
        "unlabeled": "",
        "validation": "",
        "test": "",
    },
    "road": "prepared",
    "decoder": "auto",
    "augment": "host",
    "cache": "",
    "side": 0,
    "workers": 0,
    "max_quarantined": 0.05,
    "resident_gigabytes": 2.0,
    "prefetch": 1,
    "lanes": 0,
    "lane_block": 256,
    "lane_window": 16,
    "image_feature": "",
    "label_feature": "",
    "first_label": 1,
    "labels_per_class": 0,
    "validation": 200,
    "test": 600,
    "validation_fraction": 0.1,
    "test_fraction": 0.2,
    "pool_shards": 4,
    "expected": {
        "labeled": 0,
        "pool": 0,
        "validation": 0,
        "test": 0,
        "classes": 0,
    },
    "options": {},
}
_MODEL = {
    "name": "efficientnet_b0",
    "init": "",
    "resolution": 0,
    "crop_padding": 32,
    "interpolation": "bicubic",
    "mean": (),
    "std": (),
    **dataclasses.asdict(ModelArguments()),
    "dropout_rate": -1.0,
}
_TRAIN = {
    "part": "all",
    "batch": 2048,
    "ratio": 14.0,
    "epochs": 350.0,
    "steps": 0,
    "microbatches": 1,
    "shard_state": False,
    "reuse_program": True,
    "optimizer": "rmsprop",
    "learning_rate": 0.016,
    "schedule": "exponential",
    "decay_epochs": 2.4,
    "decay_factor": 0.97,
    "warmup_epochs": 5.0,
    "momentum": 0.9,
    "weight_decay": 1e-5,
    "label_smoothing": 0.1,
    "loss_normalization": "code",
    "targets": "soft",
    "temperature": 1.0,
    "ema_decay": 0.9999,
}
_NOISE = {
    "randaugment_layers": 2,
    "randaugment_magnitude": 27.0,
    "randaugment_behavior": "reference",
    "randaugment_translate": 100.0,
    "randaugment_cutout": 40.0,
    "randaugment_form": "auto",
    "flip": True,
    "crop_area": 0.0,
    "crop_padding": 0,
    "cutout_size": 0,
    "dropout": True,
    "stochastic_depth": True,
}
_SELECTION = {
    "method": "paper",
    "min_score": 0.3,
    "per_class": 130_000,
    "max_copies": 0,
    "seed": 0,
    "relabel": False,
}
_FIXRES = {
    "resolution": 0,
    "epochs": 1.5,
    "steps": 0,
    "frozen_blocks": 0,
    "batch": 0,
}


def base_config() -> ConfigDict:
    """Returns every field, at the value of the paper's ImageNet runs."""
    return ConfigDict(
        {
            "seed": 0,
            "task": "classification",
            "budget_hours": 0.0,
            "teacher": "",
            "data": _DATA,
            "model": _MODEL,
            "train": _TRAIN,
            "noise": {"labeled": dict(_NOISE), "pseudo": dict(_NOISE)},
            "labels": {"batch": 256, "top_k": 0, "mode": "stored"},
            "selection": _SELECTION,
            "fixres": _FIXRES,
            "generations": (),
            "control": {"enabled": True},
            "probe": {"enabled": False},
            "fine_tuning": {"enabled": False},
            "evaluation": {
                "batch": 256,
                "in_pieces": True,
                "confidence": 0.95,
                "bootstrap": 10_000,
            },
            "checkpoint": {"every_steps": 1000, "keep": 2, "asynchronous": True},
            "log": {
                "every_steps": 100,
                "validate_every_steps": 1000,
                "every_seconds": 10.0,
            },
            "plan": {"chip": "", "devices": 0, "utilization": 0.1},
        }
    )


SHORT_NAMES = {
    "labeled": "data.sources.labeled",
    "unlabeled": "data.sources.unlabeled",
    "validation": "data.sources.validation",
    "test": "data.sources.test",
    "init": "model.init",
    "train": "train.part",
}
"""What people may write on the command line for a longer name."""

CHOICES = {
    "data.road": ("prepared", "streamed"),
    "data.decoder": ("auto", "plain"),
    "data.augment": ("host", "device"),
    "model.interpolation": ("bicubic", "bilinear", "nearest", "bicubic_tf1"),
    "noise.*.randaugment_behavior": ("reference", "clean"),
    "noise.*.randaugment_form": ("auto", "one_by_one", "together"),
    "model.dtype": ("float32", "bfloat16"),
    "model.depthwise": ("auto", "grouped", "shifted"),
    "model.layers": ("own", "flax"),
    "train.part": ("all", "head"),
    "train.optimizer": ("rmsprop", "sgd", "adamw"),
    "train.schedule": ("exponential", "cosine", "constant"),
    "train.loss_normalization": ("code", "sum", "average"),
    "train.targets": ("soft", "hard"),
    "labels.mode": ("stored", "on_the_fly"),
    "selection.method": ("paper", "reference", "all"),
    "plan.chip": ("", *CHIPS),
}

_FRACTION = (0.0, 1.0)
POSITIVE = (1e-12, float("inf"))
_AT_LEAST_ZERO = (0.0, float("inf"))
_AT_LEAST_ONE = (1, float("inf"))
RANGES = {
    "seed": (0, 2**31 - 1),
    "budget_hours": _AT_LEAST_ZERO,
    "data.side": _AT_LEAST_ZERO,
    "data.workers": _AT_LEAST_ZERO,
    "data.max_quarantined": _FRACTION,
    "data.resident_gigabytes": _AT_LEAST_ZERO,
    "data.prefetch": (0, 8),
    "data.lanes": _AT_LEAST_ZERO,
    "data.lane_block": _AT_LEAST_ONE,
    "data.lane_window": _AT_LEAST_ONE,
    "data.validation_fraction": (0.001, 0.9),
    "data.test_fraction": (0.001, 0.9),
    "data.first_label": (0, 1),
    "data.labels_per_class": _AT_LEAST_ZERO,
    "data.validation": _AT_LEAST_ONE,
    "data.test": _AT_LEAST_ONE,
    "data.pool_shards": _AT_LEAST_ONE,
    "data.expected.labeled": _AT_LEAST_ZERO,
    "data.expected.pool": _AT_LEAST_ZERO,
    "data.expected.validation": _AT_LEAST_ZERO,
    "data.expected.test": _AT_LEAST_ZERO,
    "data.expected.classes": _AT_LEAST_ZERO,
    "model.resolution": _AT_LEAST_ZERO,
    "model.crop_padding": _AT_LEAST_ZERO,
    "model.dropout_rate": (-1.0, 0.999),
    "model.stochastic_depth": (0.0, 0.999),
    "model.batch_norm_momentum": _FRACTION,
    "model.batch_norm_epsilon": POSITIVE,
    "model.batch_norm_group": _AT_LEAST_ZERO,
    "train.batch": _AT_LEAST_ONE,
    "train.ratio": _AT_LEAST_ZERO,
    "train.epochs": _AT_LEAST_ZERO,
    "train.steps": _AT_LEAST_ZERO,
    "train.microbatches": _AT_LEAST_ONE,
    "train.learning_rate": POSITIVE,
    "train.decay_epochs": POSITIVE,
    "train.decay_factor": _FRACTION,
    "train.warmup_epochs": _AT_LEAST_ZERO,
    "train.momentum": (0.0, 0.9999),
    "train.weight_decay": _AT_LEAST_ZERO,
    "train.label_smoothing": (0.0, 0.999),
    "train.temperature": POSITIVE,
    "train.ema_decay": (0.0, 0.9999999),
    "noise.*.randaugment_layers": (0, 16),
    "noise.*.randaugment_magnitude": (0.0, 30.0),
    "noise.*.randaugment_translate": _AT_LEAST_ZERO,
    "noise.*.randaugment_cutout": _AT_LEAST_ZERO,
    "noise.*.crop_area": _FRACTION,
    "noise.*.crop_padding": _AT_LEAST_ZERO,
    "noise.*.cutout_size": _AT_LEAST_ZERO,
    "labels.batch": _AT_LEAST_ONE,
    "labels.top_k": _AT_LEAST_ZERO,
    "selection.min_score": _FRACTION,
    "selection.per_class": _AT_LEAST_ONE,
    "selection.max_copies": _AT_LEAST_ZERO,
    "selection.seed": (0, 2**31 - 1),
    "fixres.resolution": _AT_LEAST_ZERO,
    "fixres.epochs": _AT_LEAST_ZERO,
    "fixres.steps": _AT_LEAST_ZERO,
    "fixres.frozen_blocks": (-1, 10_000),
    "fixres.batch": _AT_LEAST_ZERO,
    "evaluation.batch": _AT_LEAST_ONE,
    "evaluation.confidence": (0.5, 0.9999),
    "evaluation.bootstrap": (100, 10_000_000),
    "checkpoint.every_steps": _AT_LEAST_ONE,
    "checkpoint.keep": _AT_LEAST_ONE,
    "log.every_steps": _AT_LEAST_ONE,
    "log.validate_every_steps": _AT_LEAST_ONE,
    "log.every_seconds": _AT_LEAST_ZERO,
    "plan.devices": _AT_LEAST_ZERO,
    "plan.utilization": (0.001, 1.0),
}

"""Migration of configs and records from older names and values to current ones.

Keys changed to American spelling and to the field's terms. Open or disabled fields
became ``None``; earlier, each field had its own value for that. All files of a run are
read through this module, so older runs resume and recorded identities compare equal.
Old values are never valid today, so migrating current data changes nothing.
"""

from typing import Any

from noisy_student_jax.config.schema import LABELS_ONLY

WORDS = {
    "labelled": "labeled",
    "unlabelled": "unlabeled",
    "pseudo_labelled": "pseudo_labeled",
    "road": "pipeline",
}
"""Current spelling of keys (or parts of keys between slashes), by the old one."""

NOISE_IN_PIXELS = {
    "randaugment_translate": -1.0,
    "randaugment_cutout": -1.0,
    "crop_area": -1.0,
    "crop_padding": -1,
}
NONE = {
    "budget_hours": 0.0,
    "teacher": "",
    **{f"data.sources.{n}": "" for n in ("labeled", "unlabeled", "validation", "test")},
    "data.cache": "",
    "data.side": 0,
    "data.workers": 0,
    "data.lanes": 0,
    "data.image_feature": "",
    "data.label_feature": "",
    "data.labels_per_class": 0,
    **{f"data.expected.{n}": 0 for n in ("labeled", "pool", "validation", "test")},
    "data.expected.classes": 0,
    "model.name": "auto",
    "model.init": "auto",
    "model.resolution": 0,
    "model.crop_padding": -1,
    "model.mean": (),
    "model.std": (),
    "model.dropout_rate": -1.0,
    "model.batch_norm_group": 0,
    "train.part": "auto",
    "train.epochs": 0.0,
    "train.steps": 0,
    "train.learning_rate": 0.0,
    **{f"noise.labeled.{name}": value for name, value in NOISE_IN_PIXELS.items()},
    **{f"noise.pseudo.{name}": value for name, value in NOISE_IN_PIXELS.items()},
    "labels.top_k": 0,
    "selection.per_class": 0,
    "selection.max_copies": 0,
    "fixres.resolution": 0,
    "fixres.epochs": 0.0,
    "fixres.steps": 0,
    "fixres.frozen_blocks": -1,
    "fixres.batch": 0,
    "plan.chip": "",
    "plan.devices": 0,
}
"""The old value that meant ``None``, by field."""

REMOVED = (
    "checkpoint.asynchronous",
    "evaluation.in_pieces",
    "train.reuse_program",
)
"""Fields that are gone; operational ones, so no stage depended on them."""

ADDED: dict[str, dict[str, Any]] = {
    "log": {"profile_steps": None},
    "data": {"near_duplicates": "keep", "max_pixels": 64_000_000, "scale": None},
    "selection": {"share": 1.0, "max_score": 1.0, "pool_fraction": 1.0},
    "model": {"members": None, "views": 1, "framing": "center_crop"},
    "train": {"frozen_blocks": None},
    "noise.labeled": {"zoom": 0.0, "turns": False},
    "noise.pseudo": {"zoom": 0.0, "turns": False},
}
"""By section, fields that older runs lack, and what they did; identities have them only
where they do something else."""

AS_BEFORE = {"model.layers": ("auto", "own")}
"""By field, a value that does what an older one did, which identities keep."""

OTHERS = {"model.init": ("", "random")}
"""Other changed values by field: old and new."""


def word(key: str) -> str:
    """Returns the current spelling of a key."""
    return "/".join(WORDS.get(part, part) for part in key.split("/"))


def respelled(tree: Any) -> Any:
    """Returns a tree of dictionaries and lists with every key in current spelling."""
    if isinstance(tree, dict):
        return {word(key): respelled(value) for key, value in tree.items()}
    return [respelled(one) for one in tree] if isinstance(tree, list) else tree


def value(field: str, given: Any) -> Any:
    """Returns the current form of a field's value.

    Args:
      field: its path, without an owner.
      given: its old or current value.
    """
    if field in OTHERS and given == OTHERS[field][0]:
        return OTHERS[field][1]
    compared = tuple(given) if isinstance(given, list) else given
    stands_for_none = (
        field in NONE and not isinstance(given, bool) and compared == NONE[field]
    )
    return None if stands_for_none else given


def identical(field: str, given: Any) -> Any:
    """Returns the value that stands for a field's value in identities.

    Args:
      field: its path, without an owner.
      given: its current value.
    """
    now, older = AS_BEFORE.get(field, (given, given))
    return older if given == now else given


def is_as_before(field: str, given: Any) -> bool:
    """Whether a field's value does what was done before there was the field.

    Args:
      field: its path, without an owner.
      given: its current value.
    """
    section, _, name = field.rpartition(".")
    added = ADDED.get(section, {})
    return name in added and added[name] == given


def settings(tree: Any, *, path: str = "", identity: bool = False) -> Any:
    """Returns a config, or a part of one, in its current form.

    Args:
      tree: plain dictionaries and lists.
      path: its path in a run's or an owner's config.
      identity: whether it is without operational fields.
    """
    if path == "data.options":
        return tree
    if path == "generations" and isinstance(tree, (list, tuple)):
        return [settings(one, identity=identity) for one in tree]
    if not isinstance(tree, dict):
        return value(path, tree)
    if path in LABELS_ONLY:
        path = ""
    of = {key: f"{path}.{word(key)}" if path else word(key) for key in tree}
    added = {} if identity else ADDED.get(path, {})
    return added | {
        word(key): settings(one, path=of[key], identity=identity)
        for key, one in tree.items()
        if of[key] not in REMOVED
    }


def before(tree: Any, *, path: str = "") -> Any:
    """Returns a part of a config in its old form: the inverse of `settings`."""
    if path == "data.options":
        return tree
    if isinstance(tree, dict):
        words = {new: old for old, new in WORDS.items()}
        return {
            words.get(key, key): before(one, path=f"{path}.{key}" if path else key)
            for key, one in tree.items()
        }
    if tree is None:
        return NONE.get(path)
    if path in OTHERS and tree == OTHERS[path][1]:
        return OTHERS[path][0]
    return tree


def record(found: dict[str, Any]) -> dict[str, Any]:
    """Returns a record of the ledger in its current form."""
    return {**respelled(found), "config": settings(found["config"], identity=True)}

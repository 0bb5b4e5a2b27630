"""Configs: read from a file, overridden, completed and checked before use.

A config file has ``get_config()`` and starts from `base_config`. `load` reads it,
applies ``--config.key=value`` overrides, and completes it: every generation, and
the models that it is compared with, get a full copy of the sections a generation
owns, so that what is written as ``config.json`` is all that a run reads. The fields
are in `fields`.
"""

import ast
import copy
import importlib.util
import json
import math
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections.config_flags import config_path

from noisy_student_jax.config.schema import (
    CHOICES,
    DEFINED,
    GENERATION_SECTIONS,
    LABELS_ONLY,
    OPERATIONAL,
    POSITIVE,
    RANGES,
    SHORT_NAMES,
    ConfigDict,
    base_config,
)
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError, nearest, one_line

__all__ = [
    "GENERATION_SECTIONS",
    "ConfigDict",
    "base_config",
    "check",
    "complete",
    "defaults",
    "flatten",
    "from_json",
    "identity",
    "load",
    "plain",
    "to_json",
]

_OWNERS = ("generations", *LABELS_ONLY)

_OWNER = re.compile(rf"^(generations\[\d+\]|{'|'.join(LABELS_ONLY)})\.")

_TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a tuple of three numbers, or empty",
}


def load(
    path: str | pathlib.Path,
    overrides: Sequence[str] = (),
    *,
    decide: Callable[[ConfigDict], ConfigDict] = lambda config: config,
) -> ConfigDict:
    """Reads a config file, applies overrides, completes and checks it.

    Args:
      path: a Python file with ``get_config()``. It is executed: read configs of
        strangers before you run them.
      overrides: ``--config.key=value`` arguments.
      decide: fills in what the complete config leaves open, before it is checked.

    Returns:
      A locked, complete config.

    Raises:
      UserError: no such file, no ``get_config``, an unknown key, a wrong type or
        value; the message names the key.
    """
    config = _execute(pathlib.Path(path))
    own = {name: plain(config.get(name, {})) for name in LABELS_ONLY}
    config = decide(_override(complete(config), overrides, labels_only=own))
    check(config)
    return config


def defaults(overrides: Sequence[str] = ()) -> ConfigDict:
    """Returns the base with overrides, for commands that need no run.

    Raises:
      UserError: see `load`.

    Example:
      >>> config = defaults(["--config.train.batch=64"])
      >>> config.train.batch, config.generations[0].train.batch
      (64, 64)
    """
    config = base_config()
    config.generations = ({},)
    config = _override(complete(config), overrides, labels_only={})
    check(config)
    return config


def from_json(path: pathlib.Path) -> ConfigDict:
    """Reads the resolved copy that a run directory keeps.

    Raises:
      UserError: it is damaged, or of a version with other fields.
    """
    stored = files.read_json(path)
    if not isinstance(stored, dict) or not isinstance(stored.get("generations"), list):
        raise UserError(f"'{path}' is not the resolved config of a run: restore it")
    config = ConfigDict({**stored, "generations": tuple(stored["generations"])})
    config = complete(config)
    check(config)
    return config


def complete(config: ConfigDict) -> ConfigDict:
    """Gives every generation, and those of `LABELS_ONLY`, a full copy of its sections.

    The latter take what they do not say themselves from the last generation.

    Raises:
      UserError: no generations, or a key that the base does not know.
    """
    _check_keys(plain(config), plain(base_config()), "config")
    config = copy.deepcopy(config)
    if not config.generations:
        raise UserError(
            "config.generations is empty: name at least the teacher's, for example"
            " ({'model': {'name': 'efficientnet_b0'}},)"
        )
    shared = {name: plain(config[name]) for name in GENERATION_SECTIONS}
    generations = [
        _merged(shared, plain(own), f"config.generations[{number}]")
        for number, own in enumerate(config.generations)
    ]
    followed = {
        name: _followed(generations[-1], plain(config[name]), name)
        for name in LABELS_ONLY
    }
    config.unlock()
    config.generations = tuple(ConfigDict(one) for one in generations)
    for name, sections in followed.items():
        config[name] = ConfigDict(sections)
    config.lock()
    return config


def check(config: ConfigDict) -> None:
    """Checks every choice and range of a complete config.

    Raises:
      UserError: names the field, its value, and what it may be.
    """
    leaves, known = flatten(plain(config)), flatten(plain(base_config()))
    for path in sorted(leaves, key=_owner):
        value = leaves[path]
        field = _OWNER.sub("", path)
        pattern = re.sub(r"^noise\.\w+\.", "noise.*.", field)
        choices = CHOICES.get(pattern)
        if choices and value not in choices:
            raise UserError(
                f"config.{path} is '{value}', but may only be one of"
                f" {', '.join(choices)}{nearest(str(value), choices)}"
            )
        _check_type(path, value, known.get(field, known.get(path)))
        if pattern in RANGES:
            low, high = RANGES[pattern]
            if not low <= value <= high:
                raise UserError(
                    f"config.{path} is {value}, but must be {_limits(low, high)}"
                )
    for number, generation in enumerate(config.generations):
        train = generation.train
        if (train.steps > 0) == (train.epochs > 0):
            raise UserError(
                f"generation {number} needs either train.steps or train.epochs above"
                f" zero, got steps={train.steps} and epochs={train.epochs:g}"
            )


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns leaves by dotted path; members of tuples of sections by ``[index]``.

    Example:
      >>> flatten({"model": {"name": "b0"}, "generations": ({"seed": 1},)})
      {'model.name': 'b0', 'generations[0].seed': 1}
    """
    if isinstance(tree, dict):
        leaves = {}
        for key, value in tree.items():
            leaves |= flatten(value, f"{prefix}.{key}" if prefix else key)
        return leaves
    if isinstance(tree, (tuple, list)) and any(
        isinstance(member, dict) for member in tree
    ):
        leaves = {}
        for number, value in enumerate(tree):
            leaves |= flatten(value, f"{prefix}[{number}]")
        return leaves
    return {prefix: tree}


def identity(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Drops the operational fields of a (part of a) config.

    Args:
      section: plain dictionaries.
      prefix: where in a generation's or the run's config the section stands.
    """
    kept = {}
    for key, value in section.items():
        path = f"{prefix}.{key}" if prefix else key
        if path in OPERATIONAL:
            continue
        kept[key] = identity(value, path) if isinstance(value, dict) else value
    return kept


def plain(tree: Any) -> Any:
    """Returns dictionaries, lists of them, and leaves; no ConfigDict."""
    if isinstance(tree, (ConfigDict, dict)):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(plain(value) for value in tree)
    return tree


def to_json(config: ConfigDict) -> str:
    """The resolved copy that a run directory keeps."""
    return json.dumps(plain(config), indent=2, sort_keys=True) + "\n"


def _execute(path: pathlib.Path) -> ConfigDict:
    if not path.is_file():
        raise UserError(
            f"no config file at '{path}': give a Python file, for example"
            " --config=configs/digits.py"
        )
    if path.suffix != ".py":
        raise UserError(f"a config is a Python file, but '{path}' does not end in .py")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = module.get_config
    except UserError:
        raise
    except AttributeError as error:
        if "get_config" not in str(error):
            raise UserError(f"config '{path}' failed: {one_line(error)}") from error
        raise UserError(
            f"config '{path}' has no get_config(): define it and return a config"
        ) from error
    except Exception as error:
        raise UserError(f"config '{path}' failed: {one_line(error)}") from error
    try:
        config = get_config()
    except Exception as error:
        raise UserError(
            f"get_config() of '{path}' failed: {one_line(error)}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config() of '{path}' returned {type(config).__name__}, not a"
            " ConfigDict: start from noisy_student_jax.config.base_config()"
        )
    return config


def _override(
    config: ConfigDict, overrides: Sequence[str], *, labels_only: dict[str, dict]
) -> ConfigDict:
    """Applies ``--config.key=value`` arguments to a complete config.

    A key of a generation's section given without a generation is given to all of
    them and to those of `LABELS_ONLY`. These follow the last generation, also where
    that was overridden, except in what the config file (`labels_only`) or an argument
    says of them alone.
    """
    wanted = []
    for override in overrides:
        if "=" not in override:
            raise UserError(f"'{override}' has no value: write {override}=VALUE")
        name, text = override.removeprefix("--config.").split("=", 1)
        name = SHORT_NAMES.get(name, name)
        for target in _targets(config, name):
            _require(config, target)
            value = _parse(text, config_path.get_value(target, config), name)
            wanted.append((target, value))
    for target, value in wanted:
        config_path.set_value(target, config, value)
    last = plain(config.generations[-1])
    for name in LABELS_ONLY:
        own = {**labels_only.get(name, {}), "enabled": config[name].enabled}
        with config.unlocked():
            config[name] = ConfigDict(_followed(last, own, name))
    for target, value in wanted:
        if target.startswith(tuple(f"{name}." for name in LABELS_ONLY)):
            config_path.set_value(target, config, value)
    for name, sections in DEFINED.items():
        config[name].update(sections)
    return config


def _parse(text: str, default: Any, name: str) -> Any:
    """Reads a value of the type that the field has."""
    wanted = type(default)
    try:
        if wanted is str:
            return text
        if wanted is bool:
            return {"true": True, "false": False}[text.lower()]
        value = ast.literal_eval(text)
        if wanted is float and type(value) is int:
            return float(value)
        if wanted is tuple and isinstance(value, (list, tuple)):
            return tuple(value)
        if type(value) is wanted:
            return value
    except (KeyError, ValueError, SyntaxError):
        pass
    raise UserError(
        f"config.{name} takes a value of type {wanted.__name__}, but got '{text}'"
    )


def _targets(config: ConfigDict, name: str) -> list[str]:
    """Returns the fields that an override means."""
    if name.split(".")[0] not in GENERATION_SECTIONS:
        return [name]
    owners = [f"generations[{k}]" for k in range(len(config.generations))]
    return [name, *(f"{owner}.{name}" for owner in [*owners, *LABELS_ONLY])]


def _require(config: ConfigDict, name: str) -> None:
    known = flatten(plain(config))
    if name in known:
        return
    if any(path.startswith((f"{name}.", f"{name}[")) for path in known):
        raise UserError(f"config.{name} is a section: set one of the fields in it")
    match = re.match(r"generations\[(\d+)\]", name)
    if match and int(match[1]) >= len(config.generations):
        raise UserError(
            f"config.{name}: there are only generations 0 to"
            f" {len(config.generations) - 1}"
        )
    raise UserError(f"config.{name} does not exist{nearest(name, list(known))}")


def _owner(path: str) -> int:
    """Orders fields: what all share first, then the generations'."""
    return next((n for n, o in enumerate(_OWNERS, 1) if path.startswith(o)), 0)


def _check_type(path: str, value: Any, default: Any) -> None:
    if default is None:
        return  # a free option
    members = value if isinstance(value, (tuple, list)) else [value]
    if any(isinstance(one, float) and not math.isfinite(one) for one in members):
        raise UserError(f"config.{path} is {value}, but must be a finite number")
    if isinstance(default, tuple):
        # Empty: what the model was made for.
        good = isinstance(value, (tuple, list)) and len(value) in (0, 3)
        good = good and all(type(member) in (int, float) for member in value)
    elif type(default) is float:
        good = type(value) in (int, float)
    else:
        good = type(value) is type(default)
    if not good:
        raise UserError(
            f"config.{path} is {value!r}, but must be {_TYPES[type(default)]}"
        )


def _limits(low: float, high: float) -> str:
    if (low, high) == POSITIVE:
        return "above 0"
    return f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"


def _check_keys(given: dict, known: dict, where: str) -> None:
    if missing := [key for key in known if key not in given]:
        raise UserError(
            f"{where}.{missing[0]} is missing: start from"
            " noisy_student_jax.config.base_config()"
        )
    for key, value in given.items():
        if key not in known:
            # Sections of an owner, and free options, are checked elsewhere.
            owner = where.removeprefix("config.")
            if owner in LABELS_ONLY and key in GENERATION_SECTIONS:
                continue
            if where == "config.data.options":
                continue
            raise UserError(f"{where}.{key} does not exist{nearest(key, list(known))}")
        if isinstance(known[key], dict) and not isinstance(value, dict):
            raise UserError(f"{where}.{key} must be a section, not {value!r}")
        if isinstance(known[key], dict):
            _check_keys(value, known[key], f"{where}.{key}")


def _followed(last: dict, own: dict, name: str) -> dict:
    """Returns the last generation's sections with an owner's own on top."""
    own = dict(own)
    enabled = own.pop("enabled", plain(base_config())[name]["enabled"])
    followed = _merged(last, own, f"config.{name}")
    defined = _merged(followed, DEFINED.get(name, {}), f"config.{name}")
    return {"enabled": enabled, **defined}


def _merged(shared: dict, own: dict, where: str) -> dict:
    """Returns `shared` with `own` on top; refuses keys that `shared` lacks."""
    if not isinstance(own, dict):
        raise UserError(f"{where} must be a section, not {own!r}")
    merged = copy.deepcopy(shared)
    for key, value in own.items():
        if key not in merged:
            raise UserError(f"{where}.{key} does not exist{nearest(key, list(merged))}")
        if isinstance(merged[key], dict):
            merged[key] = _merged(merged[key], value, f"{where}.{key}")
        elif isinstance(value, dict):
            raise UserError(f"{where}.{key} must be a single value, not {value!r}")
        else:
            merged[key] = value
    return merged

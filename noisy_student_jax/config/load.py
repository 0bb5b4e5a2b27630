"""Loading, completing and checking configs.

A config file defines ``get_config()`` and starts from `base_config`. `load` reads it
and merges four layers, later ones taking precedence: the file's shared values, its
values for one owner of sections, shared values of the command line
(``--config.key=value``), and the command line's values for one owner. Every generation,
and every model it is compared with, thus gets a full copy of the sections a generation
owns, and ``config.json`` contains everything that a run reads. The fields are in
`schema`.
"""

import ast
import copy
import functools
import importlib.util
import json
import math
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from noisy_student_jax.config import renamed
from noisy_student_jax.config.schema import (
    ABOVE_0,
    DECIDED,
    DEFINED,
    FIELDS,
    GENERATION_SECTIONS,
    LABELS_ONLY,
    OWNERS,
    RULES,
    SHORT_NAMES,
    Field,
    base_config,
    field,
)
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError, nearest, one_line

_OWNED = re.compile(rf"^(generations\[\d+\]|{'|'.join(LABELS_ONLY)})\.(.+)$")

_TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}

MOST = 100
"""Generations that may be asked for by their number."""

Layer = dict[str, Any]
"""Values of some fields, by dotted path."""


def load(
    path: str | pathlib.Path,
    overrides: Sequence[str] = (),
    *,
    decide: Callable[[ConfigDict], ConfigDict] = lambda config: config,
) -> ConfigDict:
    """Reads a config file, applies overrides, completes and checks it.

    Args:
      path: a Python file with ``get_config()``. It is executed, so review untrusted
        configs first.
      overrides: ``--config.key=value`` arguments.
      decide: fills in fields that the complete config leaves open, before the checks.

    Returns:
      A locked, complete config.

    Raises:
      UserError: the file or ``get_config`` is missing, or a key, type or value is
        invalid; the message names the key.
    """
    config = complete(_execute(pathlib.Path(path)), overrides=overrides)
    refuse_renamed(config)
    config = decide(config)
    check(config)
    return config


def defaults(overrides: Sequence[str] = ()) -> ConfigDict:
    """Returns the base config with overrides, for commands without a run.

    Raises:
      UserError: see `load`.

    Example:
      >>> config = defaults(["--config.train.batch=64"])
      >>> config.train.batch, config.generations[0].train.batch
      (64, 64)
    """
    config = base_config()
    config.generations = ({},)
    config = complete(config, overrides=overrides)
    check(config)
    return config


def from_json(path: pathlib.Path) -> ConfigDict:
    """Reads the resolved config of a run directory.

    Raises:
      UserError: it is damaged, or from a version with other fields.
    """
    stored = files.read_json(path)
    if not isinstance(stored, dict) or not isinstance(stored.get("generations"), list):
        raise UserError(f"'{path}' is not the resolved config of a run: restore it")
    stored = renamed.settings(stored)
    config = ConfigDict({**stored, "generations": tuple(stored["generations"])})
    config = complete(config)
    check(config)
    return config


def complete(config: ConfigDict, *, overrides: Sequence[str] = ()) -> ConfigDict:
    """Gives every generation, and those of `LABELS_ONLY`, a full copy of its sections.

    Layers are merged in order of precedence, lowest first: the config's shared values,
    its values for an owner of sections, the overrides' shared values, and the
    overrides' values for that owner. Members of `LABELS_ONLY` start from the completed
    last generation and apply only their own values; `DEFINED` takes precedence over
    everything.

    Raises:
      UserError: there are no generations, a key is unknown, or a value has a wrong
        type.

    ``--config.generations=NUMBER`` cuts the generations, or repeats the last one.
    """
    given = plain(config)
    _check_keys(given, plain(base_config()), "config")
    if not given["generations"]:
        raise UserError(
            "config.generations is empty: name at least the teacher's, for example"
            " ({'model': {'name': 'efficientnet_b0'}},)"
        )
    overrides, count = _generations(overrides)
    if count:
        # The last one's own values serve all further students.
        listed = given["generations"]
        given["generations"] = (*listed, *listed[-1:] * (count - len(listed)))[:count]
    own = {f"generations[{k}]": one for k, one in enumerate(given["generations"])}
    own |= {name: given[name] for name in LABELS_ONLY}
    shared = {key: one for key, one in given.items() if key not in OWNERS}
    shared = _with_types(shared)
    said = _read(overrides, shared, own)
    shared = _layered(shared, said[""], where="config")
    sections = {name: shared[name] for name in GENERATION_SECTIONS}
    of_all = {
        path: value
        for path, value in said[""].items()
        if path.split(".")[0] in GENERATION_SECTIONS
    }
    made: dict[str, Any] = {}
    for owner, one in own.items():
        where = f"config.{owner}"
        if owner not in LABELS_ONLY:
            last = _layered(sections, one, of_all, said[owner], where=where)
            made[owner] = last
            continue
        # Shared overrides are already part of the last generation.
        alone = _without(one, of_all)
        usual = {"enabled": FIELDS[f"{owner}.enabled"].default, **last}
        defined = DEFINED.get(owner, {})
        made[owner] = _layered(usual, alone, said[owner], defined, where=where)
    whole = {name: made.pop(name) for name in LABELS_ONLY}
    whole |= {**shared, "generations": tuple(ConfigDict(one) for one in made.values())}
    completed = ConfigDict(whole)
    completed.lock()
    return completed


def _generations(overrides: Sequence[str]) -> tuple[list[str], int]:
    """Takes ``--config.generations=NUMBER`` from overrides.

    Returns:
      The other overrides, and the number; 0 where it is not given.

    Raises:
      UserError: it is no number of generations.
    """
    flag = "--config.generations="
    said = [one.removeprefix(flag) for one in overrides if one.startswith(flag)]
    if not said:
        return list(overrides), 0
    if not (said[-1].isascii() and said[-1].isdigit() and 0 < int(said[-1]) <= MOST):
        raise UserError(
            f"config.generations is '{said[-1]}', but must be the number of"
            f" generations, teacher and students, from 1 to {MOST}"
        )
    return [one for one in overrides if not one.startswith(flag)], int(said[-1])


def check(config: ConfigDict) -> None:
    """Checks the type, choice and range of every field of a complete config.

    Raises:
      UserError: a value is invalid; the message names field, value and valid values.
    """
    refuse_renamed(config)
    for path, value in _in_order(config):
        if (one := field(path)) is None:
            continue  # a free option
        if value is None and one.none is not None:
            continue
        if one.choices and value not in one.choices:
            raise UserError(
                f"config.{path} is '{value}', but may only be one of"
                f" {', '.join(one.choices)}{nearest(str(value), one.choices)}"
            )
        _check_type(path, value, one)
        if one.limits and not one.limits[0] <= value <= one.limits[1]:
            raise UserError(
                f"config.{path} is {value}, but must be {_limits(*one.limits)}"
            )
    for number, generation in enumerate(config.generations):
        train = generation.train
        solved = train.optimizer == "lbfgs"
        if (train.steps is None) == (train.epochs is None) and not solved:
            raise UserError(
                f"generation {number} needs either train.steps or train.epochs, and"
                f" the other none, got steps={_shown(train.steps)} and"
                f" epochs={_shown(train.epochs)}"
            )
    owners = [(f"generations[{k}].", one) for k, one in enumerate(config.generations)]
    for prefix, owner in [*owners, *((f"{n}.", config[n]) for n in LABELS_ONLY)]:
        left = [f"{prefix}{path}" for path in undecided(owner)]
        if config.data.validation_fraction is None:
            left.append("data.validation_fraction")
        if left:
            raise UserError(
                f"config.{left[0]} is none, and only for images of your own"
                " (config.data.name=own or boxes) is it chosen automatically: give a"
                " value"
            )


def undecided(owner: ConfigDict) -> list[str]:
    """Returns the fields of an owner of sections that are still undecided."""
    values = flatten({name: plain(owner[name]) for name in GENERATION_SECTIONS})
    found = [
        path
        for path, value in values.items()
        if value is None and FIELDS[path].none == DECIDED
    ]
    if owner.selection.method == "all" and "selection.per_class" in found:
        # Every record is selected once.
        found.remove("selection.per_class")
    if owner.train.optimizer == "lbfgs" and "train.learning_rate" in found:
        # A head that is solved takes no steps.
        found.remove("train.learning_rate")
    return found


def refuse_renamed(config: ConfigDict) -> None:
    """Rejects values that are now written differently.

    Raises:
      UserError: the message names the field and its new value.
    """
    for path, value in _in_order(config):
        one = field(path)
        now = renamed.value(_of_owner(path)[1], value) if one else value
        if one and now != value:
            means = f" ({RULES[one.none]})" if now is None and one.none else ""
            raise UserError(
                f"config.{path} is {value!r}, which is written {_shown(now)} now{means}"
            )


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns leaves by dotted path; members of tuples of sections by ``[index]``.

    Example:
      >>> flatten({"model": {"name": "b0"}, "generations": ({"seed": 1},)})
      {'model.name': 'b0', 'generations[0].seed': 1}
    """
    leaves: dict[str, Any] = {}
    if isinstance(tree, dict):
        for key, value in tree.items():
            leaves |= flatten(value, f"{prefix}.{key}" if prefix else key)
        return leaves
    if isinstance(tree, (tuple, list)) and any(
        isinstance(member, dict) for member in tree
    ):
        for number, value in enumerate(tree):
            leaves |= flatten(value, f"{prefix}[{number}]")
        return leaves
    return {prefix: tree}


def identity(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Drops the operational fields of a config or a part of it.

    Values that do the same as an older one count as that (`renamed.AS_BEFORE`).

    Args:
      section: plain dictionaries.
      prefix: path of the section in a generation's or the run's config.
    """
    kept = {}
    for key, value in section.items():
        path = f"{prefix}.{key}" if prefix else key
        known = field(path)
        if known and known.operational:
            continue
        if renamed.is_as_before(_of_owner(path)[1], value):
            continue
        if isinstance(value, dict):
            # A section without remaining fields is dropped too.
            if (inside := identity(value, path)) or not value:
                kept[key] = inside
        else:
            kept[key] = renamed.identical(_of_owner(path)[1], value)
    return kept


def plain(tree: Any) -> Any:
    """Converts a ConfigDict to plain dictionaries, with tuples for sequences."""
    if isinstance(tree, (ConfigDict, dict)):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(plain(value) for value in tree)
    return tree


def to_json(config: ConfigDict) -> str:
    """Returns the JSON text of a resolved config, as a run directory stores it."""
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
    assert spec and spec.loader, "the name ends in .py"
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


def _read(
    overrides: Sequence[str], shared: dict[str, Any], own: dict[str, Any]
) -> dict[str, Layer]:
    """Reads ``--config.key=value`` arguments.

    Args:
      overrides: the arguments; the last one for a field wins.
      shared: the shared sections.
      own: the values of each owner alone.

    Returns:
      Layers by owner; the shared one under an empty name.

    Raises:
      UserError: a field does not exist, or a value has a wrong type.
    """
    said: dict[str, Layer] = {owner: {} for owner in ("", *own)}
    every = flatten(shared)
    sections = [path for path in every if path.split(".")[0] in GENERATION_SECTIONS]
    known = [*every]
    for owner in own:
        known += [f"{owner}.{path}" for path in sections]
    known += [f"{name}.enabled" for name in LABELS_ONLY]
    for override in overrides:
        if "=" not in override:
            raise UserError(f"'{override}' has no value: write {override}=VALUE")
        name, text = override.removeprefix("--config.").split("=", 1)
        name = SHORT_NAMES.get(renamed.word(name), name)
        name = ".".join(renamed.word(part) for part in name.split("."))
        _require(name, known, generations=len(own) - len(LABELS_ONLY))
        owner, path = _of_owner(name)
        one = field(name) or Field(type(every[path]), None, "a free option")
        said[owner][path] = _parse(text, one, name)
    return said


def _parse(text: str, one: Field, name: str) -> Any:
    """Parses a value by the type of its field."""
    if one.none is not None and text.lower() == "none":
        return None
    try:
        if one.kind is str:
            return text
        if one.kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if one.of is str:
            return tuple(filter(None, map(str.strip, text.split(","))))
        value = ast.literal_eval(text)
        if one.kind is float and type(value) is int:
            return float(value)
        if one.kind is tuple and isinstance(value, (list, tuple)):
            return tuple(value)
        if type(value) is one.kind:
            return value
    except (KeyError, ValueError, SyntaxError):
        pass
    or_none = ", or none" if one.none is not None else ""
    raise UserError(
        f"config.{name} takes a value of type {one.kind.__name__}{or_none}, but got"
        f" '{text}'"
    )


def _require(name: str, known: list[str], *, generations: int) -> None:
    if name in known:
        return
    if any(path.startswith((f"{name}.", f"{name}[")) for path in known):
        raise UserError(f"config.{name} is a section: set one of the fields in it")
    match = re.match(r"generations\[(\d+)\]", name)
    if match and int(match[1]) >= generations:
        raise UserError(
            f"config.{name}: there are only generations 0 to {generations - 1}"
        )
    raise UserError(f"config.{name} does not exist{nearest(name, known)}")


def _of_owner(path: str) -> tuple[str, str]:
    """Splits a path into the owner of its section, empty if shared, and the rest."""
    match = _OWNED.match(path)
    return (match[1], match[2]) if match else ("", path)


def _in_order(config: ConfigDict) -> list[tuple[str, Any]]:
    """Returns fields and values: shared ones first, then those of each owner."""

    def owner(path: str) -> int:
        return next((n for n, o in enumerate(OWNERS, 1) if path.startswith(o)), 0)

    leaves = flatten(plain(config))
    return [(path, leaves[path]) for path in sorted(leaves, key=owner)]


def _shown(value: Any) -> str:
    """Formats a value in command-line syntax."""
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else f"{value}"


def _check_type(path: str, value: Any, one: Field) -> None:
    members = value if isinstance(value, (tuple, list)) else [value]
    if any(isinstance(m, float) and not math.isfinite(m) for m in members):
        raise UserError(f"config.{path} is {value}, but must be a finite number")
    if one.kind is tuple:
        good = isinstance(value, (tuple, list))
        if one.of is str:
            good = good and all(type(member) is str for member in value)
        else:
            good = good and len(value) == one.length
            good = good and all(type(member) in (int, float) for member in value)
    elif one.kind is float:
        good = type(value) in (int, float)
    else:
        good = type(value) is one.kind
    if not good:
        or_none = ", or none" if one.none is not None else ""
        raise UserError(
            f"config.{path} is {value!r}, but must be {_type(one)}{or_none}"
        )


def _type(one: Field) -> str:
    if one.of is str:
        return "a tuple of names"
    if one.kind is tuple:
        assert one.length is not None, "tuples of numbers have a length"
        return f"a tuple of {('no', 'one', 'two', 'three')[one.length]} numbers"
    return _TYPES[one.kind]


def _limits(low: float, high: float) -> str:
    if (low, high) == ABOVE_0:
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
            # Sections of an owner and free options are checked elsewhere.
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


def _with_types(tree: dict[str, Any]) -> dict[str, Any]:
    """Converts integers given for float fields to floats."""
    layer: Layer = {}
    for path, value in flatten(tree).items():
        one = field(path)
        if one and one.kind is float and type(value) is int:
            layer[path] = float(value)
    return _layered(tree, layer, where="config")


def _layered(base: dict, *layers: dict, where: str) -> dict:
    """Merges layers onto `base`, the highest last; each is a tree or by path."""
    trees = [_nested(layer) for layer in layers]
    return functools.reduce(
        lambda under, over: _merged(under, over, where), trees, base
    )


def _nested(layer: Any) -> Any:
    """Returns a layer as a tree."""
    if not isinstance(layer, dict):
        return layer
    tree: dict[str, Any] = {}
    for path, value in layer.items():
        *sections, name = path.split(".")
        inside = tree
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[name] = value
    return tree


def _without(tree: Any, paths: Layer, prefix: str = "") -> Any:
    """Returns a tree without the fields at some paths."""
    if not isinstance(tree, dict):
        return tree
    return {
        key: _without(value, paths, f"{prefix}{key}.")
        for key, value in tree.items()
        if f"{prefix}{key}" not in paths
    }


def _merged(shared: dict, own: dict, where: str) -> dict:
    """Returns `shared` overridden by `own`; rejects keys that `shared` lacks."""
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

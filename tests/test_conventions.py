"""Public code is documented, and its optional arguments are keyword-only."""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import noisy_student_jax

PACKAGE = noisy_student_jax.__name__
SECTION = re.compile(r"^(\w+):$", re.MULTILINE)
TITLES = {"Args", "Attributes"}

POSITIONAL = {
    "augment.rounding.rounded": {"low", "high"},  # as `jnp.clip`
    "cli.main.main": {"arguments"},
    "config.load.defaults": {"overrides"},
    "config.load.flatten": {"prefix"},  # for its own recursion
    "config.load.identity": {"prefix"},
    "config.load.load": {"overrides"},
    "core.console.Progress.update": {"note"},
    "core.console.say": {"line"},
    "core.devices.idle_gpu": {"root"},
    "core.protocols.Task.primary": {"draws"},
    "core.protocols.Task.resampled": {"draws"},
    "core.sharding.make_mesh": {"devices"},
    "data.pipelines.draws.Draws.of_step": {"mesh"},
    "data.pipelines.draws.Draws.of_steps": {"mesh"},
    "data.pipelines.draws.assemble": {"weights", "teacher_images"},
    "data.sources.key_hashes": {"indices"},
    "data.sources.read_all_good": {"indices"},
    "evaluation.resampling.mean": {"draws"},
    "interop.export.onnx_graph.Graph.constant": {"dtype"},  # as `np.array`
    "interop.published.bundle": {"members"},
    "models.layers.batch_norm": {"activation"},
    "models.members": {"given"},
    "models.normalization": {"given"},
    "models.resolution": {"given"},
    "planning.throughput.remembered": {"speeds"},
    "pseudo_labels.plan.batches": {"columns"},
    "pseudo_labels.sidecar.batches": {"columns"},
    "tasks.classification.Classification.primary": {"draws"},
    "tasks.detection.average_precision.averages": {"draws"},
    "tasks.detection.average_precision.metrics": {"draws"},
    "tasks.detection.average_precision.primary": {"draws"},
    "tasks.detection.task.Detection.primary": {"draws"},
    "tasks.detection.task.Detection.resampled": {"draws"},
    "training.step.TrainStep.gradients": {"taught_by"},
}
"""Optional arguments that may be positional, as the subject of a call."""


def modules() -> list[str]:
    found = pkgutil.walk_packages(noisy_student_jax.__path__, f"{PACKAGE}.")
    return [PACKAGE, *(m.name for m in found if not m.name.endswith("__main__"))]


module = importlib.import_module


def public(name: str) -> Iterator[tuple[str, object]]:
    """Yields a module's public definitions, and their methods, by name."""
    short = name.removeprefix(f"{PACKAGE}.")
    for key, value in vars(module(name)).items():
        if key.startswith("_") or getattr(value, "__module__", None) != name:
            continue
        if inspect.isclass(value):
            yield f"{short}.{key}", value
            fields = getattr(value, "__dataclass_fields__", {})
            for attribute, part in vars(value).items():
                if isinstance(part, staticmethod | classmethod):
                    part = part.__func__
                if attribute.startswith("_") or attribute in fields:
                    continue
                if inspect.isfunction(part) or isinstance(
                    part, property | functools.cached_property
                ):
                    yield f"{short}.{key}.{attribute}", part
        elif callable(value) and hasattr(value, "__name__"):
            yield f"{short}.{key}", value


def everything() -> list[tuple[str, object]]:
    return [pair for name in modules() for pair in public(name)]


def sections(documentation: str) -> dict[str, str]:
    """Splits a docstring by the titles of its sections."""
    _, *parts = SECTION.split(inspect.cleandoc(documentation))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def entries(section: str) -> list[str]:
    """Returns the names that a section of a docstring explains."""
    lines = [line for line in section.splitlines() if line.strip()]
    indents = [len(line) - len(line.lstrip()) for line in lines]
    named = [
        line.split(":")[0].strip()
        for line, indent in zip(lines, indents, strict=True)
        if indent == indents[0]
    ]
    return [name.strip(" *") for names in named for name in names.split(",")]


def named_by(value: object, title: str) -> set[str] | None:
    """Returns the names that a section may explain; None allows any."""
    if title == "Args":
        return set(inspect.signature(value).parameters)
    if not dataclasses.is_dataclass(value) and not hasattr(value, "_fields"):
        return None  # only a constructor sets the attributes
    owners = value.__mro__
    annotated = {name for one in owners for name in inspect.get_annotations(one)}
    return annotated | {name for one in owners for name in vars(one)}


def test_what_is_public_has_a_docstring():
    # An inherited docstring describes another class, so each class needs its own.
    bare = {name for name in modules() if not module(name).__doc__}
    bare |= {key for key, value in everything() if not value.__doc__}

    assert not bare


def test_optional_arguments_are_passed_by_name():
    found = {}
    for key, value in everything():
        if not inspect.isfunction(inspect.unwrap(value)):
            continue
        for argument in inspect.signature(value).parameters.values():
            optional = argument.default is not argument.empty
            if optional and argument.kind is argument.POSITIONAL_OR_KEYWORD:
                found.setdefault(key, set()).add(argument.name)

    assert found == POSITIONAL


def test_docstrings_name_what_there_is():
    wrong = []
    for key, value in everything():
        told = sections(value.__doc__ or "")
        for title in TITLES & told.keys():
            known = named_by(value, title)
            for name in entries(told[title]):
                if known is not None and name not in known:
                    wrong.append(f"{key}, {title}: {name}")

    assert not wrong

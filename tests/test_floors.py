"""The floors: imports go down only, and TensorFlow has one wing."""

import ast
import os
import subprocess
import sys

import pytest
from support import ROOT

PACKAGE = "noisy_student_jax"
FLOORS = (
    {
        "bicubic_compiled",
        "bicubic_tf1",
        "chips",
        "config",
        "console",
        "decoding",
        "describing",
        "errors",
        "fields",
        "files",
        "imagenet",
        "interruption",
        "kept_programs",
        "lanes",
        "layout",
        "ledger",
        "lookup",
        "order",
        "overlap",
        "preprocessing",
        "randaugment",
        "recipes",
        "types",
    },
    {"augment", "models", "training"},
    {"checkpoints", "tasks"},
    {"evaluation", "pseudo_labels", "train_loop"},
    {
        "__main__",
        "budget",
        "checking",
        "cli",
        "commands",
        "contact_sheet",
        "deciding",
        "decisions",
        "devices",
        "exporting",
        "fixres",
        "generation",
        "importing",
        "judgement",
        "measuring",
        "memory",
        "part",
        "planning",
        "report",
        "robustness",
        "run",
        "self_training",
        "shapes",
        "showing",
        "spending",
        "splitting",
        "stages",
        "starting",
        "streams",
        "topology",
    },
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
WING = "data"
WING_STANDS_ON = 1
WING_IS_CALLED_FROM = 4
STREAMING = f"{PACKAGE}.data.streaming"


def modules():
    """Every module of the package by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in sorted((ROOT / PACKAGE).rglob("*.py"))
    }


def imports(name, path, *, when_imported=False):
    """Yields every module that one imports, with the line.

    `when_imported` leaves out what functions import when they are called.
    """
    package = name.removesuffix(".__init__").split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if when_imported else ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


def tables(path):
    """Yields modules that are named as ``package.module:function``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            module, colon, _ = node.value.partition(":")
            if colon and module.startswith(f"{PACKAGE}."):
                yield module, node.lineno


def room(name):
    """Returns the part of the package that a module belongs to, or None."""
    parts = name.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def rooms():
    names = {room(name) for name in modules()}
    return names - {"__init__"}


def test_every_module_has_its_place():
    assert rooms() == FLOOR.keys() | {WING}


@pytest.mark.parametrize("name", modules())
def test_imports_go_down_only(name):
    path = modules()[name]
    own, wrong = room(name), []
    for target, line in [*imports(name, path), *tables(path)]:
        other = room(target)
        if other in (None, own) or other not in FLOOR.keys() | {WING}:
            continue
        if own == WING:
            good = FLOOR[other] <= WING_STANDS_ON
        elif other == WING:
            good = FLOOR[own] >= WING_IS_CALLED_FROM
        else:
            good = FLOOR[other] <= FLOOR[own]
        if not good:
            wrong.append(f"line {line}: {target}")

    assert own in FLOOR.keys() | {WING, "__init__"}
    assert not wrong


def test_no_two_rooms_import_each_other():
    known = FLOOR.keys() | {WING}
    uses = {name: set() for name in known}
    for name, path in modules().items():
        own = room(name)
        for target, _ in imports(name, path, when_imported=True):
            if own in known and room(target) in known - {own}:
                uses[own].add(room(target))

    # Take away what uses nothing that is left, floor by floor, until nothing is.
    while free := {name for name, used in uses.items() if not used}:
        uses = {name: used - free for name, used in uses.items() if name not in free}
    assert not uses


def test_tensorflow_is_imported_in_its_wing_alone():
    found = {
        name
        for name, path in modules().items()
        for target, _ in imports(name, path)
        if target.split(".")[0] in ("tensorflow", "tensorflow_datasets", "tf_keras")
    }

    assert found
    assert all(name.startswith(STREAMING) for name in found)


def test_the_streaming_wing_is_imported_only_when_it_is_called():
    found = {
        name
        for name, path in modules().items()
        for target, _ in imports(name, path, when_imported=True)
        if target.startswith(STREAMING) and not name.startswith(STREAMING)
    }

    assert not found


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ENTRANCES = f"import {PACKAGE}.cli, {PACKAGE}.commands, {PACKAGE}.self_training\n"


def test_the_package_leaves_tensorflow_alone():
    found = run(
        ENTRANCES
        + "import sys\n"
        + "print([n for n in sys.modules if n.split('.')[0] == 'tensorflow'])"
    )

    assert found.strip() == "[]"


def test_the_package_works_where_there_is_no_tensorflow():
    everything = [
        name.removesuffix(".__init__")
        for name in modules()
        if not name.endswith(".__main__") and not name.startswith(STREAMING)
    ]
    program = f"""
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ImportError("there is no TensorFlow here")

sys.meta_path.insert(0, Absent())
try:
    import tensorflow
    raise SystemExit("the stub does not work")
except ImportError:
    pass
for name in {everything!r}:
    importlib.import_module(name)
print(len({everything!r}))
"""

    assert int(run(program)) == len(everything) > 50

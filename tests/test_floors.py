"""Imports go down the floors only, and TensorFlow stays in its rooms."""

import ast
import os
import subprocess
import sys

import pytest
from support import ROOT

PACKAGE = "noisy_student_jax"
FLOORS = (
    "core",
    "config",
    "augment",
    "images",
    "training",
    "models",
    "data",
    "evaluation",
    "interop",
    "pseudo_labels",
    "features",
    "tasks",
    "runs",
    "generation",
    "robustness",
    "report",
    "self_training",
    "planning",
    "studies",
    "cli",
    "__main__",
)
"""One room a floor, the lowest first; a room imports only from those below."""
MOST_AT_THE_TOP = 24
TENSORFLOW = (f"{PACKAGE}.data.streaming", f"{PACKAGE}.interop.tensorflow")


def modules():
    """Returns every module of the package by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in sorted((ROOT / PACKAGE).rglob("*.py"))
    }


def imports(name, path, *, when_imported=False):
    """Yields every module that a module imports, with the line.

    `when_imported` leaves out imports inside functions.
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
    """Yields modules named in strings as ``package.module:function``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            module, colon, _ = node.value.partition(":")
            if colon and module.startswith(f"{PACKAGE}."):
                yield module, node.lineno


def room(name):
    """Returns the part of the package that a module belongs to, or None."""
    parts = name.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def test_every_room_has_a_floor():
    assert {room(name) for name in modules()} - {"__init__"} == set(FLOORS)


def test_the_top_of_the_package_can_be_taken_in_at_a_glance():
    entries = {name.split(".")[1] for name in modules()}
    files = {path.stem for path in (ROOT / PACKAGE).glob("*.py")}

    assert len(entries) <= MOST_AT_THE_TOP
    assert files == {"__init__", "__main__", "self_training"}


@pytest.mark.parametrize("name", modules())
def test_imports_go_down_only(name):
    path, own = modules()[name], room(name)
    if own == "__init__":
        own = FLOORS[0]  # the package itself imports no room
    wrong = [
        f"line {line}: {target}"
        for target, line in [*imports(name, path), *tables(path)]
        if (other := room(target)) in FLOORS
        and other != own
        and FLOORS.index(other) >= FLOORS.index(own)
    ]

    assert not wrong


def test_no_two_files_import_each_other():
    known = {name.removesuffix(".__init__"): path for name, path in modules().items()}
    uses = {name: set() for name in known}
    for name, path in modules().items():
        own = name.removesuffix(".__init__")
        for target, _ in imports(name, path):
            while target and target not in known:
                target = target.rpartition(".")[0]
            # The package itself imports none of its modules.
            uses[own] |= {target} - {own, "", PACKAGE}

    # Files that use no remaining file are removed, until none remains.
    while free := {name for name, used in uses.items() if not used}:
        uses = {name: used - free for name, used in uses.items() if name not in free}
    assert not uses


def test_tensorflow_is_imported_in_its_rooms_alone():
    found = {
        name
        for name, path in modules().items()
        for target, _ in imports(name, path)
        if target.split(".")[0] in ("tensorflow", "tensorflow_datasets", "tf_keras")
    }

    assert found
    assert all(name.startswith(TENSORFLOW) for name in found)


def test_the_rooms_of_tensorflow_are_imported_only_when_they_are_called():
    found = {
        name
        for name, path in modules().items()
        for target, _ in imports(name, path, when_imported=True)
        if target.startswith(TENSORFLOW) and not name.startswith(TENSORFLOW)
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


ENTRANCES = f"import {PACKAGE}.cli.main, {PACKAGE}.self_training\n"


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
        if not name.endswith(".__main__") and not name.startswith(TENSORFLOW)
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

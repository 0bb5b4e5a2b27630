"""Files of a run go through ``core/files``; exceptions are listed with their reason."""

import ast

import pytest
from support import ROOT

PACKAGE = ROOT / "noisy_student_jax"
METHODS = {
    *("open", "read_text", "read_bytes", "write_text", "write_bytes", "touch"),
    *("exists", "is_file", "is_dir", "is_symlink", "stat", "lstat", "samefile"),
    *("iterdir", "glob", "rglob", "walk", "mkdir", "rmdir", "unlink", "rename"),
    *("symlink_to", "hardlink_to", "chmod"),
}
"""Methods of paths, on any object."""
OWNERS = {
    "files": set(),
    "np": {"load", "save", "savez", "savez_compressed", "memmap", "fromfile"},
    "os": {
        *("open", "pread", "replace", "rename", "remove", "unlink", "listdir"),
        *("scandir", "walk", "mkdir", "makedirs", "stat", "fstat", "utime", "fsync"),
    },
    "pq": {"ParquetFile", "ParquetDataset", "ParquetWriter", "read_table"}
    | {"read_metadata", "read_schema", "write_table", "write_to_dataset"},
}
"""Modules of which only some functions touch files."""
NAMES = {"open", "load_file", "save_file", "safe_open"}
MODULES = {"fcntl", "glob", "mmap", "shutil", "tempfile"}

EXCEPTIONS = {
    "this is the module that does it": {"core/files.py": None},
    "images, records, lists and configs of a user's own, wherever they lie": {
        "cli/predict.py": {"glob"},
        "config/load.py": {"is_file"},
        "data/annotations/folder.py": {"walk"},
        "data/annotations/formats.py": {"is_file"},
        "data/cache/listing.py": {"is_dir", "listdir", "stat"},
        "data/cache/walk.py": {"exists", "is_dir", "is_file", "is_symlink"}
        | {"listdir", "scandir", "stat"},
        "data/expected.py": {"exists", "glob", "is_dir"},
        "data/image_folder.py": {"open"},
        "data/places.py": {"exists"},
        "data/streaming/records.py": {"stat"},
        "data/streaming/tfds.py": {"is_dir", "stat"},
        "data/streaming/tfrecord.py": {"fstat", "glob", "is_dir", "is_file"}
        | {"open", "pread", "stat"},
        "images/decode.py": {"read_bytes", "stat"},
        "planning/auto_config.py": {"open"},
        "robustness/datasets.py": {"exists", "is_dir", "iterdir", "open"},
        "robustness/suites.py": {"is_dir"},
        "studies/transfer/target.py": {"open"},
    },
    "weights from, and exports for, other programs, outside a run": {
        "cli/export.py": {"exists", "is_symlink"},
        "interop/export/to_hub.py": {"glob", "is_file"},
        "interop/export/to_timm.py": {"load_file"},
        "interop/foreign.py": {"is_dir", "is_file", "load_file", "open"},
        "interop/published.py": {"glob"},
        "interop/tensorflow/checkpoint.py": {"glob", "is_dir", "is_file"},
        "interop/torch_files.py": {"mmap", "open", "stat"},
    },
    "a profile, which onnxruntime writes into a folder of the system's": {
        "models/onnx_backbone.py": {"tempfile"},
    },
    "compiled programs are a cache of the machine": {
        "core/devices.py": {"exists", "mkdir", "read_text", "shutil"},
    },
    "drivers and null devices are the system's": {
        "cli/main.py": {"open"},
        "planning/topology/slices.py": {"exists"},
    },
    "part of the package": {
        "interop/imagenet.py": {"read_text"},
        "report/__init__.py": {"read_text"},
    },
    "it writes to a file that `core.files` has opened": {
        "core/summed.py": {"ParquetWriter"},
    },
}
"""The calls that modules may make directly, by reason; None for all."""
ALLOWED = {name: calls for one in EXCEPTIONS.values() for name, calls in one.items()}


def file_calls(source):
    """Yields the name and line of each direct use of files in a module."""
    tree = ast.parse(source)
    types = set()  # names in annotations
    for node in ast.walk(tree):
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            types |= set(ast.walk(hint)) if hint else set()
    for node in set(ast.walk(tree)) - types:
        match node:
            case ast.Import(names=names):
                found = {alias.name for alias in names} & MODULES
            case ast.ImportFrom(module=module):
                found = {module} & MODULES
            case ast.Name(id=name):
                found = {name} & NAMES
            # A path's `replace`: text's takes two arguments, a dataclass's keywords.
            case ast.Call(func=ast.Attribute(attr="replace"), args=[_], keywords=[]):
                found = {"replace"}
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in OWNERS:
                found = {name} & OWNERS[owner]
            case ast.Attribute(attr=name):
                found = {name} & (METHODS | NAMES)
            case _:
                continue
        for name in found:
            yield name, node.lineno


@pytest.fixture(scope="module")
def calls():
    """Returns each module's direct uses of files: pairs of name and line."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        found[name] = list(file_calls(path.read_text(encoding="utf-8")))
    return found


def test_files_are_touched_in_one_module_only(calls):
    wrong = [
        f"{name}, line {line}: {what}"
        for name, found in calls.items()
        for what, line in found
        if (allowed := ALLOWED.get(name, set())) is not None and what not in allowed
    ]

    assert not wrong


@pytest.mark.parametrize("name", ALLOWED)
def test_every_exception_is_made_use_of(name, calls):
    found = {what for what, _ in calls[name]}

    assert found
    assert ALLOWED[name] in (None, found)


@pytest.mark.parametrize(
    "line",
    [
        "path.open('rb')",
        "(folder / 'a').read_text()",
        "open(path)",
        "np.load(path)",
        "np.savez(path, a=1)",
        "pq.read_table(path)",
        "with pq.ParquetFile(path) as file: pass",
        "load_file(path)",
        "safetensors.numpy.load_file(path)",
        "os.replace(a, b)",
        "temporary.replace(path)",
        "any(map(Path.exists, paths))",
        "import shutil",
        "from glob import glob",
        "import fcntl",
    ],
)
def test_what_touches_a_file_is_noticed(line):
    assert list(file_calls(line))


@pytest.mark.parametrize(
    "line",
    [
        "files.exists(path)",
        "files.read_json(path)",
        "name.replace('_', ' ')",
        "dataclasses.replace(one, name=1)",
        "np.asarray(values)",
        "os.environ.get('HOME')",
    ],
)
def test_what_touches_no_file_is_let_be(line):
    assert not list(file_calls(line))

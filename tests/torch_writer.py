"""Writes PyTorch's two file formats, and malicious files, without PyTorch."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.int64): "LongStorage",
}
MAGIC = 0x1950A86A20F9469CFC6C
MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}


class Global:
    """A global name in the pickle, which the pickle may call."""

    def __init__(self, module, name, *arguments, call=False):
        self.module, self.name, self.arguments = module, name, arguments
        self.call = call or bool(arguments)


class Outside:
    """A persistent id: an object kept outside the pickle."""

    def __init__(self, *identity):
        self.identity = identity


def tensor(key, array, *, strides=None, offset=0, shape=None, count=None, **changes):
    """Describes a tensor whose storage holds the array's values in memory order."""
    size = array.dtype.itemsize
    storage = Outside(
        "storage",
        Global(
            changes.get("module", "torch"), changes.get("kind") or STORAGES[array.dtype]
        ),
        key,
        "cpu",
        array.size if count is None else count,
        *changes.get("view", ()),
    )
    strides = [s // size for s in array.strides] if strides is None else strides
    shape = array.shape if shape is None else shape
    return Global(
        "torch._utils",
        changes.get("function") or "_rebuild_tensor_v2",
        *(storage, offset, tuple(shape), tuple(strides), False, OrderedDict()),
    )


def dump(value):
    """Pickles with protocol 2, as PyTorch does; global names need not exist."""
    out = io.BytesIO()
    out.write(b"\x80\x02")
    _write(value, out)
    out.write(b".")
    return out.getvalue()


def _write(value, out):
    if isinstance(value, Global):
        out.write(f"c{value.module}\n{value.name}\n".encode())
        if value.call:
            _write(tuple(value.arguments), out)
            out.write(b"R")
    elif isinstance(value, Outside):
        _write(value.identity, out)
        out.write(b"Q")
    elif isinstance(value, OrderedDict):
        out.write(b"ccollections\nOrderedDict\n)R")
        _items(value, out)
    elif isinstance(value, dict):
        out.write(b"}")
        _items(value, out)
    elif isinstance(value, tuple):
        out.write(b"(")
        for one in value:
            _write(one, out)
        out.write(b"t")
    elif isinstance(value, bytes):
        out.write(value)  # raw opcodes
    else:
        out.write(pickle.dumps(value, 2)[2:-1])


def _items(value, out):
    out.write(b"(")
    for key, one in value.items():
        _write(key, out)
        _write(one, out)
    out.write(b"u")


def state_dict(arrays):
    """Describes arrays as an ordered dictionary of tensors, one storage each."""
    return OrderedDict(
        (name, tensor(str(number), array))
        for number, (name, array) in enumerate(arrays.items())
    )


def contents(arrays):
    """Returns the values of the storages by key, in the order of memory."""
    return {
        str(number): array.ravel(order="K")
        for number, array in enumerate(arrays.values())
    }


def write_zip(path, value, storages, *, byteorder=b"little", root="archive", **options):
    """Writes today's format."""
    with zipfile.ZipFile(path, "w", options.get("compression", 0)) as archive:
        archive.writestr(f"{root}/data.pkl", dump(value))
        archive.writestr(f"{root}/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"{root}/data/{key}", array.tobytes())
        archive.writestr(f"{root}/version", "3\n")


def write_legacy(path, value, storages, *, version=1001, machine=MACHINE, keys=None):
    """Writes the format of PyTorch before 1.6."""
    with path.open("wb") as file:
        for part in (MAGIC, version, machine):
            file.write(pickle.dumps(part, 2))
        file.write(dump(value))
        file.write(pickle.dumps(list(storages) if keys is None else keys, 2))
        for array in storages.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())

"""Reads tensors from PyTorch files of both formats, without PyTorch or running code.

Since 1.6 `torch.save` writes an uncompressed ZIP archive: a pickle, and one file per
storage. The legacy format is five pickles (a magic number, a version, system
information, the data, the storage keys) followed by the storages. See
`torch/serialization.py`.
"""

import dataclasses
import io
import math
import mmap
import pathlib
import struct
import zipfile
from collections import OrderedDict
from typing import Any

import ml_dtypes
import numpy as np

from noisy_student_jax.core.errors import UserError, cause
from noisy_student_jax.interop import restricted_pickle
from noisy_student_jax.interop.restricted_pickle import Name, RefusedPickleError

_DTYPES = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.LongStorage": np.dtype("<i8"),
}
_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
# Exceptions that the standard library raises for damaged archives.
_DAMAGE = (
    zipfile.BadZipFile,
    NotImplementedError,
    EOFError,
    RuntimeError,
    OSError,
    ValueError,
    OverflowError,
    struct.error,
)
ZIP_START = b"PK\x03\x04"
LEGACY_START = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little")
_ADVICE = (
    "; save the tensors alone, with torch.save(model.state_dict(), FILE) or as"
    " safetensors"
)


@dataclasses.dataclass
class _Storage:
    key: str
    dtype: np.dtype
    count: int
    values: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage, whose values are read later."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        size, values = self.storage.dtype.itemsize, self.storage.values
        assert values is not None, "storages are read before arrays are made"
        return np.lib.stride_tricks.as_strided(
            values[self.offset :],
            self.shape,
            tuple(
                size * stride if side > 1 else 0
                for side, stride in zip(self.shape, self.strides, strict=True)
            ),
            writeable=False,
        )


def read(path: pathlib.Path) -> Any:
    """Reads a file that `torch.save` wrote, in either format.

    Args:
      path: a file that begins with `ZIP_START` or `LEGACY_START`.

    Returns:
      The saved dictionaries, lists, numbers and strings, with a read-only NumPy array
      for each tensor: float16, bfloat16, float32, float64 or int64, not necessarily
      contiguous.

    Raises:
      UserError: the file is damaged, or holds anything else.
    """
    with path.open("rb") as file:
        start = file.read(len(LEGACY_START))
    try:
        if start.startswith(ZIP_START):
            return _arrays(_read_zip(path))
        if start == LEGACY_START:
            return _arrays(_read_legacy(path))
    except RefusedPickleError as error:
        raise UserError(f"'{path}' is refused: {error}{_ADVICE}") from error
    except _DAMAGE as error:
        raise UserError(
            f"'{path}' is damaged ({cause(error)}): get it again from its source"
        ) from error
    raise UserError(f"'{path}' is not a file that torch.save wrote")


def _arrays(value: Any) -> Any:
    """Replaces tensors by arrays, iteratively: pickles may be nested deeply."""
    if isinstance(value, _Tensor):
        return value.array()
    done: dict[int, Any] = {}
    todo = [value]
    while todo:
        one = todo.pop()
        if id(one) in done or not isinstance(one, dict | list):
            continue
        done[id(one)] = one
        for key, item in list(one.items() if isinstance(one, dict) else enumerate(one)):
            if isinstance(item, _Tensor):
                one[key] = item.array()
            else:
                todo.append(item)
    return value


class _Storages(dict[str, _Storage]):
    """The storages that a pickle refers to, by key."""

    def find(self, identity: Any) -> _Storage:
        """Resolves the id ``("storage", type, key, device, count[, view])``."""
        what, kind, key, _, count, *view = identity
        known = isinstance(kind, Name) and isinstance(kind.meaning, np.dtype)
        if what != "storage" or not known or not _whole(count):
            raise ValueError("a storage of no known kind")
        if type(key) is not str:
            raise ValueError("a storage whose key is no text")
        if any(part is not None for part in view):
            raise RefusedPickleError("it has a storage that is a view of another")
        storage = self.setdefault(key, _Storage(key, kind.meaning, count))
        if (storage.dtype, storage.count) != (kind.meaning, count):
            raise ValueError(f"two descriptions of storage {key}")
        return storage


def _whole(number: Any) -> bool:
    return type(number) is int and number >= 0


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """Replaces ``torch._utils._rebuild_tensor_v2``."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(map(_whole, numbers)):
        raise ValueError("a tensor of no known kind")
    last = offset + sum(
        (side - 1) * stride for side, stride in zip(shape, strides, strict=True)
    )
    if math.prod(shape) == 0:
        return _Tensor(storage, 0, tuple(shape), (0,) * len(shape))
    if last >= storage.count or math.prod(shape) >= 2**40:
        raise ValueError("a tensor that reaches beyond its storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> _Tensor:
    """Replaces ``torch._utils._rebuild_parameter``."""
    if not isinstance(tensor, _Tensor):
        raise ValueError("a parameter that is no tensor")
    return tensor


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    """Replaces ``collections.OrderedDict``, which pickles create empty."""
    if arguments:
        raise ValueError("an OrderedDict that is made full")
    return OrderedDict()


_KNOWN = {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    **_DTYPES,
}


def _read_zip(path: pathlib.Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        # Uncompressed files exceed the archive's size only if they overlap.
        if any(m.compress_type != zipfile.ZIP_STORED for m in members.values()):
            raise zipfile.BadZipFile("torch.save compresses nothing, but this is")
        if sum(m.file_size for m in members.values()) > path.stat().st_size:
            raise zipfile.BadZipFile("its files are larger than itself")
        pickles = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise zipfile.BadZipFile("it has no data.pkl, as torch.save writes it")
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in members and archive.read(order) != b"little":
            raise RefusedPickleError("it was saved on a big-endian machine")
        storages = _Storages()
        pickle = io.BytesIO(archive.read(pickles[0]))
        value = restricted_pickle.load(pickle, _KNOWN, persistent=storages.find)
        for key, storage in storages.items():
            member = members.get(f"{root}data/{key}")
            size = storage.count * storage.dtype.itemsize
            if member is None or member.file_size != size:
                raise zipfile.BadZipFile(f"storage {key} is missing or cut short")
            storage.values = np.frombuffer(archive.read(member), storage.dtype)
    return value


def _read_legacy(path: pathlib.Path) -> Any:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        restricted_pickle.load(data, {})
        version = restricted_pickle.load(data, {})
        machine = restricted_pickle.load(data, {})
        if version != _VERSION or not isinstance(machine, dict):
            raise RefusedPickleError("it is of an unknown version")
        if machine.get("little_endian") is not True:
            raise RefusedPickleError("it was saved on a big-endian machine")
        storages = _Storages()
        value = restricted_pickle.load(data, _KNOWN, persistent=storages.find)
        keys = restricted_pickle.load(data, {})
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
            raise EOFError("its list of storages is not that of its tensors")
        for key in keys:
            _fill(storages[str(key)], data)
    return value


def _fill(storage: _Storage, data: mmap.mmap) -> None:
    """Reads a storage: the count of values in 8 bytes, then the values."""
    size = storage.count * storage.dtype.itemsize
    head = data.read(8)
    if len(head) < 8 or len(data) - data.tell() < size:
        raise EOFError("it is cut short")
    if struct.unpack("<q", head)[0] != storage.count:
        raise EOFError(f"storage {storage.key} is not of the size that it should be")
    storage.values = np.frombuffer(data.read(size), storage.dtype)

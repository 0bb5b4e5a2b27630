"""PyTorch's files are read as data: tensors come out as written, nothing runs."""

import pathlib
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import torch_writer
from torch_writer import Global, tensor, write_legacy, write_zip

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.interop import torch_files

WRITERS = {"zip": write_zip, "legacy": write_legacy}
# Written by PyTorch 2.13: torch.save({"state_dict": {…}, "epoch": 3, "x": […]}).
BY_TORCH = pathlib.Path(__file__).parent / "torch"
RAN = []


def refused(path):
    with pytest.raises(UserError) as caught:
        torch_files.read(path)
    sentence = str(caught.value)
    assert f"'{path}'" in sentence and "\n" not in sentence
    return sentence


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_what_pytorch_wrote_is_read(name):
    read = torch_files.read(BY_TORCH / name)

    assert read["epoch"] == 3
    assert read["x"] == [1, 2.5, None, True]
    tensors = read["state_dict"]
    assert list(tensors) == ["a", "b", "c", "h", "e", "p"]
    # A transposed view: PyTorch keeps its strides.
    assert tensors["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert tensors["a"].dtype == np.float32
    assert not tensors["a"].flags["C_CONTIGUOUS"]
    assert tensors["b"].dtype == ml_dtypes.bfloat16 and tensors["b"].tolist() == [1, 1]
    assert tensors["c"].dtype == np.int64 and tensors["c"].tolist() == 3
    assert tensors["h"].dtype == np.float16 and tensors["h"].tolist() == [1, 1]
    assert tensors["e"].shape == (0, 3)
    assert tensors["p"].tolist() == [1, 1]


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("dtype", list(torch_writer.STORAGES), ids=str)
def test_every_kind_of_number_comes_back(tmp_path, form, dtype):
    array = (np.arange(24).reshape(2, 3, 4) / 2).astype(dtype).transpose(2, 0, 1)
    arrays = {"one": array, "two": np.ones(3, dtype), "scalar": np.array(7, dtype)}
    path = tmp_path / "weights.pth"
    WRITERS[form](path, torch_writer.state_dict(arrays), torch_writer.contents(arrays))

    read = torch_files.read(path)

    assert list(read) == list(arrays)
    for name, wanted in arrays.items():
        assert read[name].dtype == dtype
        np.testing.assert_array_equal(read[name], wanted)


@pytest.mark.parametrize("form", WRITERS)
def test_tensors_may_share_a_storage(tmp_path, form):
    values = np.arange(10, dtype=np.float32)
    whole = tensor("0", values)
    part = tensor("0", values, offset=3, shape=(2, 2), strides=(1, 3), count=10)
    path = tmp_path / "weights.pth"
    WRITERS[form](path, {"whole": whole, "part": part}, {"0": values})

    read = torch_files.read(path)

    assert read["whole"].tolist() == values.tolist()
    assert read["part"].tolist() == [[3, 6], [4, 7]]


class Explosive:
    """Pickles to a call of this module's `run`."""

    def __reduce__(self):
        return run, ("boom",)


def run(text):
    RAN.append(text)


FORBIDDEN = {
    "os.system": Global("os", "system", "touch ran"),
    "builtins.eval": Global("builtins", "eval", "1"),
    "posix.system": Global("posix", "system", "touch ran"),
    "subprocess.Popen": Global("subprocess", "Popen", ("touch", "ran")),
    "builtins.getattr": Global("builtins", "getattr", {}, "clear"),
    "functools.partial": Global("functools", "partial"),
    "torch.hub.load": Global("torch.hub", "load", "x"),
    "torch._utils._rebuild_device_tensor_from_numpy": Global(
        "torch._utils", "_rebuild_device_tensor_from_numpy", 1
    ),
    "torch._utils._rebuild_sparse_tensor": Global(
        "torch._utils", "_rebuild_sparse_tensor", 1
    ),
    "argparse.Namespace": Global("argparse", "Namespace", call=True),
    "numpy._core.multiarray.scalar": Global("numpy._core.multiarray", "scalar", 1),
    "collections.OrderedDict.fromkeys": Global("collections", "OrderedDict.fromkeys"),
    "torch.CharStorage": Global("torch", "CharStorage"),
    # Two texts on the stack, as newer protocols name things.
    "os.popen": b"X\x02\x00\x00\x00osX\x05\x00\x00\x00popen\x93",
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_might_run_is_refused_by_name_and_not_run(
    tmp_path, monkeypatch, form, name
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    value = OrderedDict(first=tensor("0", np.ones(2, np.float32)), x=FORBIDDEN[name])
    WRITERS[form](path, value, {"0": np.ones(2, np.float32)})

    sentence = refused(path)

    assert f"it refers to {name}, which is no tensor and might run code" in sentence
    assert "save the tensors alone" in sentence
    assert [one.name for one in tmp_path.iterdir()] == ["weights.pth"]


def test_a_pickle_that_explodes_where_it_can_does_not_here(tmp_path):
    plain = pickle.dumps(Explosive(), 2)
    pickle.loads(plain)
    assert RAN == ["boom"]  # what a plain unpickle does
    path = tmp_path / "weights.pth"
    for place in range(4):
        parts = [torch_writer.MAGIC, 1001, torch_writer.MACHINE, {}]
        parts[place] = Explosive()
        path.write_bytes(
            # The beginning is what makes it PyTorch's; what follows is not.
            pickle.dumps(torch_writer.MAGIC, 2)
            + b"".join(pickle.dumps(part, 2) for part in parts[1 if place else 0 :])
        )
        refused(path)
    assert RAN == ["boom"]


COMMANDS = {
    "INST": b"(ios\nsystem\n",
    "OBJ": b"(cos\nsystem\no",
    "NEWOBJ": b")\x81",
    "EXT1": b"\x82\x01",
    "PERSID": b"Pplace\n",
    "GET": b"g0\n",
    "EMPTY_SET": b"\x8f",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_data_do_not_need_are_refused(tmp_path, name):
    path = tmp_path / "weights.pth"
    write_zip(path, {"x": COMMANDS[name]}, {})

    assert (
        f"the pickle command {name}" in (said := refused(path)) or "os.system" in said
    )


ONE = np.ones(2, np.float32)
GARBLED = {
    "beyond its storage": {"x": tensor("0", ONE, shape=(3,), strides=(1,))},
    "an offset beyond": {"x": tensor("0", ONE, offset=2)},
    "strides beyond": {"x": tensor("0", ONE, shape=(2,), strides=(2,))},
    "negative": {"x": tensor("0", ONE, offset=-1)},
    "a negative stride": {"x": tensor("0", ONE, shape=(2,), strides=(-1,))},
    "no shape": {"x": tensor("0", ONE, shape=("a",), strides=(1,))},
    "fewer strides": {"x": tensor("0", ONE, shape=(1, 2), strides=(1,))},
    "a huge one": {"x": tensor("0", ONE, shape=(2**50,), strides=(0,))},
    "more than the storage has": {"x": tensor("0", ONE, count=3)},
    "a view of a storage": {"x": tensor("0", ONE, view=(("1", 0, 1),))},
    "two kinds of one storage": {
        "x": tensor("0", ONE),
        "y": tensor("0", ONE, kind="LongStorage"),
    },
    "a storage that is not there": {"x": tensor("nowhere", ONE)},
    "a call of a storage": {"x": Global("torch", "FloatStorage", 2)},
    "a call without arguments": {"x": Global("torch._utils", "_rebuild_tensor_v2", 1)},
    "a parameter of nothing": {"x": Global("torch._utils", "_rebuild_parameter", 1)},
    "a key that is no text": {"x": tensor(("0", "0"), ONE)},
    "a storage of a function": {
        "x": tensor("0", ONE, module="torch._utils", kind="_rebuild_parameter")
    },
    "a full dictionary": {"x": Global("collections", "OrderedDict", ((1, 2),))},
    "a key that is a list": b"}]Nsb.",
    "items of nothing": b"Ne",
    "pairs of nothing": b"N(NNu",
    "no mark": b"t",
    "attributes of a name": b"cos\npath\n",
    "attributes set": b"ctorch\nFloatStorage\n}b",
    "nothing remembered": b"h\x07",
    "two results": b"NN",
    "none": b"",
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("kind", GARBLED)
def test_descriptions_that_do_not_hold_are_refused(tmp_path, form, kind):
    path = tmp_path / "weights.pth"
    WRITERS[form](path, GARBLED[kind], {"0": ONE})

    refused(path)


def good_file(path, form):
    arrays = {"weight": np.arange(6, dtype=np.float32), "bias": np.ones(2, np.float32)}
    WRITERS[form](path, torch_writer.state_dict(arrays), torch_writer.contents(arrays))
    return path.read_bytes()


@pytest.mark.parametrize("form", WRITERS)
def test_a_file_that_is_cut_short_is_refused_wherever_it_is_cut(tmp_path, form):
    path = tmp_path / "weights.pth"
    whole = good_file(path, form)

    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        refused(path)


@pytest.mark.parametrize("form", WRITERS)
def test_a_flipped_byte_is_refused_or_harmless(tmp_path, form):
    path = tmp_path / "weights.pth"
    whole = good_file(path, form)

    for place in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            spoilt = bytearray(whole)
            spoilt[place] ^= flip
            path.write_bytes(spoilt)
            try:
                torch_files.read(path)
            except UserError as error:
                assert "\n" not in str(error)


def rewritten(path, change):
    """Writes a good archive again with its members changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members = change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


ARCHIVES = {
    "an empty archive": lambda members: {},
    "another archive": lambda members: {"word/document.xml": b"<xml/>"},
    "no pickle": lambda m: {n: c for n, c in m.items() if "data.pkl" not in n},
    "two pickles": lambda m: {**m, "other/data.pkl": b"N."},
    "no storages": lambda m: {n: c for n, c in m.items() if "/data/" not in n},
    "a short storage": lambda m: {**m, "archive/data/0": b"123"},
    "a long storage": lambda m: {**m, "archive/data/0": bytes(100)},
    "another byte order": lambda m: {**m, "archive/byteorder": b"big"},
    "an empty pickle": lambda m: {**m, "archive/data.pkl": b""},
    "text for a pickle": lambda m: {**m, "archive/data.pkl": b"weights = [1, 2]"},
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_that_are_not_pytorchs_are_refused(tmp_path, kind):
    path = tmp_path / "weights.pth"
    good_file(path, "zip")
    rewritten(path, ARCHIVES[kind])

    refused(path)


def test_a_compressed_archive_is_refused_before_it_unfolds(tmp_path):
    path = tmp_path / "bomb.pth"
    zeros = np.zeros(10_000_000, np.float32)
    write_zip(path, {"x": tensor("0", zeros)}, {"0": zeros}, compression=8)

    assert "compresses nothing" in refused(path)


LEGACY = {
    "another version": {"version": 1002},
    "another byte order": {"machine": {"little_endian": False}},
    "no machine": {"machine": 3},
    "other storages listed": {"keys": ["0", "1"]},
    "no list of storages": {"keys": 7},
    "none listed": {"keys": []},
}


@pytest.mark.parametrize("kind", LEGACY)
def test_old_files_that_do_not_hold_are_refused(tmp_path, kind):
    path = tmp_path / "weights.pth"
    write_legacy(path, {"x": tensor("0", ONE)}, {"0": ONE}, **LEGACY[kind])

    refused(path)


def test_nesting_as_deep_as_it_likes_does_no_harm(tmp_path):
    path = tmp_path / "deep.pth"
    write_zip(path, b"]" * 50_000 + b"a" * 49_999, {})

    assert isinstance(torch_files.read(path), list)

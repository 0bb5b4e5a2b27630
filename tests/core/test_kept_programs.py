"""Programs are found by what they are made of, and only then; else compiled again."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import jax_keeps, on_eight_devices

from noisy_student_jax.core import kept_programs

FOLDER = kept_programs.folder
"""The real one: tests are given none."""
SHAPE = jax.ShapeDtypeStruct(
    (4,), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
)


def doubled(x):
    return {"twice": 2 * x}


@pytest.fixture
def folder(kept_folder):
    return kept_folder


@pytest.fixture
def program():
    return jax.jit(doubled).lower(SHAPE).compile()


def found(name="a"):
    inputs = jax.tree.structure(((SHAPE,), {}))
    return kept_programs.find(
        name,
        jax.devices()[:1],
        inputs,
        lambda names: jax.tree.structure(dict.fromkeys(names, 0)),
    )


def named(function=jnp.sum, shapes=(SHAPE,)):
    return kept_programs.name(function, shapes, jax.devices()[:1])


def test_what_was_kept_is_found_and_computes_the_same(folder, program):
    assert not kept_programs.has("a") and found() is None
    kept_programs.keep("a", program, ["twice"])

    assert kept_programs.has("a")
    loaded = found()
    np.testing.assert_array_equal(loaded(jnp.arange(4.0))["twice"], [0, 2, 4, 6])
    assert found("b") is None


@pytest.fixture
def jaxs(tmp_path):
    """JAX's own cache, empty."""
    with jax_keeps(jax_compilation_cache_dir=str(tmp_path / "jax")):
        yield tmp_path / "jax"


def lowered():
    return jax.jit(lambda x: doubled(x)).lower(SHAPE)


def test_what_is_kept_here_jax_does_not_keep_too(folder, jaxs):
    assert kept_programs.compiled(lowered())[1]
    assert not list(jaxs.glob("*"))
    # Nor is it turned off for others.
    lowered().compile()
    assert list(jaxs.glob("*-cache"))


def test_what_jax_found_in_its_own_cache_is_not_kept(folder, jaxs):
    lowered().compile()
    program, may_be_kept = kept_programs.compiled(lowered())

    assert not may_be_kept
    np.testing.assert_array_equal(program(jnp.ones(4))["twice"], [2, 2, 2, 2])


def test_where_nothing_is_kept_here_jax_keeps_it(jaxs):
    assert not kept_programs.compiled(lowered())[1]
    assert list(jaxs.glob("*-cache"))


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "other"])
def test_what_is_damaged_is_thrown_away(folder, program, harm):
    kept_programs.keep("a", program, ["twice"])
    path = folder / "a.program"
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "cut": data[:-1],
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "emptied": b"",
            "other": b"another file\nof\nsomebody",
        }[harm]
    )

    assert found() is None
    assert not kept_programs.has("a")
    kept_programs.keep("a", program, ["twice"])
    assert found() is not None


def test_a_program_that_the_compiler_cannot_load_is_thrown_away(
    folder, program, monkeypatch
):
    kept_programs.keep("a", program, ["twice"])

    def refuse(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: of another compiler")

    monkeypatch.setattr(
        kept_programs.serialize_executable, "deserialize_and_load", refuse
    )
    assert found() is None
    assert not kept_programs.has("a")


def test_a_folder_that_cannot_be_written_only_costs_time(folder, program):
    folder.parent.joinpath("kept").write_text("a file")
    kept_programs.keep("a", program, ["twice"])
    assert not kept_programs.has("a")


def test_what_was_not_used_for_longest_makes_room(folder, program, monkeypatch):
    for age, name in enumerate("abc"):
        kept_programs.keep(name, program, ["twice"])
        os.utime(folder / f"{name}.program", (1000 + age, 1000 + age))
    assert found("a") is not None  # and used
    size = (folder / "a.program").stat().st_size
    monkeypatch.setattr(kept_programs, "LIMIT", 3 * size)
    kept_programs.keep("d", program, ["twice"])

    assert sorted(path.stem for path in folder.iterdir()) == ["a", "c", "d"]


@pytest.mark.parametrize(
    ("place", "enabled", "expected"),
    [
        (None, True, None),
        ("/somewhere", True, pathlib.Path("/somewhere/noisy_student_jax")),
        ("/somewhere", False, None),
        ("gs://bucket/cache", True, None),
    ],
)
def test_they_lie_beside_what_jax_keeps_or_nowhere(place, enabled, expected):
    settings = {
        "jax_compilation_cache_dir": place,
        "jax_enable_compilation_cache": enabled,
    }
    with jax_keeps(**settings):
        assert FOLDER() == expected


def test_a_name_is_the_same_each_time():
    assert named() == named()


def test_somebodys_own_function_has_no_name():
    assert named(lambda x: x) is None


@pytest.mark.parametrize("shape", [(5,), (4, 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_other_arguments_are_another_program(shape, dtype):
    other = jax.ShapeDtypeStruct(shape, dtype, sharding=SHAPE.sharding)
    assert named(shapes=(other,)) != named()
    assert named(shapes={"x": SHAPE}) != named()


@pytest.mark.parametrize(
    ("owner", "what", "other"),
    [
        (kept_programs, "_PACKAGE", "other files"),
        (kept_programs, "processor", lambda: "another processor"),
        (kept_programs.platform, "python_version", lambda: "3.99"),
        (optax, "__version__", "0.0.1"),
        (kept_programs.jax, "devices", lambda: []),
        (kept_programs.os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4}),
    ],
)
def test_other_surroundings_are_another_program(monkeypatch, owner, what, other):
    here = kept_programs.name(jnp.sum, (SHAPE,), [SHAPE.sharding._device])
    monkeypatch.setattr(owner, what, other)
    assert kept_programs.name(jnp.sum, (SHAPE,), [SHAPE.sharding._device]) != here


@pytest.mark.parametrize("flag", ["XLA_FLAGS", "LIBTPU_INIT_ARGS", "PJRT_NPROC"])
def test_other_flags_are_another_program(monkeypatch, flag):
    here = named()
    monkeypatch.setenv(flag, "--xla_something=true")
    assert named() != here


def test_another_setting_of_jax_is_another_program():
    here = named()
    jax.config.update("jax_default_matmul_precision", "bfloat16")
    try:
        assert named() != here
    finally:
        jax.config.update("jax_default_matmul_precision", None)


def test_where_jax_keeps_its_own_is_no_part_of_a_program():
    here = named()
    with jax_keeps(jax_compilation_cache_dir="/somewhere/else"):
        assert named() == here


def test_the_package_is_known_by_all_its_files(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_text("one")
    (tmp_path / "inner" / "b.py").write_text("two")
    digests = set()
    for path, text in [("a.py", "one"), ("inner/b.py", "three"), ("c.py", "")]:
        (tmp_path / path).write_text(text)
        digests.add(kept_programs._digest_of(tmp_path))
    assert len(digests) == 3


def test_a_folder_of_somebody_else_only_costs_time(folder, program, monkeypatch):
    kept_programs.keep("a", program, ["twice"])

    def refuse(*_, **__):
        raise PermissionError("not yours")

    with monkeypatch.context() as patch:
        # It can be read, and nothing else.
        patch.setattr(kept_programs.os, "utime", refuse)
        patch.setattr(pathlib.Path, "unlink", refuse)
        assert found() is not None
        kept_programs.forget("a")
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "stat", refuse)
        assert not kept_programs.has("a")
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "read_bytes", refuse)
        patch.setattr(pathlib.Path, "unlink", refuse)
        assert found() is None


def test_what_a_killed_writer_left_is_removed_when_it_is_old(folder, program):
    folder.mkdir()
    old, young = (folder / f".{name}.program.0.tmp" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    kept_programs.keep("a", program, ["twice"])

    assert sorted(folder.glob(".*")) == [young]


def test_a_program_larger_than_what_is_kept_throws_nothing_out(
    folder, program, monkeypatch
):
    kept_programs.keep("a", program, ["twice"])
    monkeypatch.setattr(kept_programs, "LIMIT", 100)
    kept_programs.keep("b", program, ["twice"])

    assert kept_programs.has("a") and not kept_programs.has("b")


DEVICES = """
import json, pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from noisy_student_jax.core import kept_programs
from noisy_student_jax.core import sharding

kept_programs.folder = lambda: pathlib.Path(sys.argv[1])
all_of_them, found = jax.devices(), {}
for name, devices in {
    "all": all_of_them, "first": all_of_them[:1], "last": all_of_them[-1:],
    "half": all_of_them[4:], "backwards": all_of_them[::-1],
}.items():
    spread = sharding.along_batch(sharding.make_mesh(devices))
    shape = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=spread)
    jitted = jax.jit(lambda x: {"twice": 2 * x}, out_shardings=spread)
    program, _ = kept_programs.compiled(jitted.lower(shape))
    kept_programs.keep(name, program, None)
    trees = jax.tree.structure(((shape,), {})), jax.tree.structure({"twice": 0})
    loaded = kept_programs.find(name, devices, trees[0], lambda note: trees[1])
    given = jax.device_put(np.arange(8.0, dtype=np.float32), spread)
    twice = loaded(given)["twice"]
    placed, own = (
        {shard.device.id: np.asarray(shard.data).tolist() for shard in array}
        for array in (twice.addressable_shards, given.addressable_shards)
    )
    found[name] = placed == {id: [2 * x for x in xs] for id, xs in own.items()}
print(json.dumps(found))
"""


def test_a_program_is_loaded_for_its_own_devices(tmp_path):
    found = on_eight_devices(DEVICES, tmp_path)
    assert found == dict.fromkeys(["all", "first", "last", "half", "backwards"], True)

"""Programs are found by what they are made of, and only then; else compiled again."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import jax_keeps

from noisy_student_jax import kept_programs

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
        name, inputs, lambda names: jax.tree.structure(dict.fromkeys(names, 0))
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
        (kept_programs, "_package", lambda: "other files"),
        (kept_programs, "processor", lambda: "another processor"),
        (kept_programs.platform, "python_version", lambda: "3.99"),
        (kept_programs.importlib.metadata, "version", lambda library: "0.1"),
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


def test_the_package_is_known_by_all_its_files(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "a.py").write_text("one")
    (package / "inner" / "b.py").write_text("two")
    monkeypatch.setattr(kept_programs, "__file__", str(package / "a.py"))
    digests = set()
    for path, text in [("a.py", "one"), ("inner/b.py", "three"), ("c.py", "")]:
        (package / path).write_text(text)
        digests.add(kept_programs._package.__wrapped__())
    assert len(digests) == 3

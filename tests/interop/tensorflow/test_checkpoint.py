"""Checkpoints in the authors' naming, written by TensorFlow, come back."""

import numpy as np
import pytest

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.interop import naming, tf_names, timm_names
from noisy_student_jax.models.architectures import MEMBERS

tf = pytest.importorskip("tensorflow")

from noisy_student_jax.interop.tensorflow import checkpoint  # noqa: E402

EMA = tf_names.AVERAGED


def save(prefix, variables):
    """Writes variables under names of our choice, as TensorFlow's savers do."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=[tf.constant(array) for array in variables.values()],
    )


def small(**changes):
    """A few variables of a checkpoint, slots and counts among them."""
    stem = "efficientnet-b0/stem/conv2d/kernel"
    variables = {
        stem: np.full(3, 1, np.float32),
        f"{stem}{EMA}": np.full(3, 2, np.float32),
        f"{stem}/RMSProp": np.full(3, 3, np.float32),
        f"{stem}/RMSProp_1": np.full(3, 4, np.float32),
        "global_step": np.array(218949, np.int64),
    }
    return {name: array for name, array in (variables | changes).items() if len(name)}


def test_what_tensorflow_wrote_is_read_from_any_of_its_names(tmp_path):
    save(tmp_path / "model.ckpt", small())

    for given in ("", "model.ckpt", "model.ckpt.index"):
        prefix = checkpoint.find_checkpoint(tmp_path / given)
        assert prefix == tmp_path / "model.ckpt"
    data = next(tmp_path.glob("*.data-*"))
    assert checkpoint.find_checkpoint(data) == prefix
    assert checkpoint.files_of(prefix) == [tmp_path / "model.ckpt.index", data]
    read = checkpoint.read_checkpoint(prefix)
    assert len(read) == 4
    assert read["efficientnet-b0/stem/conv2d/kernel/RMSProp"].tolist() == [3, 3, 3]


def test_of_several_the_one_that_is_named_is_read(tmp_path):
    for step in (1, 2):
        save(tmp_path / f"model.ckpt-{step}", small())
    with pytest.raises(UserError, match="holds 2 TensorFlow checkpoints"):
        checkpoint.find_checkpoint(tmp_path)

    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')

    assert checkpoint.find_checkpoint(tmp_path).name == "model.ckpt-1"


def test_averages_are_preferred_and_said():
    arrays, said = tf_names.choose(small(), "x")

    assert {name: array[0] for name, array in arrays.items()} == {
        "stem/conv2d/kernel": 2
    }
    assert "moving averages" in said


def test_raw_weights_are_taken_where_there_are_no_averages_and_said():
    variables = {n: a for n, a in small().items() if not n.endswith(EMA)}

    arrays, said = tf_names.choose(variables, "x")

    assert {name: array[0] for name, array in arrays.items()} == {
        "stem/conv2d/kernel": 1
    }
    assert "raw weights" in said


def test_a_checkpoint_of_no_or_of_two_models_is_refused():
    with pytest.raises(UserError, match="holds 0: among its 1 variables"):
        tf_names.choose({"dense/kernel": np.ones(2)}, "x")
    two = small() | {"teacher/efficientnet-l2/stem/conv2d/kernel": np.ones(3)}
    with pytest.raises(UserError, match=r"holds 2: efficientnet-b0, teacher"):
        tf_names.choose(two, "x")


@pytest.mark.parametrize("name", ["model.tar.gz", "model.ckpt", "nowhere/model.ckpt"])
def test_what_is_no_checkpoint_is_refused(tmp_path, name):
    if "/" not in name:
        (tmp_path / name).write_bytes(b"something")
    with pytest.raises(UserError, match="no TensorFlow checkpoint") as caught:
        checkpoint.find_checkpoint(tmp_path / name)
    assert ("unpack it first" in str(caught.value)) == name.endswith("gz")


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("spoil", [b"", b"no numbers at all" * 9, None], ids=repr)
def test_a_damaged_checkpoint_is_refused(tmp_path, part, spoil):
    save(tmp_path / "model.ckpt", small())
    path = tmp_path / f"model.ckpt.{part}"
    path.write_bytes(path.read_bytes()[:-20] if spoil is None else spoil)

    with pytest.raises(UserError, match="TensorFlow cannot read the checkpoint"):
        checkpoint.read_checkpoint(tmp_path / "model.ckpt")


@pytest.mark.parametrize("averaged", [True, False], ids=["averages", "raw"])
def test_a_whole_model_comes_back_by_the_command(tmp_path, averaged, capsys):
    from foreign_weights import seeded, shapes_there

    from noisy_student_jax.cli.main import main
    from noisy_student_jax.models import bundle as bundles

    rows = naming.rows(MEMBERS["lite0"], tf_names.TENSORFLOW)
    timm = timm_names.rows(MEMBERS["lite0"])
    ours = naming.to_ours(timm, seeded(shapes_there("efficientnet_lite0", 1000)))
    variables = {"global_step": np.array(1, np.int64)}
    for name, array in naming.to_theirs(rows, ours).items():
        whole = f"efficientnet-lite0/{name}"
        variables[whole] = 0 * array if averaged else array
        if averaged:
            variables[whole + EMA] = array
    save(tmp_path / "model.ckpt", variables)

    assert (
        main(
            [
                "import",
                "--format=tf",
                str(tmp_path),
                "--model=efficientnet_lite0",
                f"--output={tmp_path / 'bundle'}",
            ]
        )
        == 0
    )

    bundle = bundles.read(tmp_path / "bundle")
    np.testing.assert_equal(bundle.variables, ours)
    assert ("raw weights" in capsys.readouterr().out) == (not averaged)
    assert bundle.origin["format"] == "tf"
    assert sorted(bundle.origin["sha256"]) == [
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
    ]

"""Reads TensorFlow checkpoints with TensorFlow."""

import pathlib

import numpy as np

from noisy_student_jax.core.errors import UserError, cause
from noisy_student_jax.data.streaming import tf


def find_checkpoint(source: pathlib.Path) -> pathlib.Path:
    """Returns the prefix that a checkpoint's files share.

    Args:
      source: the prefix, one of the files, or a folder with one checkpoint or a file
        ``checkpoint`` that names the latest.

    Raises:
      UserError: there is no checkpoint, or it is ambiguous.
    """
    if source.is_dir():
        found = sorted(source.glob("*.index"))
        if len(found) > 1 and (latest := tf.train.latest_checkpoint(str(source))):
            return pathlib.Path(latest)
        if len(found) != 1:
            raise UserError(
                f"'{source}' holds {len(found)} TensorFlow checkpoints (files *.index):"
                " choose one, as FOLDER/model.ckpt"
            )
        source = found[0]
    name = source.name
    prefix = source.with_name(name.removesuffix(".index").split(".data-")[0])
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        hint = "; unpack it first" if ".tar" in name or name.endswith(".tgz") else ""
        raise UserError(
            f"'{source}' is no TensorFlow checkpoint: there is no"
            f" '{prefix.name}.index'{hint}"
        )
    return prefix


def files_of(prefix: pathlib.Path) -> list[pathlib.Path]:
    """Returns a checkpoint's index and data files."""
    names = [f"{prefix.name}.index"]
    data = sorted(path.name for path in prefix.parent.glob(f"{prefix.name}.data-*"))
    return [prefix.with_name(name) for name in (*names, *data)]


def read_checkpoint(prefix: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the floating-point variables of a checkpoint.

    Args:
      prefix: common prefix of the files.

    Returns:
      Arrays by variable name.

    Raises:
      UserError: the checkpoint is damaged, or not TensorFlow's.
    """
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        kinds = reader.get_variable_to_dtype_map()
        return {
            name: reader.get_tensor(name)
            for name, kind in kinds.items()
            if kind.is_floating
        }
    except (tf.errors.OpError, LookupError, ValueError, RuntimeError) as error:
        raise UserError(
            f"TensorFlow cannot read the checkpoint '{prefix}' ({cause(error)}): get"
            " it again from its source"
        ) from error

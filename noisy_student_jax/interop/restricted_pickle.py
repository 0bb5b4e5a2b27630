"""Reads pickles as plain data: no imports, and no calls except those allowed.

A pickle is a program, which may execute arbitrary code. Here `pickletools` parses the
opcodes, and a small interpreter executes those that plain data need. Any other opcode,
and any name that is not allowed, is an error.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from noisy_student_jax.core.errors import cause

MAX_COMMANDS = 10_000_000
_MARK = object()


class RefusedPickleError(Exception):
    """The pickle is damaged, or holds more than plain data."""


class Readable(Protocol):
    """A binary file, or a memory map of one."""

    def read(self, size: int, /) -> bytes:
        """Reads at most `size` bytes."""

    def readline(self) -> bytes:
        """Reads up to the end of the line."""


class Name:
    """A global that the pickle refers to, with its value from the allowed ones."""

    def __init__(self, name: str, meaning: Any):
        self.name, self.meaning = name, meaning


def load(
    file: Readable,
    known: Mapping[str, Any],
    *,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads one pickle, and leaves the file positioned after it.

    Args:
      file: positioned at the pickle. Its ``read`` must not allocate more than the file
        holds, which is true of `io.BytesIO` and `mmap.mmap`.
      known: allowed globals by ``module.name``. The pickle may call functions; other
        values appear in the data as a `Name`.
      persistent: resolves persistent ids.

    Returns:
      Dictionaries, lists, tuples, strings, numbers, and results of `known` and
      `persistent`.

    Raises:
      RefusedPickleError: the pickle is damaged, or holds more than plain data.
    """
    machine = _Machine(known, persistent)
    # The stub requires an IO; genops only calls `read`, `readline` and `tell`.
    operations = pickletools.genops(file)  # type: ignore[arg-type]
    try:
        for count, (operation, argument, _) in enumerate(operations):
            if count > MAX_COMMANDS:
                raise RefusedPickleError("it has too many commands")
            command = machine.commands.get(operation.name)
            if command is None:
                raise RefusedPickleError(
                    f"it uses the pickle command {operation.name}, which data do not"
                    " need"
                )
            command(argument)
        (value,) = machine.stack
    except RefusedPickleError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise RefusedPickleError(
            f"it is cut short or garbled ({cause(error)})"
        ) from error
    return value


class _Machine:
    """An interpreter with a stack, a memo, and the opcodes that plain data need."""

    def __init__(
        self, known: Mapping[str, Any], persistent: Callable[[Any], Any] | None
    ):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.known, self.persistent = known, persistent
        push, pop = self.stack.append, self.stack.pop
        constants: dict[str, Callable[[], Any]] = {
            "NONE": lambda: None,
            "NEWTRUE": lambda: True,
            "NEWFALSE": lambda: False,
            "EMPTY_DICT": dict,
            "EMPTY_LIST": list,
            "EMPTY_TUPLE": tuple,
            "MARK": lambda: _MARK,
        }
        literals = (
            *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
            *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
        )

        def constant(make: Callable[[], Any]) -> Callable[[Any], None]:
            return lambda _: push(make())

        self.commands: dict[str, Callable[[Any], None]] = {
            **{name: constant(make) for name, make in constants.items()},
            **dict.fromkeys(literals, push),
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._put),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda n: push(self.memo[n])),
            "MEMOIZE": lambda _: self._put(len(self.memo)),
            "TUPLE": lambda _: push(tuple(self._since_mark())),
            "TUPLE1": lambda _: push((pop(),)),
            "TUPLE2": lambda _: push((pop(-2), pop())),
            "TUPLE3": lambda _: push((pop(-3), pop(-2), pop())),
            "SETITEM": lambda _: self._set([pop(-2), pop()]),
            "SETITEMS": lambda _: self._set(self._since_mark()),
            "APPEND": lambda _: self._extend([pop()]),
            "APPENDS": lambda _: self._extend(self._since_mark()),
            "GLOBAL": lambda both: push(self._name(*both.split(" ", 1))),
            "STACK_GLOBAL": lambda _: push(self._name(pop(-2), pop())),
            "REDUCE": lambda _: self._call(pop(), pop()),
            "BUILD": self._build,
            "BINPERSID": lambda _: self._outside(pop()),
        }

    def _put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def _since_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            if place == 0:
                raise ValueError("no mark")
            place -= 1
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("keys and values for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise ValueError("a key that is neither text nor a number")
            target[key] = value

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("items for what is no list")
        self.stack[-1].extend(values)

    def _name(self, module: str, name: str) -> Name:
        whole = f"{module}.{name}"
        if whole not in self.known:
            raise RefusedPickleError(
                f"it refers to {whole}, which is no tensor and might run code"
            )
        return Name(whole, self.known[whole])

    def _call(self, arguments: Any, name: Any) -> None:
        if not isinstance(name, Name) or not callable(name.meaning):
            raise ValueError("a call of what is no function")
        self.stack.append(name.meaning(*arguments))

    def _build(self, _: Any) -> None:
        # Attributes of a dictionary are PyTorch's version numbers, which are unused.
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise RefusedPickleError("it sets attributes of what is no dictionary")

    def _outside(self, identity: Any) -> None:
        if self.persistent is None:
            raise ValueError("it refers to something outside itself")
        self.stack.append(self.persistent(identity))

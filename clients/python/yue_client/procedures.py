"""The peer's functions: `await c.world.join('x')`."""
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Tuple

if TYPE_CHECKING:
    from .connection import Connection

_PREFIXES = ("async_", "timed_", "notify_")


class Procedures:
    """A name at the peer. An attribute is a name inside it, and a call is a call.

    Every name can be called, because the peer alone knows its functions. `procedures['name']` reaches names that are
    not identifiers of Python, and `procedures['=timed_f']` one that begins like a prefix.
    """

    __slots__ = ("__connection", "__path")
    __yue_procedures__ = True

    def __init__(self, connection: "Connection", path: Tuple[str, ...] = ()) -> None:
        self.__connection = connection
        self.__path = path

    def __getattr__(self, name: str) -> "Procedures":
        if name.startswith("__"):
            raise AttributeError(name)
        return Procedures(self.__connection, (*self.__path, name))

    def __getitem__(self, name: str) -> "Procedures":
        if not isinstance(name, str):
            raise TypeError(f"a procedure has a text as its name, not {name!r}")
        return Procedures(self.__connection, (*self.__path, name))

    def __call__(self, *args: Any) -> Any:
        if not self.__path:
            raise TypeError("name a procedure to call: c.name(…)")
        prefixes, last = _split(self.__path[-1])
        method = ".".join((*self.__path[:-1], last))
        seconds = None
        if "timed_" in prefixes:
            if not args or not isinstance(args[0], (int, float)) or isinstance(args[0], bool):
                raise TypeError(f"timed_{last} takes seconds as its first argument")
            seconds, args = float(args[0]), args[1:]
        if "notify_" in prefixes:
            return self.__connection.notify(method, *args, timeout=seconds)
        call = self.__connection.call(method, *args, timeout=seconds)
        return asyncio.ensure_future(call) if "async_" in prefixes else call

    def __repr__(self) -> str:
        return f"<procedures {'.'.join(self.__path) or '…'} of {self.__connection.address}>"


def connection(procedures: Procedures) -> "Connection":
    """The connection object that belongs to procedures."""
    found: "Connection" = procedures._Procedures__connection  # type: ignore[assignment]
    return found


def _split(name: str) -> Tuple[Tuple[str, ...], str]:
    """The prefixes of a name, and the rest. `=name` is literal."""
    if name.startswith("="):
        return (), name[1:]
    prefixes: Tuple[str, ...] = ()
    while True:
        prefix = next((each for each in _PREFIXES if name.startswith(each) and len(name) > len(each)), None)
        if prefix is None or prefix in prefixes:
            return prefixes, name
        prefixes, name = (*prefixes, prefix), name[len(prefix) :]

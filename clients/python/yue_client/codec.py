"""Values on the wire: msgpack, with functions as references in an ext value.

    ext 0x59, 8 bytes:   sub-type (1) | id (7, big endian)
                         1 = the sender owns the function    2 = the receiver owns it: it comes back

Arguments are encoded when a call is made, so that later changes to them do not matter, but an id is valid for one link
only, and a call may be held until the next one. So encoding writes *tokens*, positions in a list of functions, where
ids will stand; `Packed.for_link` replaces them when the message leaves.
"""
from __future__ import annotations

import functools
import gc
import itertools
import operator
import threading
from typing import Any, Callable, List, Optional, Tuple

import msgpack  # type: ignore[import-untyped]

from .errors import ArgumentError

EXT_CODE = 0x59
SENDER_OWNS = 1
RECEIVER_OWNS = 2

GC_BYTES = 16 << 10
"""Bytes of a message above which the collector rests while it is decoded."""
FUNCTION_WEIGHT = 8
"""How many containers a function takes the memory of."""

Function = Callable[..., Any]


def reference(owner: int, id: int) -> msgpack.ExtType:
    """The ext value of a function."""
    return msgpack.ExtType(EXT_CODE, bytes([owner]) + id.to_bytes(7, "big"))


def parse_reference(body: bytes) -> Tuple[int, int]:
    """The owner and the id of a function. The owner is 0 if the body is malformed."""
    if len(body) != 8 or body[0] not in (SENDER_OWNS, RECEIVER_OWNS):
        return 0, 0
    return body[0], int.from_bytes(body[1:], "big")


def is_function(value: Any) -> bool:
    """Whether a value travels as a function. Classes do not: they are more than one function."""
    return callable(value) and not isinstance(value, type) and not hasattr(value, "__yue_procedures__")


class Packed:
    """Values in msgpack, for any link."""

    __slots__ = ("body", "functions")

    def __init__(self, body: bytes, functions: List[Function]) -> None:
        self.body = body
        self.functions = functions

    def for_link(self, to_reference: Callable[[Function], msgpack.ExtType]) -> bytes:
        """The bytes with the references that `to_reference` chooses."""
        if not self.functions:
            return self.body

        def ext_hook(code: int, body: bytes) -> Any:
            if code != EXT_CODE:
                return msgpack.ExtType(code, body)
            owner, token = parse_reference(body)
            # The program may have sent an ext value of this code itself.
            is_token = owner == SENDER_OWNS and token < len(self.functions)
            return to_reference(self.functions[token]) if is_token else msgpack.ExtType(code, body)

        return pack_plain(unpack(self.body, ext_hook))


class Packer:
    """Encodes values. A packer belongs to one thread."""

    def __init__(self) -> None:
        self._functions: List[Function] = []
        self._packer = msgpack.Packer(default=self._default, unicode_errors="surrogateescape")

    def _default(self, value: Any) -> Any:
        if is_function(value):
            self._functions.append(value)
            return reference(SENDER_OWNS, len(self._functions) - 1)
        raise TypeError

    def pack(self, value: Any, what: str) -> Packed:
        """Encodes one value. `what` names it in the error.

        Raises `ArgumentError`, with the path to the value that cannot be sent.
        """
        self._functions = []
        try:
            body: bytes = self._packer.pack(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ArgumentError(_explain(value, what, str(error))) from None
        return Packed(body, self._functions)


_plain = threading.local()


def pack_plain(value: Any) -> bytes:
    """Encodes a value without functions, which can be sent."""
    packer = getattr(_plain, "packer", None)
    if packer is None:
        packer = _plain.packer = msgpack.Packer(unicode_errors="surrogateescape")
    body: bytes = packer.pack(value)
    return body


def unpack(
    body: bytes, ext_hook: Callable[[int, bytes], Any], container_hook: Optional[Callable[[Any], Any]] = None
) -> Any:
    """Decodes one value. Text that is not UTF-8 arrives with surrogates, and leaves as it came."""
    # Nothing here can be garbage, and the collector would look at each new container many times.
    rests = len(body) > GC_BYTES and gc.isenabled()
    if rests:
        gc.disable()
    try:
        return msgpack.unpackb(
            body,
            ext_hook=ext_hook,
            list_hook=container_hook,
            object_hook=container_hook,
            strict_map_key=False,
            unicode_errors="surrogateescape",
            use_list=True,
        )
    finally:
        if rests:
            gc.enable()


def unpack_bounded(body: bytes, ext_hook: Callable[[int, bytes], Any], containers_max: int) -> Any:
    """Decodes one value that a peer sent.

    An array of one byte becomes a list of 56: raises `ValueError` if there are more than so many arrays, maps and ext
    values.
    """
    if len(body) > containers_max and _containers(body) > containers_max:
        raise ValueError(f"it has more than {containers_max} arrays, maps and ext values")
    return unpack(body, ext_hook)


def _containers(body: bytes) -> int:
    """The arrays, maps and ext values of a message, a function as several. None of them is kept."""
    # Each array and map becomes one None of these, by means that run no line of Python. No error stops the decoding:
    # msgpack 1.0 leaks the arrays that an error leaves unfinished.
    marks, extra = itertools.repeat(None, len(body)), 0
    counted = functools.partial(next, marks)

    def counted_ext(code: int, _: bytes) -> None:
        nonlocal extra
        extra += FUNCTION_WEIGHT if code == EXT_CODE else 1

    unpack(body, counted_ext, counted)
    return len(body) - operator.length_hint(marks) + extra


def array_header(count: int) -> bytes:
    """The header of an array."""
    if count < 16:
        return bytes([0x90 | count])
    return b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")


_LEAVES = (bool, float, str, bytes, bytearray, memoryview, msgpack.ExtType, msgpack.Timestamp, type(None))


def _explain(value: Any, what: str, error: str) -> str:
    """Finds the value that cannot be sent: the first one, or the level below which all is well."""
    pending: List[Tuple[str, Any, Tuple[int, ...]]] = [(what, value, ())]
    while pending:
        path, value, above = pending.pop()
        if isinstance(value, _LEAVES) or is_function(value):
            continue
        if isinstance(value, int):
            if not -(1 << 63) <= value < 1 << 64:
                return f"{path} cannot be sent: {value} has more than 64 bits"
        elif isinstance(value, (list, tuple, dict)):
            if id(value) in above:
                return f"{path} cannot be sent: it contains itself"
            if len(above) >= 500:
                return f"{path} cannot be sent: it is nested too deeply"
            inside = (*above, id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            entries = [(f"{path}[{key!r}]", item, inside) for key, item in items]
            if isinstance(value, dict):
                entries += [(f"a key of {path}", key, inside) for key in value]
            pending.extend(reversed(entries))
        elif hasattr(value, "__yue_procedures__"):
            return f"{path} cannot be sent: it is a remote procedure; pass a function that calls it"
        else:
            return f"{path} cannot be sent: it is a {type(value).__name__}"
    return f"{what} cannot be sent: {error}"

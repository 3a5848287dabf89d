"""The tree of errors, with the names and numbers that yue uses on the wire and in Lua.

An error travels as `[code, message, {type, retryable, traceback, value}]`. Errors of any other shape, as foreign
servers send them, become an `RPCError` that carries them.
"""
from __future__ import annotations

import builtins
from typing import Any, Dict, List, Optional, Type

TEXT_MAX = 64 * 1024
"""A longer message or traceback is cut, in characters, before it is sent."""


class RPCError(Exception):
    """Any failure of a remote call."""

    code = -100

    def __init__(
        self, message: str, *, value: Any = None, retryable: bool = False, traceback: Optional[str] = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.value = value
        """The value that the peer raised, if it was not a text; of a foreign error, the whole of it."""
        self.retryable = retryable
        """Whether the call can be repeated without the risk that it runs twice."""
        self.traceback = traceback
        """The peer's traceback, if it sent one."""

    @property
    def type(self) -> str:
        """The name in yue's tree, which a peer sees."""
        return builtins.type(self).__name__

    def is_a(self, name: str) -> bool:
        """Whether it is of the type with that name, or of one below it."""
        return any(kind.__name__ == name for kind in builtins.type(self).__mro__ if kind in _KINDS)

    def __str__(self) -> str:
        return self.message


class TimeoutError(RPCError, builtins.TimeoutError):
    """The call timed out."""

    code = -101


class CancelledError(RPCError):
    """The peer's handler was cancelled. It is not asyncio's: the task that waits was not cancelled."""

    code = -102


class RuntimeError(RPCError, builtins.RuntimeError):
    """The handler failed."""

    code = -103


class ClientError(RPCError):
    """The failure arose on the caller's side."""

    code = -200


class TransportError(ClientError):
    """The link failed."""

    code = -210


class NetworkUnreachableError(TransportError):
    """There is no route to the address."""

    code = -211


class ConnectionRefusedError(TransportError, builtins.ConnectionRefusedError):
    """Nobody listens there."""

    code = -212


class ConnectionTimeoutError(TransportError):
    """Nobody answered in time."""

    code = -213


class ConnectionLostError(TransportError, builtins.ConnectionError):
    """The link broke. `retryable` tells whether the call has certainly not run."""

    code = -214


class AddressError(TransportError):
    """The address is invalid."""

    code = -215


class TLSError(TransportError):
    """The TLS handshake failed: a certificate is not trusted, or the peer does not speak TLS."""

    code = -216


class MessageRefusedError(ClientError):
    """A limit refuses the message."""

    code = -220


class MessageTooLargeError(MessageRefusedError):
    """The message is larger than the limit."""

    code = -221


class CallError(ClientError):
    """The call itself is wrong."""

    code = -230


class NoMethodError(CallError):
    """The peer offers no method of that name."""

    code = -231


class ArgumentError(CallError):
    """An argument cannot be sent, or is not one that the method takes."""

    code = -232


class NotGrantedError(CallError):
    """The server did not grant the connection."""

    code = -233


class ServerError(RPCError):
    """The failure arose on the server's side."""

    code = -300


class ServerBusyError(ServerError):
    """The server has reached a limit on its load."""

    code = -301


class QueueFullError(ServerError):
    """Too much is queued for the peer already; the message was not queued."""

    code = -302


def _subtree(kind: Type[RPCError]) -> List[Type[RPCError]]:
    return [kind] + [below for child in kind.__subclasses__() for below in _subtree(child)]


_KINDS = _subtree(RPCError)
_BY_NAME: Dict[str, Type[RPCError]] = {kind.__name__: kind for kind in _KINDS}
_BY_CODE: Dict[int, Type[RPCError]] = {kind.code: kind for kind in _KINDS}


def _text(value: Any) -> Optional[str]:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def _is_code(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def from_wire(error: Any) -> RPCError:
    """The exception for an error that a peer sent, of any shape."""
    message = _text(error)
    if message is not None:
        return RPCError(message)
    if isinstance(error, list) and len(error) in (2, 3) and _is_code(error[0]):
        message = _text(error[1])
        data = error[2] if len(error) == 3 else {}
        if message is not None and isinstance(data, dict):
            name = _text(data.get("type"))
            kind = _BY_NAME.get(name or "") or _BY_CODE.get(error[0]) or RPCError
            return kind(
                message,
                value=data.get("value"),
                retryable=data.get("retryable") is True,
                traceback=_text(data.get("traceback")),
            )
    named = error if isinstance(error, dict) else {}
    message = _text(named.get("message")) or _text(named.get("msg"))
    return RPCError(message or "the peer answered with an error of an unknown form", value=error)


def to_wire(error: BaseException, traceback: Optional[str] = None) -> List[Any]:
    """The error as it travels. An exception that is not of the tree becomes a `RuntimeError`."""
    data: Dict[str, Any]
    if isinstance(error, RPCError):
        code, message = error.code, error.message
        data = {"type": next(kind.__name__ for kind in type(error).__mro__ if kind in _KINDS)}
        if error.retryable:
            data["retryable"] = True
        if error.value is not None:
            data["value"] = error.value
    else:
        code, message = RuntimeError.code, f"{type(error).__name__}: {error}"
        data = {"type": "RuntimeError"}
    if traceback is not None:
        data["traceback"] = traceback[:TEXT_MAX]
    return [code, message[:TEXT_MAX], data]

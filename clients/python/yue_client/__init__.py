"""Calls yue servers from asyncio, and serves them.

    import asyncio
    import yue_client

    async def main():
        c = yue_client.open('tcp://127.0.0.1:8080', symbols={'says': print})
        print(await c.world.join('frodo'))

    asyncio.run(main())
"""
from __future__ import annotations

from typing import Any, Mapping, Optional

from . import errors
from .connection import Accept, Close, Connection
from .errors import (
    AddressError,
    ArgumentError,
    CallError,
    CancelledError,
    ClientError,
    ConnectionLostError,
    ConnectionRefusedError,
    ConnectionTimeoutError,
    MessageRefusedError,
    MessageTooLargeError,
    NetworkUnreachableError,
    NoMethodError,
    NotGrantedError,
    QueueFullError,
    RPCError,
    RuntimeError,
    ServerBusyError,
    ServerError,
    TimeoutError,
    TLSError,
    TransportError,
)
from .link import RemoteFunction
from .options import Options
from .procedures import Procedures, connection
from .serving import deadline, entries, peer
from .transport import TLS

__version__ = "0.1.0"

__all__ = [
    "AddressError",
    "ArgumentError",
    "CallError",
    "CancelledError",
    "ClientError",
    "Connection",
    "ConnectionLostError",
    "ConnectionRefusedError",
    "ConnectionTimeoutError",
    "MessageRefusedError",
    "MessageTooLargeError",
    "NetworkUnreachableError",
    "NoMethodError",
    "NotGrantedError",
    "Procedures",
    "QueueFullError",
    "RPCError",
    "RemoteFunction",
    "RuntimeError",
    "ServerBusyError",
    "ServerError",
    "TLSError",
    "TimeoutError",
    "TransportError",
    "connection",
    "deadline",
    "errors",
    "open",
    "peer",
]


def open(
    address: str,
    *,
    symbols: Optional[Mapping[str, Any]] = None,
    accept: Optional[Accept] = None,
    close: Optional[Close] = None,
    timeout: float = 5.0,
    handshake_timeout: float = 30.0,
    retry: bool = False,
    reconnect: bool = True,
    legacy: bool = False,
    keepalive: Optional[float] = 50.0,
    cancel: bool = False,
    describe: bool = True,
    traceback: Optional[bool] = None,
    message_max: int = 4 << 20,
    held_max: int = 8 << 20,
    in_flight_max: int = 16_384,
    references_max: int = 1 << 20,
    output_high: int = 1 << 20,
    output_max: int = 8 << 20,
    ca: Optional[str] = None,
    cert: Optional[str] = None,
    key: Optional[str] = None,
    server_name: Optional[str] = None,
    insecure: bool = False,
) -> Procedures:
    """The procedures of the server at an address. It returns at once; the first call connects.

    `symbols` holds the functions that the server may call. `accept(connection, granted)` runs when the server has
    granted the connection, before held calls leave; False, or an exception, closes the link. `close(connection,
    reason)` runs when a link has ended; a true result makes another one, a false one does not, and None leaves that to
    `reconnect`. Both may be async.

    Raises `AddressError`, and `ArgumentError` for options of a wrong kind.
    """
    namespace = {} if symbols is None else symbols
    if entries(namespace) is None:
        raise ArgumentError(f"symbols must be a dict of functions, not a {type(namespace).__name__}")
    for name, callback in (("accept", accept), ("close", close)):
        if callback is not None and not callable(callback):
            raise ArgumentError(f"{name} must be a function, not a {type(callback).__name__}")
    limits = {
        "timeout": timeout,
        "handshake_timeout": handshake_timeout,
        "message_max": message_max,
        "held_max": held_max,
        "in_flight_max": in_flight_max,
        "references_max": references_max,
        "output_high": output_high,
        "output_max": output_max,
    }
    for name, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
            raise ArgumentError(f"{name} must be a number above 0, not {limit!r}")
    options = Options(
        symbols=namespace,
        timeout=timeout,
        handshake_timeout=handshake_timeout,
        retry=retry,
        reconnect=reconnect,
        legacy=legacy,
        keepalive=keepalive,
        cancel=cancel,
        describe=describe,
        traceback=address.startswith("unix:") if traceback is None else traceback,
        message_max=message_max,
        held_max=held_max,
        in_flight_max=in_flight_max,
        references_max=references_max,
        output_high=output_high,
        output_max=output_max,
        tls=TLS(ca, cert, key, server_name, insecure),
    )
    return Connection(address, options, accept, close).procs

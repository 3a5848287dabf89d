"""Addresses, and how a link to one is made."""
from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
from typing import Any, Optional, Union

from .errors import (
    AddressError,
    ConnectionRefusedError,
    ConnectionTimeoutError,
    NetworkUnreachableError,
    RPCError,
    TLSError,
    TransportError,
)

_FORM = re.compile(r"(tcp|tls)://(\[[^\]/]+\]|[^:/\[\]]+):(\d{1,5})")
_FORMS = "tcp://host:port, tls://host:port, unix:///path, ws://host:port/path or wss://host:port/path"


class TLS:
    """The options of an encrypted link."""

    def __init__(
        self, ca: Optional[str], cert: Optional[str], key: Optional[str], server_name: Optional[str], insecure: bool
    ) -> None:
        self.ca, self.cert, self.key, self.server_name, self.insecure = ca, cert, key, server_name, insecure

    def context(self) -> ssl.SSLContext:
        """The context that Python's ssl uses. Files that cannot be read raise `OSError`."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context


class Address:
    """A server's address, parsed."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.scheme = text.partition("://")[0]
        self.host, self.port, self.path = "", 0, ""
        if self.scheme in ("ws", "wss") and re.fullmatch(r"wss?://[^/\s]+(/\S*)?", text):
            return
        if text.startswith("unix:///"):
            self.path = text[len("unix://") :]
            return
        match = _FORM.fullmatch(text)
        if not match or not 0 < int(match[3]) < 65536:
            raise AddressError(f"{text!r} is not an address; write {_FORMS}")
        self.host, self.port = match[2].strip("[]"), int(match[3])

    @property
    def is_local(self) -> bool:
        """Whether the system notices the peer's end at once, and its user is on this machine."""
        return self.scheme == "unix"

    async def connect(self, protocol: asyncio.Protocol, tls: TLS, message_max: int) -> None:
        """Connects `protocol`. A failure raises an error of the tree."""
        loop = asyncio.get_running_loop()
        context = None
        if self.scheme in ("tls", "wss"):
            try:
                context = tls.context()
            except OSError as error:
                raise TLSError(f"cannot read the certificates for {self.text}: {error}") from None
        try:
            if self.scheme in ("ws", "wss"):
                from .websocket import connect

                await connect(self.text, protocol, context, tls.server_name, message_max)
            elif self.scheme == "unix":
                await loop.create_unix_connection(lambda: protocol, self.path)
            else:
                name = (tls.server_name or self.host) if context else None
                await loop.create_connection(
                    lambda: protocol, self.host, self.port, ssl=context, server_hostname=name
                )
        except ImportError:
            raise TransportError(f"{self.text} needs the package websockets: pip install 'yue-client[ws]'") from None
        except (OSError, asyncio.TimeoutError, EOFError) as error:
            raise _failure(self.text, error) from None


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Sends small messages at once, and lets the kernel notice that the peer's machine is gone."""
    link: Optional[socket.socket] = transport.get_extra_info("socket")
    if link is None or link.family not in (socket.AF_INET, socket.AF_INET6):
        return
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


_KINDS = {
    ConnectionRefusedError: (errno.ECONNREFUSED, errno.ENOENT),
    NetworkUnreachableError: (errno.ENETUNREACH, errno.EHOSTUNREACH),
    ConnectionTimeoutError: (errno.ETIMEDOUT,),
}


def _failure(address: str, error: Union[OSError, Any]) -> RPCError:
    text = f"cannot connect to {address}: {error}"
    if isinstance(error, ssl.SSLError):
        return TLSError(text)
    if isinstance(error, asyncio.TimeoutError):
        return ConnectionTimeoutError(f"cannot connect to {address}: nobody answered in time", retryable=True)
    for kind, numbers in _KINDS.items():
        # For a host with several addresses asyncio raises an error without a number that quotes the others.
        quoted = [f"[Errno {number}]" for number in numbers] if getattr(error, "errno", None) is None else []
        if getattr(error, "errno", None) in numbers or any(text_of in str(error) for text_of in quoted):
            return kind(text, retryable=True)
    return TransportError(text, retryable=True)

"""Links over WebSocket, by the package `websockets`: one or more messages in each binary frame."""
from __future__ import annotations

import asyncio
import ssl
from typing import Any, Optional

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import WebSocketException


class _Transport(asyncio.Transport):
    """A transport whose writes are frames."""

    def __init__(self, socket: ClientConnection, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._socket, self._protocol = socket, protocol
        self._queue: "asyncio.Queue[Optional[bytes]]" = asyncio.Queue()
        self._queued = 0
        self._high = 65536
        self._paused = False
        self._tasks = (asyncio.ensure_future(self._send()), asyncio.ensure_future(self._receive()))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: Optional[int] = None, low: Optional[int] = None) -> None:
        self._high = self._high if high is None else high

    def get_write_buffer_size(self) -> int:
        return self._queued

    def write(self, data: Any) -> None:
        self._queued += len(data)
        self._queue.put_nowait(bytes(data))
        if self._queued > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        self._queue.put_nowait(None)

    def is_closing(self) -> bool:
        return self._socket.close_code is not None

    async def _send(self) -> None:
        try:
            while (data := await self._queue.get()) is not None:
                await self._socket.send(data)
                self._queued -= len(data)
                if self._paused and self._queued <= self._high // 4:
                    self._paused = False
                    self._protocol.resume_writing()
        except WebSocketException:
            return  # The receiving task tells of it.
        await self._socket.close()

    async def _receive(self) -> None:
        lost: Optional[Exception] = None
        try:
            async for frame in self._socket:
                # A text frame holds no messages: its first character ends the link.
                self._protocol.data_received(frame.encode() if isinstance(frame, str) else frame)
        except (WebSocketException, OSError) as error:
            lost = error
        self._tasks[0].cancel()
        self._protocol.connection_lost(lost)


async def connect(
    address: str,
    protocol: asyncio.Protocol,
    context: Optional[ssl.SSLContext],
    server_name: Optional[str],
    message_max: int,
) -> None:
    """Connects `protocol` to a server at `ws://` or `wss://`. A refusal raises `OSError`."""
    names: Any = {"server_hostname": server_name} if context and server_name else {}
    try:
        # A frame may hold several messages. Pings are yue's own.
        socket = await connect_websocket(
            address,
            ssl=context,
            max_size=message_max * 2,
            ping_interval=None,
            compression=None,
            open_timeout=None,
            **names,
        )
    except WebSocketException as error:
        raise OSError(f"the server does not speak WebSocket: {error}") from None
    protocol.connection_made(_Transport(socket, protocol))

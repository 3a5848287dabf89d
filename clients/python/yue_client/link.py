"""One link: messages in and out, calls that wait for answers, and functions that crossed.

A link is made by a connection, belongs to its event loop, and is never used again once it has ended: its ids of
functions and of calls mean nothing to the next link.

    bytes ─► frame (msgpack's skip finds the end) ─► decode ─► response: its call
                                                             request, notification: the connection serves them
"""
from __future__ import annotations

import asyncio
import random
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, List, Optional, Tuple

import msgpack  # type: ignore[import-untyped]

from . import codec, errors
from .transport import keep_alive

if TYPE_CHECKING:
    from .connection import Connection

RELEASES_PER_MESSAGE = 32
HEAD_BYTES = 32
"""More bytes than the kind and the msgid of a message take."""
CONTAINERS_MIN = 1 << 16
"""How many arrays and maps a message may have, however small `message_max` is."""
ID_MAX = (1 << 32) - 1
ANSWERS_MAX = 8
"""How often `output_max` may be exceeded by answers."""

Answer = Callable[[Optional[errors.RPCError], Any], None]


class ProtocolError(Exception):
    """The peer sent bytes that are not a message, or that a limit refuses: the start of the next one is unknown."""


class RemoteFunction:
    """A function of the peer. Calling it runs it there; it is valid for as long as its link."""

    __slots__ = ("_link", "_id", "__weakref__")

    def __init__(self, link: "Link", id: int) -> None:
        self._link = link
        self._id = id

    async def __call__(self, *args: Any) -> Any:
        """Calls it, and waits for the result."""
        return await self._link.connection.call_function(self, args, None)

    async def timed(self, seconds: float, *args: Any) -> Any:
        """Calls it, and waits for so long at most."""
        return await self._link.connection.call_function(self, args, seconds)

    def notify(self, *args: Any) -> bool:
        """Calls it without an answer. Returns whether the message was queued."""
        return self._link.connection.notify_function(self, args)

    def __repr__(self) -> str:
        return f"<function of {self._link.connection.address}>"


class Link(asyncio.Protocol):
    """The protocol that asyncio drives."""

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection
        self.loop = asyncio.get_running_loop()
        self.transport: Optional[asyncio.Transport] = None
        self.is_yue = False
        self.ended = False
        self.heard_at = self.loop.time()
        # Output of this tick.
        self._output: List[bytes] = []
        self._output_bytes = 0
        self._paused = False
        # Input: the bytes of the message that is not complete, and the framing of them.
        self._input = bytearray()
        self._frames = msgpack.Unpacker(max_buffer_size=0)
        self._framed = 0
        self._containers_max = max(CONTAINERS_MIN, int(connection.options.message_max) // 8)
        # Calls that wait, by msgid.
        self._calls: Dict[int, Answer] = {}
        self._next_id = 0
        # Functions of this side that the peer holds, by id: the function, and how often it crossed.
        self._exports: Dict[int, Tuple[codec.Function, int]] = {}
        self._export_ids: Dict[Any, int] = {}
        self._next_export = random.getrandbits(48)
        # Functions of the peer that the program holds, and those that it has dropped.
        self._imports: "weakref.WeakValueDictionary[int, RemoteFunction]" = weakref.WeakValueDictionary()
        self._crossings: Dict[int, List[int]] = {}
        self._dropped: Deque[List[int]] = deque()
        self._release_due = False

    # -- The transport -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        options = self.connection.options
        self.transport.set_write_buffer_limits(high=options.output_high)  # type: ignore[union-attr]
        keep_alive(transport)
        self.connection.handle_link_up(self)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        try:
            self._read(data)
        except ProtocolError as fault:
            received = bytes(self._input[:32] or data[:32])
            self.end(f"the peer does not speak msgpack-rpc: {fault}: received {received!r}", is_protocol=True)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self.end(f"the link broke: {exc}" if exc else "closed by the peer")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.connection.handle_room()

    # -- Output --------------------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether a message that can wait should be written now."""
        return not self._paused and self._output_bytes < self.connection.options.output_high

    @property
    def queued_bytes(self) -> int:
        """The bytes that wait to be sent."""
        return self._output_bytes + (self.transport.get_write_buffer_size() if self.transport else 0)

    def write(self, message: bytes) -> None:
        """Queues a message. All messages of one tick leave together."""
        if self.ended:
            return
        if not self._output:
            self.loop.call_soon(self._flush)
        self._output.append(message)
        self._output_bytes += len(message)
        options = self.connection.options
        # No call is written and no request starts above `output_high`: these are answers of requests that ran before.
        if self.queued_bytes > 2 * options.message_max + ANSWERS_MAX * options.output_max:
            self.end("the peer reads nothing")

    def _flush(self) -> None:
        self.send_releases()
        output, self._output, self._output_bytes = self._output, [], 0
        if output and not self.ended and self.transport:
            self.transport.write(b"".join(output))
            if self.has_room:
                self.connection.handle_room()

    def close(self) -> None:
        """Ends the link in order: queued messages are sent."""
        self._flush()
        self.end("closed by this side")

    def end(self, reason: str, *, is_protocol: bool = False, is_refusal: bool = False) -> None:
        """Ends the link, once. Calls that wait fail, and the connection learns of it."""
        if self.ended:
            return
        self.ended = True
        if self.transport:
            self.transport.close()
        calls, self._calls = self._calls, {}
        self._exports.clear()
        self._export_ids.clear()
        for answer in calls.values():
            text = f"the connection was lost before the answer came: {reason}"
            answer(errors.ConnectionLostError(text), None)
        self.connection.handle_end(self, reason, is_protocol, is_refusal)

    # -- Calls ---------------------------------------------------------------------------------------------------------

    def request(self, method: bytes, params: bytes, extensions: Dict[str, Any], answer: Answer) -> int:
        """Writes a request, whose method and params are encoded; returns its msgid."""
        while self._next_id in self._calls:
            self._next_id = (self._next_id + 1) & ID_MAX
        msgid, self._next_id = self._next_id, (self._next_id + 1) & ID_MAX
        self._calls[msgid] = answer
        has_extensions = bool(extensions) and self.is_yue
        head = (b"\x95\x00\xce" if has_extensions else b"\x94\x00\xce") + msgid.to_bytes(4, "big")
        self.write(head + method + params + (codec.pack_plain(extensions) if has_extensions else b""))
        return msgid

    def notify(self, method: bytes, params: bytes) -> None:
        """Writes a notification."""
        self.write(b"\x93\x02" + method + params)

    def control(self, name: str, *params: Any) -> None:
        """Writes a message of the protocol itself."""
        self.notify(codec.pack_plain(name), codec.pack_plain(list(params)))

    def abandon(self, msgid: int) -> None:
        """Nobody waits for an answer any more."""
        if self._calls.pop(msgid, None) and self.is_yue and not self.ended:
            self.control("$yue/cancel", msgid)

    @property
    def calls_in_flight(self) -> int:
        """The number of calls that wait for an answer."""
        return len(self._calls)

    # -- Input ---------------------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        """Handles the messages that end in `data`.

        Only whole messages are decoded: then no length in them can exceed what was received, so a few bytes that
        announce much take no memory.
        """
        self._frames.feed(data)
        self._input += data
        limit = self.connection.options.message_max
        used = 0
        try:
            while not self.ended:
                try:
                    self._frames.skip()
                except msgpack.OutOfData:
                    break
                except Exception as fault:
                    raise ProtocolError(type(fault).__name__) from None
                start, self._framed = self._framed, self._frames.tell()
                begin, used = used, used + self._framed - start
                if used - begin > limit:
                    raise ProtocolError(f"a message has more than {limit} bytes")
                self._handle(bytes(self._input[begin:used]))
            if len(self._input) - used > limit:
                raise ProtocolError(f"a message has more than {limit} bytes")
        finally:
            del self._input[:used]

    def _handle(self, frame: bytes) -> None:
        try:
            message = codec.unpack_bounded(frame, self._ext, self._containers_max)
        except Exception as fault:
            return self._handle_undecodable(frame, str(fault))
        if not isinstance(message, list) or not message:
            raise ProtocolError("it is not an array")
        kind, size = message[0], len(message)
        if kind == 1 and size in (4, 5) and _is_id(message[1]):
            return self._handle_response(*message[1:])
        if kind == 0 and size in (4, 5) and _is_id(message[1]):
            _, msgid, method, params = message[:4]
            extensions = message[4] if size == 5 and self.is_yue and isinstance(message[4], dict) else {}
        elif kind == 2 and size in (3, 4):
            msgid, method, params, extensions = None, message[1], message[2], {}
        else:
            raise ProtocolError("it is neither a request nor a response nor a notification")
        if isinstance(method, bytes):
            method = method.decode("utf-8", "surrogateescape")
        is_number = isinstance(method, int) and not isinstance(method, bool)
        if not isinstance(params, list) or not (isinstance(method, str) or is_number):
            raise ProtocolError("its method or its params have the wrong type")
        if msgid is None and method == "$yue/release":
            return self._handle_release(params)
        self.connection.handle_request(self, msgid, method, params, extensions, len(frame))

    def _handle_undecodable(self, frame: bytes, fault: str) -> None:
        """A whole message whose values Python cannot hold, such as a map whose keys are arrays, or too many of them."""
        head = msgpack.Unpacker(strict_map_key=False)
        head.feed(frame[:HEAD_BYTES])
        try:
            head.read_array_header()
            kind, msgid = head.unpack(), head.unpack()
        except Exception:
            raise ProtocolError(fault) from None
        refused = errors.MessageRefusedError(f"the message cannot be decoded: {fault}")
        if kind == 1 and _is_id(msgid):
            self._handle_response(msgid, errors.to_wire(refused), None)
        elif kind == 0 and _is_id(msgid):
            self.respond_error(msgid, refused)
        elif kind != 2:
            raise ProtocolError(fault)

    def _handle_response(self, msgid: int, error: Any, result: Any, count: Any = 1) -> None:
        answer = self._calls.pop(msgid, None)
        if answer is None:
            return  # Its caller gave up.
        if error is not None:
            return answer(errors.from_wire(error), None)
        if count != 1 and isinstance(result, list) and count == len(result):
            result = tuple(result) if result else None
        answer(None, result)

    def respond(self, msgid: int, result: bytes, count: int = 1) -> None:
        """Answers a request. `result` is encoded: one value, or an array of `count` values."""
        head = b"\x01\xce" + msgid.to_bytes(4, "big") + b"\xc0"
        if count == 1 or not self.is_yue:
            self.write(b"\x94" + head + (result if count else b"\xc0"))
        else:
            self.write(b"\x95" + head + result + codec.pack_plain(count))

    def respond_error(self, msgid: int, error: BaseException, traceback: Optional[str] = None) -> None:
        """Answers a request with an error."""
        try:
            body = codec.pack_plain(errors.to_wire(error, traceback))
        except Exception:  # Its value cannot be sent.
            body = codec.pack_plain(errors.to_wire(errors.RuntimeError(str(error)), traceback))
        self.write(b"\x94\x01\xce" + msgid.to_bytes(4, "big") + body + b"\xc0")

    # -- Functions -----------------------------------------------------------------------------------------------------

    def _ext(self, code: int, body: bytes) -> Any:
        """Decodes ext values: functions, and foreign ones, which are opaque."""
        if code != codec.EXT_CODE or not self.is_yue:
            return msgpack.ExtType(code, body)
        owner, id = codec.parse_reference(body)
        if owner == codec.RECEIVER_OWNS:
            export = self._exports.get(id)
            return export[0] if export else _collected
        if owner == codec.SENDER_OWNS:
            return self._import(id)
        return msgpack.ExtType(code, body)

    def _import(self, id: int) -> RemoteFunction:
        function = self._imports.get(id)
        if function is not None:
            self._crossings[id][1] += 1
            return function
        function = RemoteFunction(self, id)
        self._imports[id] = function
        record = self._crossings[id] = [id, 1]
        weakref.finalize(function, self._drop, record).atexit = False
        return function

    def _drop(self, record: List[int]) -> None:
        """Records that the program has dropped a function. Runs in the collector, in any thread."""
        self._dropped.append(record)
        if not self._release_due and not self.ended:
            self._release_due = True
            try:
                self.loop.call_soon_threadsafe(self._flush)
            except RuntimeError:
                pass  # The loop is closed, and so is the link.

    def send_releases(self) -> None:
        """Tells the peer of the functions that were dropped."""
        self._release_due = False
        if not self._dropped or self.connection.holds_functions:
            return
        releases = []
        while self._dropped:
            record = self._dropped.popleft()
            if self._crossings.get(record[0]) is record:
                del self._crossings[record[0]]
            releases.append(record)
        for start in range(0, len(releases), RELEASES_PER_MESSAGE):
            self.control("$yue/release", releases[start : start + RELEASES_PER_MESSAGE])

    def export(self, function: codec.Function) -> msgpack.ExtType:
        """The reference to a function, for a message that leaves now."""
        if isinstance(function, RemoteFunction):
            if function._link is self:
                return codec.reference(codec.RECEIVER_OWNS, function._id)
            if function._link.connection is self.connection:
                raise stale()
            raise errors.ArgumentError("a function of another connection cannot be passed on; wrap it in one of yours")
        if not self.is_yue:
            raise errors.ArgumentError("cannot send a function: the peer is not a yue peer")
        key = _key(function)
        id = self._export_ids.get(key)
        if id is None:
            limit = self.connection.options.references_max
            if len(self._exports) >= limit:
                raise errors.MessageRefusedError(f"the peer holds {limit} functions already, the limit")
            id, self._next_export = self._next_export, self._next_export + 1
            self._export_ids[key] = id
            self._exports[id] = (function, 0)
        self._exports[id] = (function, self._exports[id][1] + 1)
        return codec.reference(codec.SENDER_OWNS, id)

    def exported(self, id: int) -> Optional[codec.Function]:
        """A function of this side, by the id that the peer calls."""
        export = self._exports.get(id)
        return export[0] if export else None

    @property
    def functions_held(self) -> int:
        """The number of this side's functions that the peer holds."""
        return len(self._exports)

    def _handle_release(self, params: List[Any]) -> None:
        releases = params[0] if params and isinstance(params[0], list) else []
        for release in releases:
            if not (isinstance(release, list) and len(release) == 2 and all(type(part) is int for part in release)):
                return
            id, count = release
            if id in self._exports and count > 0:
                function, crossings = self._exports[id]
                if crossings > count:
                    self._exports[id] = (function, crossings - count)
                else:
                    del self._exports[id]
                    self._export_ids.pop(_key(function), None)


def _collected(*_: Any) -> Any:
    """Stands for a function of this side that is not exported any more."""
    raise errors.NoMethodError("the function was collected")


def stale() -> errors.ConnectionLostError:
    """The error for a function of an earlier link."""
    text = "the function belonged to a connection that is lost; get it from the peer again"
    return errors.ConnectionLostError(text, retryable=True)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= ID_MAX


def _key(function: codec.Function) -> Any:
    try:
        hash(function)
        return function
    except TypeError:
        return id(function)

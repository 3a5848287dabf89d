"""A connection: it makes links, one after another, and holds the calls that wait for one.

    idle ─call─► connecting ─► greeting ─grant─► accepting ─► up
     ▲               ▲ └ hello, $yue/granted       └ `accept`  │
     └── give up ────┴──────────── the link ends ◄─────────────┘          closed: by this side, for good

Calls are held in every state but `up`, each until its own deadline. Only that, and a refusal or a failure that nobody
retries, ends one that was not yet written.
"""
from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import random
from collections import deque
from typing import Any, Awaitable, Callable, Deque, Dict, List, Optional, Tuple, Union

from . import codec, errors, serving
from .link import Link, RemoteFunction, stale
from .options import Options
from .procedures import Procedures
from .transport import Address

RETRY_FIRST = 0.05
RETRY_MAX = 5.0
NONSENSE_LINKS = 3
"""After as many links that sent nothing but nonsense, the calls that wait fail."""
VERSION = 1

Accept = Callable[["Connection", Any], Union[Any, Awaitable[Any]]]
Close = Callable[["Connection", str], Union[Any, Awaitable[Any]]]


class _Call:
    """A call or a notification that is held, or a call that waits for its answer."""

    __slots__ = ("method", "packed", "deadline", "future", "timer", "link", "msgid", "extensions", "size")

    def __init__(
        self, method: bytes, packed: codec.Packed, deadline: Optional[float], future: "Optional[asyncio.Future[Any]]"
    ) -> None:
        self.method, self.packed, self.deadline, self.future = method, packed, deadline, future
        self.timer: Optional[asyncio.TimerHandle] = None
        self.link: Optional[Link] = None
        self.msgid = 0
        self.extensions: Dict[str, Any] = {}
        self.size = len(packed.body) + len(method) + 64

    def fail(self, error: errors.RPCError) -> None:
        if self.timer:
            self.timer.cancel()
        if self.future and not self.future.done():
            self.future.set_exception(error)

    @property
    def names_imports(self) -> bool:
        return any(isinstance(function, RemoteFunction) for function in self.packed.functions)


class Connection:
    """What is behind the procedures that `open` returns. It belongs to the event loop of its first call."""

    def __init__(self, address: str, options: Options, accept: Optional[Accept], close: Optional[Close]) -> None:
        self._address = Address(address)
        self.address = address
        self.options = options
        self.namespace: Any = options.symbols
        """The functions that the peer may call, to read and to change."""
        self.procs = Procedures(self)
        """The peer's procedures, as `open` returns them."""
        self.packer = codec.Packer()
        self._accept, self._close = accept, close
        self._state = "idle"
        self._link: Optional[Link] = None
        self._handlers: Optional[serving.Handlers] = None
        self._held: Deque[_Call] = deque()
        self._held_bytes = 0
        self._was_up = False
        self._attempts = 0
        self._nonsense = 0
        self._tasks: "set[asyncio.Task[Any]]" = set()
        self._handshake_timer: Optional[asyncio.TimerHandle] = None
        self._keepalive_timer: Optional[asyncio.TimerHandle] = None
        self._ended: "List[asyncio.Future[None]]" = []

    # -- For programs --------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether calls are sent at once: the link is up and granted."""
        return self._state == "up"

    @property
    def functions_held(self) -> int:
        """The number of this side's functions that the peer holds."""
        return self._link.functions_held if self._link else 0

    @property
    def calls_in_flight(self) -> int:
        """The number of calls that wait: for an answer, or for the connection."""
        return (self._link.calls_in_flight if self._link else 0) + len(self._held)

    async def call(self, method: str, *args: Any, timeout: Optional[float] = None) -> Any:
        """Calls a method by its literal name. `timeout` is in seconds, by default that of the connection."""
        return await self._wait(method.encode("utf-8", "surrogateescape"), None, args, timeout)

    def notify(self, method: str, *args: Any, timeout: Optional[float] = None) -> bool:
        """Notifies a method. Returns whether the message was queued: False if the connection has ended or is full.

        With a `timeout` the notification is dropped if it was not written within as many seconds.
        """
        packed = self._pack(args)
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        call = _Call(codec.pack_plain(method), packed, deadline, None)
        if self._state == "closed":
            return False
        if self._link and self._state == "up" and not self._held:
            if self._link.queued_bytes >= self.options.output_max:
                return False
            return self._write(self._link, call)
        if self._held_bytes + call.size > self.options.held_max:
            return False
        self._hold(call)
        if timeout is not None:
            call.timer = asyncio.get_running_loop().call_later(timeout, self._abandon, call)
        return True

    async def describe(self) -> List[Dict[str, Any]]:
        """The peer's functions that this side may call: `name`, and where known `params`, `vararg` and `doc`."""
        answer = await self.call("$yue/describe")
        functions: List[Dict[str, Any]] = answer["functions"]
        return functions

    def close(self, reason: Optional[str] = None) -> None:
        """Closes it for good. A yue peer gets the reason."""
        if self._state == "closed":
            return
        link, was_up = self._link, self._state == "up"
        self._set_closed()
        if link:
            if was_up and link.is_yue and reason is not None:
                link.control("$yue/refused", errors.to_wire(errors.RPCError(reason)))
            link.close()
        self._fail_held(lambda: errors.ConnectionLostError("the connection was closed by this side"))
        for task in list(self._tasks):
            if task is not _current_task():
                task.cancel()

    async def wait_closed(self) -> None:
        """Waits until it is closed for good."""
        if self._state != "closed":
            ended = asyncio.get_running_loop().create_future()
            self._ended.append(ended)
            await ended

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<connection to {self.address}: {self._state}>"

    # -- Calls ---------------------------------------------------------------------------------------------------------

    async def call_function(self, function: RemoteFunction, args: Tuple[Any, ...], timeout: Optional[float]) -> Any:
        """Calls a function of the peer. It needs no grant, but its own link."""
        return await self._wait(codec.pack_plain(function._id), function._link, args, timeout)

    def notify_function(self, function: RemoteFunction, args: Tuple[Any, ...]) -> bool:
        """Notifies a function of the peer."""
        packed = self._pack(args)
        link = function._link
        if link.ended or link.queued_bytes >= self.options.output_max:
            return False
        return self._write(link, _Call(codec.pack_plain(function._id), packed, None, None))

    async def _wait(
        self, name: bytes, link: Optional[Link], args: Tuple[Any, ...], timeout: Optional[float]
    ) -> Any:
        method = name if link else codec.pack_plain(name.decode("utf-8", "surrogateescape"))
        loop = asyncio.get_running_loop()
        call = _Call(method, self._pack(args), None, loop.create_future())
        call.extensions = _ids_for_calls()
        if link and link.ended:
            raise stale()
        if self._state == "closed":
            raise errors.ConnectionLostError("the connection was closed by this side")
        seconds = self.options.timeout if timeout is None else timeout
        if seconds != math.inf:
            call.deadline = loop.time() + seconds
            call.timer = loop.call_at(call.deadline, self._time_out, call, seconds)
        if link:
            self._write(link, call)
        elif self._link and self._state == "up" and not self._held and self._link.has_room:
            self._write(self._link, call)
        else:
            self._hold(call)
        assert call.future is not None
        try:
            return await call.future
        except asyncio.CancelledError:
            self._abandon(call)
            raise

    def _pack(self, args: Tuple[Any, ...]) -> codec.Packed:
        packed = self.packer.pack(args, "args")
        limit = self.options.message_max
        if len(packed.body) > limit:
            raise errors.MessageTooLargeError(f"the arguments have {len(packed.body)} bytes; the limit is {limit}")
        return packed

    def _write(self, link: Link, call: _Call) -> bool:
        """Writes a call to a link. One that cannot be written fails."""
        try:
            params = call.packed.for_link(link.export)
            if call.future and link.calls_in_flight >= self.options.in_flight_max:
                raise errors.MessageRefusedError(f"{self.options.in_flight_max} calls wait already, the limit")
        except errors.RPCError as error:
            if call.future is None:
                raise
            call.fail(error)
            return False
        if call.future is None:
            link.notify(call.method, params)
            return True
        extensions = dict(call.extensions)
        if call.deadline is not None:
            extensions["t"] = max(0, int((call.deadline - link.loop.time()) * 1000))

        def answered(error: Optional[errors.RPCError], result: Any) -> None:
            if call.timer:
                call.timer.cancel()
            if call.future and not call.future.done():
                if error:
                    call.future.set_exception(error)
                else:
                    call.future.set_result(result)

        call.link = link
        call.msgid = link.request(call.method, params, extensions, answered)
        return True

    def _time_out(self, call: _Call, seconds: float) -> None:
        was_held = call.link is None
        self._abandon(call)
        text = f"no answer within {seconds:g} s" + (": it was never sent" if was_held else "")
        call.fail(errors.TimeoutError(text, retryable=was_held))

    def _abandon(self, call: _Call) -> None:
        if call.timer:
            call.timer.cancel()
        if call.link:
            call.link.abandon(call.msgid)
        elif call in self._held:
            self._held.remove(call)
            self._held_bytes -= call.size

    # -- Held calls ----------------------------------------------------------------------------------------------------

    @property
    def holds_functions(self) -> bool:
        """Whether a held call names a function of the peer, so that its release must not overtake the call."""
        return any(call.names_imports for call in self._held)

    def _hold(self, call: _Call) -> None:
        limit = self.options.held_max
        # A single call of any allowed size fits. Once the connection is up, a call waits for room as its task does.
        if self._held and self._held_bytes + call.size > limit and self._state != "up":
            text = f"more than {limit} bytes of calls wait for the connection already"
            return call.fail(errors.QueueFullError(text, retryable=True))
        functions = call.packed.functions
        if any(isinstance(each, RemoteFunction) and each._link is not self._link for each in functions):
            return call.fail(stale())
        self._held.append(call)
        self._held_bytes += call.size
        if self._state == "idle":
            self._connect()

    def _write_held(self) -> None:
        link = self._link
        while link and self._held and self._state == "up" and link.has_room:
            call = self._held.popleft()
            self._held_bytes -= call.size
            if call.future is None and call.timer:
                call.timer.cancel()
            try:
                self._write(link, call)
            except errors.RPCError as error:
                serving.log.error("a notification could not be sent to %s: %s", self.address, error)

    def _fail_held(self, error: Callable[[], errors.RPCError]) -> None:
        held, self._held, self._held_bytes = self._held, deque(), 0
        for call in held:
            call.fail(error())

    def handle_room(self) -> None:
        """The link takes messages again."""
        self._write_held()
        if self._handlers:
            self._handlers.start_soon()

    # -- Links ---------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Any) -> None:
        """Runs work of the connection itself, for no handler."""
        context = contextvars.copy_context()
        context.run(serving.leave_handler)
        task = context.run(asyncio.ensure_future, work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _connect(self) -> None:
        self._state = "connecting"
        self._spawn(self._make_link())

    async def _make_link(self) -> None:
        while self._state == "connecting":
            if self._attempts:
                await asyncio.sleep(_backoff(self._attempts))
            self._attempts += 1
            connecting = self._address.connect(Link(self), self.options.tls, self.options.message_max)
            attempt = asyncio.ensure_future(connecting)
            try:
                await asyncio.wait({attempt}, timeout=self.options.handshake_timeout)
                # Once the link is there, the time of its handshake counts.
                if attempt.done() or self._state != "connecting":
                    return await attempt
                text = f"cannot connect to {self.address}: it took too long"
                error: errors.RPCError = errors.ConnectionTimeoutError(text, retryable=True)
            except errors.RPCError as failure:
                error = failure
            except Exception as failure:
                error = errors.TransportError(f"cannot connect to {self.address}: {failure}")
            finally:
                attempt.cancel()
            if self._state != "connecting" or not self._retries(error):
                return

    def _retries(self, error: errors.RPCError) -> bool:
        """Whether to try again after a failed attempt."""
        if isinstance(error, errors.TLSError):
            self._fail_held(lambda: error)
        if self._was_up or self.options.retry and not isinstance(error, errors.TLSError):
            return True
        self._state, self._attempts = "idle", 0
        self._fail_held(lambda: error)
        return False

    def handle_link_up(self, link: Link) -> None:
        """A link is there: says hello."""
        if self._state != "connecting":
            return link.end("closed by this side")
        self._state, self._link = "greeting", link
        self._handlers = serving.Handlers(link)
        limit = self.options.handshake_timeout
        self._handshake_timer = link.loop.call_later(limit, link.end, "the handshake took too long")
        if self.options.legacy:
            return self._handle_granted(None)

        def answered(error: Optional[errors.RPCError], _: Any) -> None:
            if error is None:
                link.is_yue = True
            elif not link.ended:
                self._handle_granted(None)  # The peer knows no hello, so it knows no grant either.

        hello = codec.pack_plain("$yue/hello")
        # The number identifies the link for tools at both ends.
        features = {"id": random.randrange(1, 1 << 48)}
        link.request(hello, codec.pack_plain([VERSION, features]), {}, answered)

    def _handle_granted(self, value: Any) -> None:
        if self._state != "greeting":
            return
        self._state = "accepting"
        if self._accept is None:
            return self._go_up()
        self._spawn(self._ask_accept(self._link, value))

    async def _ask_accept(self, link: Optional[Link], value: Any) -> None:
        assert self._accept is not None and link is not None
        text = "`accept` returned False"
        try:
            verdict = await self._run_callback(self._accept, value)
        except Exception as error:
            serving.log.error("`accept` failed for %s", self.address, exc_info=error)
            verdict, text = False, f"`accept` failed: {type(error).__name__}: {error}"
        if self._link is not link or self._state != "accepting":
            return
        if verdict is False:
            link.end(text, is_refusal=True)
        else:
            self._go_up()

    async def _run_callback(self, callback: Callable[..., Any], argument: Any) -> Any:
        serving._peer.set(self)
        verdict = callback(self, argument)
        return await verdict if inspect.isawaitable(verdict) else verdict

    def _go_up(self) -> None:
        self._state, self._was_up, self._attempts, self._nonsense = "up", True, 0, 0
        if self._handshake_timer:
            self._handshake_timer.cancel()
        if self.options.keepalive and self._link and self._link.is_yue and not self._address.is_local:
            self._keep_alive(self._link, self.options.keepalive, None)
        self._write_held()

    def _keep_alive(self, link: Link, seconds: float, pinged_at: Optional[float]) -> None:
        """Asks a silent peer for a sign of life, and ends the link of one that gives none.

        Silence counts from the question: this process itself may have been stopped.
        """
        if link.ended:
            return
        now = link.loop.time()
        if pinged_at is not None and link.heard_at >= pinged_at:
            pinged_at = None
        if pinged_at is None and now - link.heard_at >= seconds / 5:
            link.request(codec.pack_plain("$yue/ping"), b"\x90", {}, lambda _error, _result: None)
            pinged_at = now
        elif pinged_at is not None and now - pinged_at >= seconds * 3 / 5:
            return link.end(f"the peer was silent for {now - link.heard_at:.0f} s")
        self._keepalive_timer = link.loop.call_later(seconds / 10, self._keep_alive, link, seconds, pinged_at)

    def handle_end(self, link: Link, reason: str, is_protocol: bool, is_refusal: bool) -> None:
        """A link has ended."""
        if self._link is not link:
            return
        if self._handlers:
            self._handlers.drop_waiting()
        was_up, self._link, self._handlers = self._state == "up", None, None
        for timer in (self._handshake_timer, self._keepalive_timer):
            if timer:
                timer.cancel()
        if self._state == "closed":
            return
        self._nonsense = self._nonsense + 1 if is_protocol and not was_up else 0
        self._state = "ending"
        self._spawn(self._after_end(reason, is_refusal, list(self._held)))

    async def _after_end(self, reason: str, is_refusal: bool, held: List[_Call]) -> None:
        again: Any = self.options.reconnect and not is_refusal
        if self._close is not None:
            try:
                verdict = await self._run_callback(self._close, reason)
                again = again if verdict is None else verdict
            except Exception as error:
                serving.log.error("`close` failed for %s", self.address, exc_info=error)
                again = False
        if self._state != "ending":
            return
        if self._nonsense >= NONSENSE_LINKS:
            again, self._nonsense = False, 0
        if again:
            self._attempts = max(self._attempts, 1)
            return self._connect()
        self._state, self._attempts, self._was_up = "idle", 0, False
        kind = errors.NotGrantedError if is_refusal else errors.ConnectionLostError
        for call in held:
            if call in self._held:
                self._abandon(call)
                call.fail(kind(reason, retryable=True))
        # Calls that were made while `close` ran are the next ones, which connect again.
        if self._held:
            self._connect()

    def _set_closed(self) -> None:
        self._state = "closed"
        for ended in self._ended:
            if not ended.done():
                ended.set_result(None)

    # -- Requests of the peer ------------------------------------------------------------------------------------------

    def handle_request(
        self,
        link: Link,
        msgid: Optional[int],
        method: Union[str, int],
        params: List[Any],
        extensions: Dict[str, Any],
        size: int,
    ) -> None:
        """A request, or a notification, which has no msgid."""
        if isinstance(method, str) and method.startswith("$yue/"):
            if msgid is None:
                return self._handle_control(link, method, params[0] if params else None)
            return self._answer_control(link, msgid, method)
        if self._handlers and self._handlers.link is link:
            self._handlers.add(msgid, method, params, extensions, size)

    def _handle_control(self, link: Link, method: str, value: Any) -> None:
        if method == "$yue/granted" and link.is_yue:
            self._handle_granted(value)
        elif method == "$yue/refused" and self._state in ("greeting", "accepting"):
            refused = errors.from_wire(value)
            link.end(f"the server did not grant the connection: {refused}", is_refusal=True)
        elif method == "$yue/refused" and link.is_yue:
            link.end(f"closed by the peer: {errors.from_wire(value)}")
        elif method == "$yue/cancel" and self._handlers:
            self._handlers.cancel(value)

    def _answer_control(self, link: Link, msgid: int, method: str) -> None:
        if method == "$yue/ping":
            link.respond(msgid, codec.pack_plain(None))
        elif method == "$yue/hello":
            link.is_yue = True
            link.respond(msgid, codec.pack_plain([VERSION, {}]))
        elif method == "$yue/describe" and self._state == "up" and self.options.describe:
            link.respond(msgid, codec.pack_plain(serving.describe(self.namespace)))
        else:
            link.respond_error(msgid, errors.NoMethodError(f"there is no method '{serving._shown(method)}'"))


def _backoff(attempts: int) -> float:
    """Seconds to wait before another attempt: they double, and a random part spreads the clients of a lost server."""
    longest = min(RETRY_FIRST * 2.0 ** min(attempts - 1, 16), RETRY_MAX)
    return longest * (0.5 + random.random() / 2)


def _current_task() -> "Optional[asyncio.Task[Any]]":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _ids_for_calls() -> Dict[str, Any]:
    """The ids that a call made by a handler inherits. Its call chain begins with its first call."""
    ids = serving.inherited.get()
    if ids is None:
        return {}
    ids.setdefault("c", random.randrange(1, 1 << 48))
    return ids

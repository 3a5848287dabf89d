"""Serves the peer's requests: finds the function, runs it, and answers.

Only what the program names in its symbols can be called: the entries of dicts, of nested ones by dotted names, and of
`types.SimpleNamespace`. No attribute of any other object is ever looked up, and no name that begins with `_` is found.
"""
from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import traceback
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Deque, Dict, List, Mapping, NamedTuple, Optional, Union

from . import codec, errors

if TYPE_CHECKING:
    from .connection import Connection
    from .link import Link

log = logging.getLogger("yue_client")

DESCRIBED_MAX = 4096
NESTED_MAX = 32

Method = Union[str, int]
"""A name, or the id of a function that the peer holds."""

_peer: "contextvars.ContextVar[Optional[Connection]]" = contextvars.ContextVar("yue_client.peer", default=None)
_deadline: "contextvars.ContextVar[Optional[float]]" = contextvars.ContextVar("yue_client.deadline", default=None)
inherited: "contextvars.ContextVar[Optional[Dict[str, Any]]]" = contextvars.ContextVar(
    "yue_client.inherited", default=None
)
"""The ids of the trace and of the call chain of the running handler, for the calls that it makes."""


def peer() -> "Optional[Connection]":
    """The connection through which the running function was called; elsewhere None."""
    return _peer.get()


def deadline() -> Optional[float]:
    """The seconds that the caller of the running function still waits; None if it did not say, and elsewhere."""
    at = _deadline.get()
    return None if at is None else max(0.0, at - asyncio.get_running_loop().time())


def leave_handler() -> None:
    """Work of a connection itself is done for no handler, even if one made the first call."""
    _peer.set(None)
    _deadline.set(None)
    inherited.set(None)


def entries(namespace: Any) -> Optional[Mapping[Any, Any]]:
    """The entries of a namespace; None of anything else."""
    if isinstance(namespace, Mapping):
        return namespace
    return vars(namespace) if type(namespace) is SimpleNamespace else None


def find(namespace: Any, name: str) -> codec.Function:
    """The function with a dotted name. Raises `NoMethodError`."""
    found = namespace
    for segment in name.split("."):
        if segment.startswith("_"):
            raise errors.NoMethodError(f"the method '{_shown(name)}' is private")
        within = entries(found)
        if within is None or segment not in within:
            raise errors.NoMethodError(f"there is no method '{_shown(name)}'")
        found = within[segment]
    if not codec.is_function(found):
        raise errors.NoMethodError(f"'{_shown(name)}' is not a function")
    return found  # type: ignore[no-any-return]


def _shown(name: str) -> str:
    return name[:80].encode("ascii", "backslashreplace").decode()


def describe(namespace: Any) -> Dict[str, Any]:
    """The functions of a namespace, as `$yue/describe` answers."""
    functions: List[Dict[str, Any]] = []
    more = _collect(namespace, "", 0, functions)
    answer: Dict[str, Any] = {"functions": sorted(functions, key=lambda function: str(function["name"]))}
    if more:
        answer["more"] = True
    return answer


def _collect(namespace: Any, prefix: str, depth: int, found: List[Dict[str, Any]]) -> bool:
    for key, value in list((entries(namespace) or {}).items()):
        if not isinstance(key, str) or key.startswith("_"):
            continue
        if len(found) >= DESCRIBED_MAX or depth >= NESTED_MAX:
            return True
        if codec.is_function(value):
            found.append({"name": prefix + key, **_signature(value)})
        elif entries(value) is not None and _collect(value, f"{prefix}{key}.", depth + 1, found):
            return True
    return False


def _signature(function: codec.Function) -> Dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    shown: Dict[str, Any] = {
        "params": [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    }
    if any(each.kind == each.VAR_POSITIONAL for each in parameters):
        shown["vararg"] = True
    if doc := inspect.getdoc(function):
        shown["doc"] = doc
    return shown


class _Request(NamedTuple):
    """A request that has not started. A notification has no msgid."""

    msgid: Optional[int]
    method: Method
    function: codec.Function
    params: List[Any]
    deadline: Optional[float]
    inherited: Dict[str, Any]
    size: int


class Handlers:
    """The requests of one link that wait or run.

    They start in the order in which they arrived. While much waits to be sent none starts, so that the answers of many
    requests cannot pile up.
    """

    def __init__(self, link: "Link") -> None:
        self.link = link
        self.connection = link.connection
        self.waiting: "Deque[_Request]" = deque()
        self.waiting_bytes = 0
        self.running: "Dict[asyncio.Future[Any], Optional[int]]" = {}
        self._is_due = False

    def add(
        self, msgid: Optional[int], method: Method, params: List[Any], extensions: Dict[str, Any], size: int
    ) -> None:
        """Takes a request of `size` bytes. It starts in a later step of the loop."""
        options = self.connection.options
        try:
            if len(self.running) + len(self.waiting) >= options.in_flight_max:
                text = f"{options.in_flight_max} calls wait or run already, the limit"
                raise errors.ServerBusyError(text, retryable=True)
            # Reading must continue, for the peer may read only when it could write.
            if self.waiting and self.waiting_bytes + size > 2 * options.held_max:
                text = f"{2 * options.held_max} bytes of calls wait already, the limit"
                raise errors.ServerBusyError(text, retryable=True)
            # A function may be released before the request starts.
            function = self._function(method)
        except errors.RPCError as error:
            if msgid is not None:
                self.link.respond_error(msgid, error)
            return
        remaining = extensions.get("t")
        deadline = self.link.loop.time() + remaining / 1000 if type(remaining) is int else None
        self.waiting.append(_Request(msgid, method, function, params, deadline, _inherited(extensions), size))
        self.waiting_bytes += size
        self.start_soon()

    def start_soon(self) -> None:
        """Starts what waits, in the next step of the loop."""
        if self.waiting and not self._is_due:
            self._is_due = True
            self.link.loop.call_soon(self._start_waiting)

    def drop_waiting(self) -> None:
        """The link has ended: nobody waits for what has not started."""
        self.waiting.clear()
        self.waiting_bytes = 0

    def _start_waiting(self) -> None:
        self._is_due = False
        while self.waiting and self.link.has_room:
            request = self.waiting.popleft()
            self.waiting_bytes -= request.size
            if request.deadline is not None and request.deadline <= self.link.loop.time():
                if request.msgid is not None:
                    late = errors.TimeoutError("its time had passed before it could start", retryable=True)
                    self.link.respond_error(request.msgid, late)
                continue
            context = contextvars.copy_context()
            if not context.run(self._start, request):
                # Its first line runs in the next step, and before that no later request may start.
                return self.start_soon()

    def _start(self, request: _Request) -> bool:
        """Runs a function to its end, and returns True; or starts a task."""
        _peer.set(self.connection)
        _deadline.set(request.deadline)
        inherited.set(request.inherited)
        try:
            result = request.function(*request.params)
        except Exception as error:
            self._fail(request.msgid, request.method, _as_argument_error(error))
            return True
        if not inspect.isawaitable(result):
            self._answer(request.msgid, request.method, result)
            return True
        task = asyncio.ensure_future(result)
        self.running[task] = request.msgid
        timer = None
        if request.deadline is not None and self.connection.options.cancel:
            timer = self.link.loop.call_at(request.deadline, task.cancel)
        task.add_done_callback(lambda task: self._done(task, request.msgid, request.method, timer))
        return False

    def _function(self, method: Method) -> codec.Function:
        if isinstance(method, str):
            return find(self.connection.namespace, method)
        function = self.link.exported(method)
        if function is None:
            raise errors.NoMethodError("the function was collected, or belonged to an earlier link")
        return function

    def cancel(self, msgid: Any) -> None:
        """The caller gave up: a request that waits is dropped; one that runs is cancelled if the program allows it."""
        for request in [each for each in self.waiting if each.msgid == msgid and msgid is not None]:
            self.waiting.remove(request)
            self.waiting_bytes -= request.size
            self.link.respond_error(msgid, errors.CancelledError("the caller gave up"))
        for task, id in list(self.running.items()):
            if id == msgid and id is not None and self.connection.options.cancel:
                task.cancel()

    def _done(
        self, task: "asyncio.Future[Any]", msgid: Optional[int], method: Method, timer: Any
    ) -> None:
        del self.running[task]
        if timer:
            timer.cancel()
        if task.cancelled():
            if msgid is not None:
                self.link.respond_error(msgid, errors.CancelledError("the handler was cancelled"))
            return
        error = task.exception()
        if isinstance(error, Exception):
            self._fail(msgid, method, error)
        elif error is None:
            self._answer(msgid, method, task.result())

    def _answer(self, msgid: Optional[int], method: Method, result: Any) -> None:
        if msgid is None or self.link.ended:
            return
        count = len(result) if isinstance(result, tuple) else 1
        if count == 1 and isinstance(result, tuple):
            result = result[0]
        try:
            packed = self.connection.packer.pack(result, "the result")
            body = packed.for_link(self.link.export)
            limit = self.connection.options.message_max
            if len(body) > limit:
                raise errors.MessageTooLargeError(f"the result has more than {limit} bytes")
        except errors.RPCError as error:
            return self._fail(msgid, method, errors.ServerError(str(error)))
        self.link.respond(msgid, body, count)

    def _fail(self, msgid: Optional[int], method: Method, error: Exception) -> None:
        log.error("%s failed, called by %s", _name(method), self.connection.address, exc_info=error)
        if msgid is not None:
            text = None
            if self.connection.options.traceback:
                text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self.link.respond_error(msgid, error, text)


def _name(method: Method) -> str:
    return f"'{_shown(method)}'" if isinstance(method, str) else "a function"


def _as_argument_error(error: Exception) -> Exception:
    """A `TypeError` that the call itself raised, and no line of the function, is the caller's fault."""
    trace = error.__traceback__
    if type(error) is TypeError and trace is not None and trace.tb_next is None:
        return errors.ArgumentError(str(error))
    return error


def _inherited(extensions: Dict[str, Any]) -> Dict[str, Any]:
    """The ids of the trace and the call chain that a request carries. Values of another form are ignored."""
    ids: Dict[str, Any] = {}
    trace, chain = extensions.get("tp"), extensions.get("c")
    if isinstance(trace, bytes) and len(trace) == 25:
        ids["tp"] = trace
    if type(chain) is int and 0 < chain < 1 << 48:
        ids["c"] = chain
    return ids

"""A connection's life: the handshake, losses, calls that are held, reconnection, and serving the server."""
import asyncio
import os
import socket
import subprocess
import tempfile
from types import SimpleNamespace

import yue_client
from server import LONG, Case, free_port
from yue_client import connection

LOGIN = """
local accounts = { frodo = 'mellon' }
local refusals = tonumber(yue.args.refusals or 0)
local listener = yue.listen(yue.args[1], {
  __accept = function(conn)
    local name, password = conn.procs.account()
    return accounts[name] == password and { name = name, at = conn.procs.where.am.i() }
  end,
  attack = function(monster) return monster .. ' is defeated' end,
})
"""

SERVER = """
local listener = yue.listen(yue.args[1], {
  add = function(a, b) return a + b end,
  pid = function() return yue.args[1] end,
  nap = function(seconds) yue.sleep(seconds) return 'rested' end,
  keep = function(f) kept = f end,
  counter = function() local n = 0 return function() n = n + 1 return n end end,
  take = function(f) return f() end,
  ask_back = function(name, ...) return yue.peer().procs[name](...) end,
  try_back = function(name, ...)
    local ok, e = pcall(yue.peer().procs[name], ...)
    if ok then return true, e end
    return false, e.type, e.msg, e.value
  end,
  give_up = function(name, seconds, ...) return (pcall(yue.peer().procs['timed_' .. name], seconds, ...)) end,
  tell_back = function(name, ...) yue.peer().procs['notify_' .. name](...) return true end,
  describe_back = function() return (yue.peer():describe()) end,
  part = function(why) yue.peer():close(why) end,
  nest = function(depth) return depth == 0 and 0 or 1 + yue.peer().procs.nest(depth - 1) end,
  flood = function(count, text)
    local calls, bytes = {}, 0
    for i = 1, count do calls[i] = yue.spawn(yue.peer().procs.timed_echo, 60, text) end
    for _, call in ipairs(calls) do bytes = bytes + #call:get() end
    return bytes
  end,
  echo = function(text) return text end,
  note = function(text) noted = text end,
  noted = function() return noted end,
  ping = function() return yue.peer().procs['$yue/ping']() end,
  together = function(name, count)
    local calls, failures = {}, {}
    for i = 1, count do calls[i] = yue.peer().procs['async_' .. name]() end
    for _, call in ipairs(calls) do
      local ok, e = call:sync()
      if not ok then failures[#failures + 1] = e.type end
    end
    return failures
  end,
})
"""


class Handshake(Case):
    async def test_the_server_calls_before_it_grants(self):
        server = self.serve(LOGIN)
        order = []

        async def account():
            await asyncio.sleep(0.01)
            order.append("asked")
            return "frodo", "mellon"

        async def accept(conn, player):
            self.assertIs(yue_client.peer(), conn)
            await asyncio.sleep(0.01)
            order.append(player)

        symbols = {"account": account, "where": {"am": SimpleNamespace(i=lambda: "shire")}}
        c = self.open(server.address, symbols=symbols, accept=accept)
        self.assertFalse(connection(c).connected)
        self.assertEqual(await c.attack("the goblin"), "the goblin is defeated")
        self.assertEqual(order, ["asked", {"name": "frodo", "at": "shire"}])
        self.assertTrue(connection(c).connected)

    async def test_a_refusal_ends_the_calls_that_wait(self):
        server = self.serve(LOGIN)
        symbols = {"account": lambda: ("frodo", "wrong"), "where": {"am": {"i": lambda: ""}}}
        c = self.open(server.address, symbols=symbols)
        with self.assertRaises(yue_client.NotGrantedError) as caught:
            await c.attack("x")
        self.assertTrue(caught.exception.retryable)

    async def test_a_held_call_survives_refusals_that_are_retried(self):
        server = self.serve(LOGIN)
        passwords = ["wrong", "wrong", "mellon"]
        reasons = []

        def close(conn, reason):
            reasons.append(reason)
            return True

        symbols = {"account": lambda: ("frodo", passwords.pop(0)), "where": {"am": {"i": lambda: ""}}}
        c = self.open(server.address, symbols=symbols, close=close)
        self.assertEqual(await c.attack("the troll"), "the troll is defeated")
        self.assertEqual(len(reasons), 2)
        self.assertIn("did not grant", reasons[0])

    async def test_the_result_of_close_decides(self):
        server = self.serve(SERVER)
        cases = ((None, True, True), (None, False, False), (True, False, True), (0, True, False))
        for verdict, reconnect, expected in cases:
            ended = asyncio.Event()

            def close(conn, reason):
                ended.set()
                return verdict

            c = self.open(server.address, close=close, reconnect=reconnect)
            await c.add(1, 1)
            c.notify_part("now")
            await ended.wait()
            await self.until("a decision", lambda: connection(c)._state in ("up", "idle"))
            self.assertEqual(connection(c).connected, expected)

    def test_pauses_grow_and_are_random(self):
        from yue_client.connection import _backoff

        for attempts, longest in ((1, 0.05), (2, 0.1), (50, 5)):
            pauses = {_backoff(attempts) for _ in range(100)}
            self.assertTrue(all(longest / 2 <= pause <= longest for pause in pauses))
            self.assertGreater(len(pauses), 50)

    async def test_accept_can_refuse_and_fail(self):
        server = self.serve(SERVER)
        with self.assertLogs("yue_client") as logs:
            for verdict, text in ((lambda *_: False, "returned False"), (lambda *_: 1 / 0, "ZeroDivisionError")):
                c = self.open(server.address, accept=verdict)
                with self.assertRaisesRegex(yue_client.NotGrantedError, text):
                    await c.add(1, 1)
        self.assertEqual(len(logs.records), 1)

    async def test_a_function_is_called_before_the_grant(self):
        server = self.serve(
            """
            local listener = yue.listen(yue.args[1], {
              __accept = function(conn) return conn.procs.prove(function(n) return n * 2 end) end,
              done = function() return 'done' end,
            })
            """
        )
        granted = []

        async def prove(double):
            return await double(21)

        c = self.open(server.address, symbols={"prove": prove}, accept=lambda _, value: granted.append(value))
        self.assertEqual(await c.done(), "done")
        self.assertEqual(granted, [42])

    async def test_a_slow_grant_times_out(self):
        server = self.serve("local listener = yue.listen(yue.args[1], { __accept = function() yue.sleep(60) end })")
        c = self.open(server.address, handshake_timeout=0.5, close=lambda *_: False)
        with self.assertRaisesRegex(yue_client.ConnectionLostError, "handshake took too long"):
            await c.anything()

    async def test_the_time_of_the_handshake_ends_with_the_grant(self):
        reasons = []
        server = self.serve(SERVER)
        c = self.open(server.address, handshake_timeout=1, close=lambda _, reason: reasons.append(reason))
        await c.add(1, 1)
        await asyncio.sleep(1.1)
        self.assertEqual(reasons, [])

    async def test_a_held_call_has_its_deadline(self):
        server = self.serve("local listener = yue.listen(yue.args[1], { __accept = function() yue.sleep(60) end })")
        c = self.open(server.address)
        with self.assertRaises(yue_client.TimeoutError) as caught:
            await c.timed_anything(0.05)
        self.assertTrue(caught.exception.retryable)
        self.assertEqual(len(connection(c)._held), 0)

    async def test_held_calls_are_bounded(self):
        server = self.serve("local listener = yue.listen(yue.args[1], { __accept = function() yue.sleep(60) end })")
        c = self.open(server.address, held_max=2000)
        first = c.async_put("x" * 5000)
        await asyncio.sleep(0)
        with self.assertRaises(yue_client.QueueFullError):
            await c.put("y")
        self.assertFalse(c.notify_put("y"))
        first.cancel()


class Losses(Case):
    async def test_nobody_listens(self):
        c = self.open(f"tcp://127.0.0.1:{free_port()}")
        with self.assertRaises(ConnectionRefusedError) as caught:
            await c.add(1, 1)
        self.assertIsInstance(caught.exception, yue_client.ConnectionRefusedError)
        self.assertTrue(caught.exception.retryable)
        c = self.open("unix:///nonexistent/socket")
        with self.assertRaises(yue_client.ConnectionRefusedError):
            await c.add(1, 1)

    async def test_a_server_that_accepts_nothing_times_out(self):
        listening = socket.socket()
        self.addCleanup(listening.close)
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        # The queue of one is full, so the system answers no further attempt.
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            self.addCleanup(each.close)
            each.setblocking(False)
            each.connect_ex(listening.getsockname())
        c = self.open("tcp://127.0.0.1:%d" % listening.getsockname()[1], handshake_timeout=0.1)
        with self.assertRaisesRegex(yue_client.ConnectionTimeoutError, "took too long"):
            await c.add(1, 1)

    async def test_retry_waits_for_the_first_server(self):
        address = f"tcp://127.0.0.1:{free_port()}"
        c = self.open(address, retry=True)
        call = c.async_add(1, 2)
        await asyncio.sleep(0.1)
        self.serve(SERVER, address)
        self.assertEqual(await call, 3)

    async def test_calls_survive_a_server_that_starts_again(self):
        server = self.serve(SERVER)
        reasons = []

        def close(_, reason):
            reasons.append(reason)
            return True

        c = self.open(server.address, close=close)
        self.assertEqual(await c.add(1, 1), 2)
        lost = c.async_nap(1000)
        await c.add(1, 1)
        server.stop()
        with self.assertRaises(yue_client.ConnectionLostError) as caught:
            await lost
        self.assertFalse(caught.exception.retryable)
        held = [c.async_add(n, 1) for n in range(10)]
        short = c.timed_async_add(0.05, 1, 1)
        with self.assertRaises(yue_client.TimeoutError) as caught:
            await short
        self.assertTrue(caught.exception.retryable)
        self.serve(SERVER, server.address)
        self.assertEqual(await asyncio.gather(*held), list(range(1, 11)))
        self.assertEqual(len(reasons), 1)

    async def test_functions_die_with_their_link(self):
        server = self.serve(SERVER)
        c = self.open(server.address)
        count = await c.counter()
        await c.keep(lambda: 1)
        self.assertEqual(connection(c).functions_held, 1)
        link = connection(c)._link
        server.stop()
        await self.until("the loss", lambda: not connection(c).connected)
        self.assertEqual((connection(c).functions_held, link.functions_held), (0, 0))
        held = c.async_add(1, 1)
        passed = c.async_take(count)
        with self.assertRaisesRegex(yue_client.ConnectionLostError, "get it from the peer again") as caught:
            await count()
        self.assertTrue(caught.exception.retryable)
        self.assertFalse(count.notify())
        # A held call may pass a function of this side: it gets its id from the link that it leaves on.
        mine = c.async_take(lambda: 1)
        self.serve(SERVER, server.address)
        self.assertEqual(await held, 2)
        self.assertEqual(await mine, 1)
        with self.assertRaises(yue_client.ConnectionLostError):
            await passed

    async def test_without_reconnect_the_next_call_connects(self):
        server = self.serve(SERVER)
        c = self.open(server.address, reconnect=False)
        await c.add(1, 1)
        server.stop()
        await self.until("the loss", lambda: not connection(c).connected)
        with self.assertRaises(yue_client.ConnectionRefusedError):
            await c.add(1, 1)
        self.serve(SERVER, server.address)
        self.assertEqual(await c.add(1, 1), 2)

    async def test_a_call_while_close_runs_connects_again(self):
        server = self.serve(SERVER)
        ending, end = asyncio.Event(), asyncio.Event()

        async def close(conn, reason):
            ending.set()
            await end.wait()
            return False

        c = self.open(server.address, close=close)
        c.notify_part("now")
        await ending.wait()
        call = c.async_add(1, 2)
        await asyncio.sleep(0)
        end.set()
        self.assertEqual(await call, 3)

    async def test_a_connection_that_is_closed_stays_so(self):
        server = self.serve(SERVER)
        c = self.open(server.address)
        nap = c.async_nap(1000)
        await c.add(1, 1)
        conn = connection(c)
        conn.close()
        with self.assertRaises(yue_client.ConnectionLostError):
            await nap
        with self.assertRaises(yue_client.ConnectionLostError):
            await c.add(1, 1)
        self.assertFalse(c.notify_add(1, 1))
        await conn.wait_closed()
        conn.close()
        async with connection(self.open(server.address)) as conn:
            self.assertEqual(await conn.procs.add(1, 1), 2)
        self.assertIn("closed", repr(conn))

    async def test_the_server_tells_why_it_closes(self):
        server = self.serve(SERVER)
        reasons = asyncio.Queue()
        c = self.open(server.address, close=lambda _, reason: reasons.put_nowait(reason))
        self.assertEqual(await c.add(1, 1), 2)
        c.notify_part("the shop is closed")
        self.assertIn("the shop is closed", await reasons.get())

    async def test_a_silent_peer_is_lost(self):
        hello = b"\x94\x01\x00\xc0\x92\x01\x80" + b"\x93\x02\xac$yue/granted\x91\xc0"
        server = await self.hostile(hello)
        reasons = asyncio.Queue()
        c = self.open(server.address, keepalive=0.2, close=lambda _, reason: reasons.put_nowait(reason))
        c.notify_x()
        self.assertIn("silent", await asyncio.wait_for(reasons.get(), LONG))

    async def test_an_answering_peer_stays(self):
        server = self.serve(SERVER)
        reasons = []
        c = self.open(server.address, keepalive=3, close=lambda _, reason: reasons.append(reason))
        await c.add(1, 1)
        link = connection(c)._link
        before = link.heard_at
        await self.until("the answer to a ping", lambda: link.heard_at > before)
        self.assertGreater(link.heard_at - before, 0.5)
        self.assertEqual(await c.add(1, 1), 2)
        self.assertEqual(reasons, [])


class Serving(Case):
    def setUp(self):
        super().setUp()
        self.server = self.serve(SERVER)

    async def test_the_server_calls_in_the_middle_of_a_call(self):
        async def choose(question, answers):
            first = await yue_client.peer().procs.add(1, 1)
            return f"{question} {answers[first - 1]}"

        c = self.open(self.server.address, symbols={"choose": choose})
        self.assertIsNone(yue_client.peer())
        self.assertEqual(await c.ask_back("choose", "class?", ["warrior", "mage"]), "class? mage")
        self.assertIsNone(yue_client.peer())
        self.assertEqual(await c.ping(), None)

    async def test_results_are_counted(self):
        symbols = {"none": lambda: None, "several": lambda: (1, None, 3), "nothing": lambda: (), "one": lambda: (7,)}
        c = self.open(self.server.address, symbols=symbols)
        self.assertIsNone(await c.ask_back("none"))
        self.assertEqual(await c.ask_back("several"), (1, None, 3))
        self.assertIsNone(await c.ask_back("nothing"))
        self.assertEqual(await c.ask_back("one"), 7)

    async def test_only_symbols_can_be_called(self):
        class Thing:
            def method(self):
                return "reached"

        symbols = {
            "_private": lambda: "reached",
            "inner": {"_private": lambda: "reached", "f": lambda: "inner"},
            "_hidden": {"f": lambda: "reached"},
            "thing": Thing(),
            "kind": Thing,
            "module": os,
            "text": "x",
            "method": Thing().method,
        }
        c = self.open(self.server.address, symbols=symbols)
        for name in (
            "_private", "inner._private", "_hidden.f", "thing.method", "kind", "kind.method", "module.getpid",
            "text", "text.upper", "inner", "inner.f.__call__", "__class__", "f.__globals__", "", ".", "inner.",
            "inner..f", "keys", "inner.keys", "$yue/load", "nothing",
        ):  # fmt: skip
            ok, kind, *_ = await c.try_back(name)
            self.assertEqual((ok, kind), (False, "NoMethodError"), name)
        self.assertEqual(await c.ask_back("inner.f"), "inner")
        self.assertEqual(await c.ask_back("method"), "reached")

    async def test_the_namespace_may_change(self):
        c = self.open(self.server.address, symbols={})
        connection(c).namespace["late"] = lambda: "here"
        self.assertEqual(await c.ask_back("late"), "here")

    async def test_failures_are_logged_and_travel(self):
        async def fails_later():
            raise ValueError("later")

        def fails():
            raise KeyError("x")

        def fails_by_type():
            raise TypeError("inside")

        def raises_mine():
            raise yue_client.ServerBusyError("come again", value={"in": 5})

        symbols = {
            "fails": fails, "later": fails_later, "inside": fails_by_type, "mine": raises_mine,
            "takes_one": lambda a: a, "bad_result": lambda: object(), "waits_none": lambda: asyncio.sleep(0),
            "later_one": fails_later,
        }  # fmt: skip
        c = self.open(self.server.address, symbols=symbols)
        with self.assertLogs("yue_client") as logs:
            self.assertEqual((await c.try_back("fails"))[:3], (False, "RuntimeError", "KeyError: 'x'"))
            self.assertEqual((await c.try_back("later"))[:3], (False, "RuntimeError", "ValueError: later"))
            self.assertEqual((await c.try_back("inside"))[1], "RuntimeError")
            self.assertEqual(await c.try_back("mine"), (False, "ServerBusyError", "come again", {"in": 5}))
            self.assertEqual((await c.try_back("takes_one"))[1], "ArgumentError")
            self.assertEqual((await c.try_back("later_one", 1))[1], "ArgumentError")
            self.assertEqual((await c.try_back("bad_result"))[1], "ServerError")
        self.assertEqual(len(logs.records), 7)
        self.assertIn("'fails' failed, called by tcp://", logs.output[0])
        self.assertEqual((await c.try_back("waits_none"))[0], True)

    async def test_the_server_describes_this_side(self):
        def move(x, y, *rest):
            """Moves the player."""

        c = self.open(self.server.address, symbols={"player": {"move": move}, "_own": move, "x": 1})
        described = {"name": "player.move", "params": ["x", "y"], "vararg": True, "doc": "Moves the player."}
        self.assertEqual(await c.describe_back(), [described])
        c = self.open(self.server.address, symbols={"f": move}, describe=False)
        self.assertFalse((await c.try_back("$yue/describe"))[0])

    async def test_requests_start_in_the_order_in_which_they_arrive(self):
        order = []

        async def slow(n):
            order.append(n)
            await asyncio.sleep(0)

        symbols = {"slow": slow, "quick": lambda n: order.append(n)}
        c = self.open(self.server.address, symbols=symbols)
        for n in range(20):
            c.notify_tell_back("slow" if n % 3 else "quick", n)
        await c.add(1, 1)
        await self.until("all notifications", lambda: len(order) == 20)
        self.assertEqual(order, list(range(20)))

    async def test_calls_nest_fifty_deep(self):
        async def nest(depth):
            return depth and 1 + await yue_client.peer().procs.nest(depth - 1)

        c = self.open(self.server.address, symbols={"nest": nest})
        self.assertEqual(await c.nest(50), 50)

    async def test_two_peers_that_flood_each_other_make_progress(self):
        async def echo_later(text):
            await asyncio.sleep(0)
            return text

        text = "x" * 200_000
        for echo in (lambda text: text, echo_later):
            c = self.open(self.server.address, symbols={"echo": echo})
            await c.add(1, 1)
            flood = c.async_flood(60, text)
            answers = await asyncio.gather(*(c.echo(text) for _ in range(100)))
            self.assertEqual({len(answer) for answer in answers}, {200_000})
            self.assertEqual(await flood, 60 * 200_000)

    async def test_messages_before_a_close_arrive(self):
        c = self.open(self.server.address)
        await c.add(1, 1)
        self.assertTrue(c.notify_note("x" * 500_000))
        connection(c).close("done")
        other = self.open(self.server.address)

        async def noted():
            return await other.noted() == "x" * 500_000

        await self.until("the notification", noted)

    async def test_a_handler_runs_to_its_end_unless_cancel_is_set(self):
        for cancel in (False, True):
            ended = []
            started = asyncio.Event()

            async def work():
                started.set()
                try:
                    self.assertTrue(yue_client.deadline() <= 0.1)
                    await asyncio.sleep(0.3)
                    ended.append("done")
                except asyncio.CancelledError:
                    ended.append("cancelled")
                    raise

            c = self.open(self.server.address, symbols={"work": work}, cancel=cancel)
            # On a busy machine the time may pass before the handler starts.
            while not started.is_set():
                self.assertFalse(await c.give_up("work", 0.1))
            await self.until("the handler's end", lambda: ended)
            self.assertEqual(ended, ["cancelled" if cancel else "done"])
        self.assertIsNone(yue_client.deadline())

    async def test_handlers_at_the_limit_are_refused(self):
        running = []

        async def work():
            running.append(1)
            await self.until("three handlers", lambda: len(running) == 3)

        c = self.open(self.server.address, symbols={"work": work}, in_flight_max=3)
        self.assertEqual(await c.together("work", 5), ["ServerBusyError"] * 2)
        self.assertEqual(len(running), 3)


class Transports(Case):
    def certificate(self, folder):
        paths = {name: os.path.join(folder, name) for name in ("cert.pem", "key.pem")}
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split()
        command += ["-subj", "/CN=the tests", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", paths["key.pem"], "-out", paths["cert.pem"]]
        subprocess.run(command, check=True, capture_output=True)
        return paths["cert.pem"], paths["key.pem"]

    async def test_tls_verifies_the_server(self):
        with tempfile.TemporaryDirectory() as folder:
            cert, key = self.certificate(folder)
            code = f"""
            local listener = yue.listen(yue.args[1], {{ cert = '{cert}', key = '{key}' }}, {{
              add = function(a, b) return a + b end,
            }})
            """
            server = self.serve(code, "tls://127.0.0.1:0")
            c = self.open(server.address, ca=cert)
            self.assertEqual(await c.add(1, 2), 3)
            c = self.open(server.address)
            with self.assertRaises(yue_client.TLSError):
                await c.add(1, 2)
            c = self.open(server.address, ca=cert, server_name="other.example")
            with self.assertRaises(yue_client.TLSError):
                await c.add(1, 2)
            c = self.open(server.address, insecure=True)
            self.assertEqual(await c.add(1, 2), 3)
            c = self.open(server.address, ca="/nonexistent")
            with self.assertRaisesRegex(yue_client.TLSError, "certificates"):
                await c.add(1, 2)

    async def test_unix(self):
        with tempfile.TemporaryDirectory() as folder:
            server = self.serve(SERVER, f"unix://{folder}/socket")
            self.assertEqual(await self.open(server.address).add(1, 2), 3)

    async def test_websocket(self):
        try:
            import websockets.asyncio.client  # noqa: F401
        except ImportError:
            self.skipTest("websockets is not installed")
        server = self.serve(SERVER, "ws://127.0.0.1:0/rpc")
        c = self.open(server.address, symbols={"ask": lambda: "answered"})
        self.assertEqual(await c.add(1, 2), 3)
        self.assertEqual(await c.ask_back("ask"), "answered")
        self.assertEqual(await asyncio.gather(*(c.add(n, n) for n in range(100))), [2 * n for n in range(100)])
        server.stop()
        await self.until("the loss", lambda: not connection(c).connected)
        self.serve(SERVER, server.address)
        self.assertEqual(await c.add(1, 2), 3)
        c = self.open(f"ws://127.0.0.1:{free_port()}/rpc")
        with self.assertRaises(yue_client.ConnectionRefusedError):
            await c.add(1, 2)

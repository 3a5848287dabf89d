"""Calls: results, errors, prefixes, deadlines, cancellation, values and functions."""
import asyncio
import gc
import unittest

import msgpack
import yue_client
from server import Case
from yue_client import codec

SERVER = """
local cancelled = 0
local listener = yue.listen(yue.args[1], { cancel = yue.args[1]:sub(1, 4) == 'unix' }, {
  add = function(a, b) return a + b end,
  echo = function(...) return ... end,
  world = { join = function(name) return 'welcome ' .. name end, deep = { er = function() return 'deeper' end } },
  none = function() end,
  two = function() return 1, nil end,
  timed_thing = function(a) return 'thing ' .. a end,
  fail = function(what) error(what, 0) end,
  fail_table = function() error({ reason = 'tired' }) end,
  nap = function(seconds)
    local ok, e = pcall(yue.sleep, seconds)
    if not ok then cancelled = cancelled + 1 error(e) end
    return 'rested'
  end,
  cancelled = function() return cancelled end,
  deadline = function() return yue.deadline() end,
  note = function(text) noted = text end,
  noted = function() return noted end,
  _secret = function() return 'secret' end,
  apply = function(f, ...) return f(...) end,
  keep = function(f) kept = f end,
  call_kept = function(...) return kept(...) end,
  drop = function() kept = nil collectgarbage() collectgarbage() end,
  counter = function() local n = 0 return function() n = n + 1 return n end end,
  held = function() return yue.peer():stats().functions_held end,
  give = function() mine = mine or function() return 'mine' end return mine end,
  is_mine = function(f) return f == mine end,
  fill = function(n) return ('x'):rep(n) end,
  chain = function() return yue.trace.chain(), yue.trace.current() end,
  ask_back = function(name, ...) return yue.peer().procs[name](...) end,
})
"""


class Calls(Case):
    def setUp(self):
        super().setUp()
        self.server = self.serve(SERVER)

    async def test_a_call_returns_what_the_function_returns(self):
        c = self.open(self.server.address)
        self.assertEqual(await c.add(1, 2), 3)
        self.assertEqual(await c.world.join("frodo"), "welcome frodo")
        self.assertEqual(await c.world.deep.er(), "deeper")
        self.assertIsNone(await c.none())
        self.assertEqual(await c.two(), (1, None))
        self.assertEqual(await c.echo(1, None, 2), (1, None, 2))

    async def test_values_arrive_as_they_were_sent(self):
        c = self.open(self.server.address)
        values = [
            None, True, 0, -1, 2**53, -(2**53), 1.5, float("inf"), "", "tëxt", b"\xff\x00", [], [1, [2]],
            {"a": {"b": 1}}, msgpack.ExtType(5, b"foreign"), "x" * 100_000,
        ]  # fmt: skip
        for value in values:
            self.assertEqual(await c.echo(value), value)
        self.assertEqual(await c.echo((1, 2)), [1, 2])
        self.assertEqual(await c.echo({1: "one"}), ["one"])  # To Lua it is the same table.
        self.assertEqual(await c.echo(2**63), 2**63)

    async def test_calls_travel_together(self):
        c = self.open(self.server.address)
        results = await asyncio.gather(*(c.add(n, n) for n in range(1000)))
        self.assertEqual(results, [2 * n for n in range(1000)])

    async def test_prefixes_and_literal_names(self):
        c = self.open(self.server.address)
        await c.add(1, 1)
        with self.assertRaises(yue_client.TimeoutError) as caught:
            await c.timed_nap(0.02, 30)
        self.assertFalse(caught.exception.retryable)
        self.assertEqual(await c["=timed_thing"](1), "thing 1")
        self.assertEqual(await c["world"]["join"]("x"), "welcome x")
        task = c.async_add(1, 1)
        self.assertEqual(await task, 2)
        self.assertEqual(await c.timed_async_add(5, 1, 1), 2)
        self.assertIs(c.notify_note("noted"), True)
        self.assertEqual(await c.noted(), "noted")
        for wrong in ((), ("soon",), (True,)):
            with self.assertRaises(TypeError):
                c.timed_add(*wrong)
        with self.assertRaises(TypeError):
            c()
        with self.assertRaises(TypeError):
            c[1]

    async def test_errors_are_of_the_tree(self):
        c = self.open(self.server.address)
        with self.assertRaises(yue_client.RuntimeError) as caught:
            await c.fail("no eggs")
        self.assertEqual((str(caught.exception), caught.exception.type), ("no eggs", "RuntimeError"))
        self.assertEqual([caught.exception.is_a(name) for name in ("RPCError", "ClientError")], [True, False])
        with self.assertRaises(yue_client.RuntimeError) as caught:
            await c.fail_table()
        self.assertEqual(caught.exception.value, {"reason": "tired"})
        for name in ("nothing", "_secret", "world"):
            with self.assertRaises(yue_client.NoMethodError):
                await c[name]()

    async def test_values_that_cannot_be_sent_are_named(self):
        c = self.open(self.server.address)
        cycle = []
        cycle.append(cycle)
        for value, text in [
            ({"items": [1, object()]}, r"args\[0\]\['items'\]\[1\] cannot be sent: it is a object"),
            (cycle, "contains itself"),
            (2**64, "more than 64 bits"),
            (c.add, "it is a remote procedure"),
            (int, "it is a type"),
        ]:
            with self.assertRaisesRegex(yue_client.ArgumentError, text):
                await c.echo(value)
        deep = []
        for _ in range(20_000):
            deep = [deep]
        with self.assertRaisesRegex(yue_client.ArgumentError, "nested too deeply"):
            await c.echo(deep)
        with self.assertRaises(yue_client.MessageTooLargeError):
            await c.echo("x" * (5 << 20))
        self.assertEqual(await c.add(1, 1), 2)

    async def test_a_nesting_that_the_server_refuses_is_an_error_of_that_call(self):
        c = self.open(self.server.address)
        deep = []
        for _ in range(200):
            deep = [deep]
        with self.assertRaises(yue_client.RPCError):
            await c.echo(deep)
        self.assertEqual(await c.add(1, 1), 2)

    async def test_the_time_that_remains_travels(self):
        c = self.open(self.server.address)
        remaining = await c.timed_deadline(20)
        self.assertTrue(0 < remaining <= 20, remaining)

    async def test_a_call_may_wait_without_limit(self):
        c = self.open(self.server.address, timeout=float("inf"))
        self.assertEqual(await c.add(1, 2), 3)
        self.assertIsNone(await c.deadline())
        self.assertIsNone(await c.timed_deadline(float("inf")))

    async def test_one_large_answer_arrives(self):
        c = self.open(self.server.address)
        self.assertEqual(len(await c.fill(3 << 20)), 3 << 20)

    async def test_legacy_sends_plain_messages(self):
        c = self.open(self.server.address, legacy=True)
        self.assertEqual(await c.add(1, 2), 3)
        self.assertEqual(await c.two(), [1, None])
        with self.assertRaisesRegex(yue_client.ArgumentError, "not a yue peer"):
            await c.apply(lambda: 1)

    async def test_calls_at_the_limit_are_refused(self):
        c = self.open(self.server.address, in_flight_max=2)
        await c.add(1, 1)
        naps = [c.async_nap(0.05) for _ in range(2)]
        await asyncio.sleep(0)
        with self.assertRaises(yue_client.MessageRefusedError):
            await c.add(1, 1)
        self.assertEqual(await asyncio.gather(*naps), ["rested", "rested"])

    async def test_describe_lists_functions(self):
        c = self.open(self.server.address)
        functions = {each["name"]: each for each in await yue_client.connection(c).describe()}
        self.assertEqual(functions["add"]["params"], ["a", "b"])
        self.assertNotIn("_secret", functions)

    async def test_functions_are_called_where_they_were_made(self):
        c = self.open(self.server.address)

        async def later(n):
            await asyncio.sleep(0)
            return n * 3

        self.assertEqual(await c.apply(lambda n: n * 2, 21), 42)
        self.assertEqual(await c.apply(later, 2), 6)
        count = await c.counter()
        self.assertEqual([await count(), await count.timed(5)], [1, 2])
        self.assertTrue(count.notify())
        self.assertEqual(await count(), 4)

    async def test_functions_come_back_as_themselves(self):
        c = self.open(self.server.address)

        def mine():
            return 1

        self.assertIs(await c.echo(mine), mine)
        theirs = await c.give()
        self.assertTrue(await c.is_mine(theirs))
        self.assertIs(await c.give(), theirs)

    async def test_functions_inside_values_cross(self):
        c = self.open(self.server.address)
        value = await c.echo([{"f": len}])
        self.assertIs(value[0]["f"], len)

    async def test_collected_functions_are_released_on_both_sides(self):
        c = self.open(self.server.address)
        connection = yue_client.connection(c)
        counters = [await c.counter() for _ in range(100)]
        self.assertEqual(await c.held(), 100)
        del counters
        gc.collect()

        async def released():
            return await c.held() == 0

        await self.until("the release of the server's functions", released)

        await c.keep(lambda: "kept")
        self.assertEqual(await c.call_kept(), "kept")
        self.assertEqual(connection.functions_held, 1)
        await c.drop()
        await self.until("the release of the client's function", lambda: connection.functions_held == 0)

    async def test_a_function_of_another_connection_is_refused(self):
        c, other = self.open(self.server.address), self.open(self.server.address)
        count = await c.counter()
        with self.assertRaisesRegex(yue_client.RPCError, "another connection|is lost"):
            await other.apply(count)
        self.assertEqual(await count(), 1)

    async def test_too_many_functions_are_refused(self):
        c = self.open(self.server.address, references_max=1)
        await c.keep(print)
        with self.assertRaises(yue_client.MessageRefusedError):
            await c.keep(len)

    async def test_calls_of_a_handler_are_of_one_chain(self):
        async def nested():
            procedures = yue_client.peer().procs
            return [(await procedures.chain())[0], (await procedures.chain())[0]]

        c = self.open(self.server.address, symbols={"nested": nested})
        first, second = await c.ask_back("nested")
        self.assertEqual(first, second)
        self.assertTrue(first)

    async def test_many_functions_are_released_in_small_messages(self):
        c = self.open(self.server.address)
        for _ in range(10):
            await asyncio.gather(*(c.counter() for _ in range(50)))
        gc.collect()

        async def released():
            return await c.held() == 0

        await self.until("the release of 500 functions", released)


class Cancelling(Case):
    async def test_a_cancelled_task_cancels_its_call(self):
        folder = self.enterContext_folder()
        server = self.serve(SERVER, f"unix://{folder}/socket")
        c = self.open(server.address)
        # Longer than this test: it is the cancellation that ends the handler, and no deadline.
        task = asyncio.ensure_future(c.timed_nap(1000, 1000))
        await c.add(1, 1)
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task

        async def cancelled():
            return await c.cancelled() == 1

        await self.until("a cancelled handler", cancelled)
        # On a busy machine the time may pass before a handler starts.
        for give_up in (lambda: asyncio.wait_for(c.timed_nap(1000, 1000), 0.05), lambda: c.timed_nap(0.05, 1000)):
            before = await c.cancelled()

            async def cancelled_again():
                with self.assertRaises((asyncio.TimeoutError, yue_client.TimeoutError)):
                    await give_up()
                return await c.cancelled() > before

            await self.until("another cancelled handler", cancelled_again)

    async def test_a_traceback_travels_over_unix(self):
        server = self.serve(SERVER, f"unix://{self.enterContext_folder()}/socket")
        c = self.open(server.address)
        with self.assertRaises(yue_client.RuntimeError) as caught:
            await c.fail("here")
        self.assertIn("traceback", caught.exception.traceback)

    def enterContext_folder(self):
        import tempfile

        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return folder.name


class Codec(unittest.TestCase):
    def test_references_survive_the_wire(self):
        for owner in (codec.SENDER_OWNS, codec.RECEIVER_OWNS):
            for id in (0, 1, (1 << 56) - 1):
                self.assertEqual(codec.parse_reference(codec.reference(owner, id).data), (owner, id))
        for body in (b"", b"\1", b"\1" * 7, b"\1" * 9, b"\0" * 8, b"\3" * 8):
            self.assertEqual(codec.parse_reference(body), (0, 0))

    def test_arguments_are_encoded_when_the_call_is_made(self):
        value = [1, print]
        packed = codec.Packer().pack(value, "args")
        value.append(2)
        body = packed.for_link(lambda function: codec.reference(1, 7))
        self.assertEqual(codec.unpack(body, msgpack.ExtType), [1, msgpack.ExtType(0x59, b"\1" + bytes(6) + b"\7")])

    def test_an_ext_value_of_the_programs_own_is_not_mistaken(self):
        packed = codec.Packer().pack([msgpack.ExtType(0x59, b"\1" + b"\xff" * 7), print], "args")
        body = packed.for_link(lambda function: "a function")
        self.assertEqual(codec.unpack(body, msgpack.ExtType)[1], "a function")


class Addresses(unittest.TestCase):
    def test_a_bad_address_raises(self):
        bad = ("", "localhost:1", "tcp://host", "tcp://host:0", "tcp://host:65536", "udp://h:1", "unix://x", "ws://")
        for address in bad:
            with self.assertRaises(yue_client.AddressError):
                yue_client.open(address)

    def test_good_addresses_are_taken(self):
        for address in ("tcp://[::1]:80", "tls://example.org:443", "unix:///tmp/x", "ws://h:1/rpc", "wss://h"):
            self.assertEqual(yue_client.connection(yue_client.open(address)).address, address)

    def test_bad_options_raise(self):
        for options in ({"symbols": object()}, {"accept": 1}, {"close": 1}, {"timeout": 0}, {"message_max": "x"}):
            with self.assertRaises(yue_client.ArgumentError):
                yue_client.open("tcp://h:1", **options)
        with self.assertRaises(TypeError):
            yue_client.open("tcp://h:1", timeuot=1)


class Errors(unittest.TestCase):
    def test_the_tree_is_that_of_yue(self):
        self.assertTrue(issubclass(yue_client.ConnectionLostError, yue_client.TransportError))
        self.assertTrue(issubclass(yue_client.MessageTooLargeError, yue_client.MessageRefusedError))
        self.assertTrue(issubclass(yue_client.TimeoutError, TimeoutError))
        self.assertTrue(issubclass(yue_client.ConnectionRefusedError, ConnectionRefusedError))

    def test_every_error_survives_the_wire(self):
        for kind in yue_client.errors._KINDS:
            back = yue_client.errors.from_wire(yue_client.errors.to_wire(kind("text", value=[1], retryable=True)))
            self.assertEqual((type(back), str(back), back.value, back.retryable), (kind, "text", [1], True))

    def test_a_subclass_travels_as_its_parent(self):
        class Mine(yue_client.ArgumentError):
            pass

        self.assertEqual(yue_client.errors.to_wire(Mine("x"))[2]["type"], "ArgumentError")

    def test_foreign_errors_are_carried(self):
        for error, message, value in [
            ("text", "text", None),
            ([7, "text"], "text", None),
            ({"message": "m"}, "m", {"message": "m"}),
            ([1, 2, 3], "the peer answered with an error of an unknown form", [1, 2, 3]),
            (True, "the peer answered with an error of an unknown form", True),
        ]:
            found = yue_client.errors.from_wire(error)
            self.assertEqual((type(found), str(found), found.value), (yue_client.RPCError, message, value))


if __name__ == "__main__":
    unittest.main()

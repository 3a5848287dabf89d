"""Servers that send what no server should, and what foreign ones do."""
import asyncio
import gc

import msgpack
import yue_client
from server import Case, Hostile
from yue_client import codec, connection

HELLO = msgpack.packb([1, 0, None, [1, {}]])
GRANT = HELLO + msgpack.packb([2, "$yue/granted", [None]])
LEGACY = msgpack.packb([1, 0, "there is no method '$yue/hello'", None])


def answer(*message):
    return GRANT, msgpack.packb(list(message))


class Hello(Case):
    async def test_each_link_has_another_number(self):
        server = await self.hostile(GRANT, b"\xc1")
        for _ in range(2):
            with self.assertRaises(yue_client.ConnectionLostError):
                await self.open(server.address, reconnect=False).anything()
        hellos = [msgpack.unpackb(data) for data in server.received if b"$yue/hello" in data]
        numbers = {hello[3][1]["id"] for hello in hellos}
        self.assertEqual(len(numbers), server.links)
        self.assertTrue(all(0 < number < 2**64 for number in numbers), numbers)


class Garbage(Case):
    async def fails(self, *replies, text="does not speak msgpack-rpc", **options):
        server = await self.hostile(*replies)
        c = self.open(server.address, **options)
        with self.assertRaisesRegex(yue_client.ConnectionLostError, text):
            await c.anything()
        return server

    async def test_nonsense_fails_the_calls_after_three_links(self):
        server = await self.fails(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.assertEqual(server.links, 3)
        server = await self.fails(b"\xc1\xc1")
        self.assertEqual(server.links, 3)

    async def test_messages_of_the_wrong_form_end_the_link(self):
        for message in (
            1, None, [], {}, [9, 1, 2, 3], [0, 1], [0, -1, "f", []], [0, 2**32, "f", []], [0, True, "f", []],
            [0, 1, None, []], [0, 1, "f", 7], [0, 1, 1.5, []], [1, 0, None], [1, "0", None, None], [2, "f"],
            [2, "f", {}], [1, 0, None, None, 1, 1],
        ):  # fmt: skip
            await self.fails(GRANT, msgpack.packb(message))

    async def test_deep_nesting_ends_the_link(self):
        await self.fails(GRANT, b"\x91" * 100_000)

    async def test_announced_lengths_take_no_memory(self):
        # An array of two billion, of arrays of two billion, and so on.
        server = await self.hostile(GRANT, b"\x94\x01\x01\xc0" + b"\xdd\x7f\xff\xff\xff" * 100)
        c = self.open(server.address)
        c.notify_x()
        await self.until("the grant", lambda: connection(c).connected)
        with self.assertRaises(yue_client.TimeoutError):
            await c.timed_anything(0.1)
        self.assertTrue(connection(c).connected)

    async def test_too_large_a_message_ends_the_link(self):
        for message in (b"\x94\x01\x01\xc0\xc6\x7f\xff\xff\xff" + bytes(3000), msgpack.packb([1, 1, None, "x" * 3000])):
            await self.fails(GRANT, message, text="more than 2000", message_max=2000)

    async def test_an_answer_before_garbage_arrives(self):
        server = await self.hostile(GRANT, msgpack.packb([1, 1, None, "fine"]) + b"\xc1")
        c = self.open(server.address, reconnect=False)
        self.assertEqual(await c.anything(), "fine")
        await self.until("the end", lambda: not connection(c).connected)

    async def test_an_answer_that_python_cannot_hold_fails_its_call_only(self):
        odd = b"\x94\x01\x01\xc0\x81\x91\x01\x01"  # A map whose key is an array.
        server = await self.hostile(GRANT, odd, msgpack.packb([1, 2, None, "fine"]))
        c = self.open(server.address)
        with self.assertRaises(yue_client.MessageRefusedError):
            await c.first()
        self.assertEqual(await c.second(), "fine")

    async def test_a_request_that_python_cannot_hold_is_answered(self):
        server = await self.hostile(GRANT, b"\x94\x00\x07\xa1f\x91\x81\x91\x01\x01" + msgpack.packb([1, 1, None, 1]))
        c = self.open(server.address)
        await c.anything()
        await self.until("the answer", lambda: any(b"MessageRefusedError" in data for data in server.received))

    async def test_an_answer_of_millions_of_arrays_fails_its_call_only_and_soon(self):
        for item in (b"\x90", b"\x80", b"\x91\x90", b"\xc7\0\1", b"\xd7\x59\1" + bytes(7)):
            many = b"\x94\x01\x01\xc0" + codec.array_header(4_000_000 // len(item)) + item * (4_000_000 // len(item))
            server = await self.hostile(GRANT, many, msgpack.packb([1, 2, None, "fine"]))
            c = self.open(server.address)
            with self.assertRaisesRegex(yue_client.MessageRefusedError, "more than 524288 arrays"):
                await c.first()
            self.assertEqual(await c.second(), "fine")

    async def test_a_request_of_millions_of_arrays_is_answered(self):
        many = b"\x94\x00\x07\xa1f" + codec.array_header(4_000_000) + b"\x90" * 4_000_000
        server = await self.hostile(GRANT, many + msgpack.packb([1, 1, None, 1]))
        c = self.open(server.address, symbols={"f": lambda *_: None})
        await c.anything()
        await self.until("the answer", lambda: any(b"MessageRefusedError" in data for data in server.received))

    async def test_the_collector_rests_while_a_large_message_is_decoded(self):
        # Otherwise it would look at all of them for every thousand.
        runs = []
        gc.callbacks.append(lambda phase, _: runs.append(phase))
        try:
            value = codec.unpack_bounded(b"\xdd\0\7\0\0" + b"\x90" * (7 << 16), msgpack.ExtType, 1 << 19)
            while_decoded = len(runs)
        finally:
            gc.callbacks.pop()
        self.assertEqual((len(value), while_decoded), (7 << 16, 0))
        self.assertTrue(gc.isenabled())

    async def test_a_large_message_of_few_arrays_is_decoded(self):
        value = [{"text": "x" * 100, "odd": b"\x90" * 200, "n": [1.5, None]}] * 10_000
        server = await self.hostile(*answer(1, 1, None, value))
        self.assertEqual(await self.open(server.address).anything(), value)

    async def test_unknown_ids_and_messages_are_ignored(self):
        ignored = [
            [1, 99, None, "x"], [2, "$yue/unknown", []], [2, "unknown", []], [2, "$yue/cancel", [7]],
            [2, "$yue/cancel", []], [2, "$yue/release", [[[1, 1], [2, 5]]]], [2, "$yue/release", [[[1]]]],
            [2, "$yue/release", [5]], [2, "$yue/release", []],
            [2, "$yue/granted", [5]], [2, 12345, []], [2, "$yue/chunk", [0, 10]],
        ]  # fmt: skip
        server = await self.hostile(GRANT, b"".join(map(msgpack.packb, ignored)) + msgpack.packb([1, 1, None, "fine"]))
        c = self.open(server.address, symbols={"f": lambda: 1})
        self.assertEqual(await c.anything(), "fine")

    async def test_malformed_references_are_opaque(self):
        values = [msgpack.ExtType(0x59, body) for body in (b"", b"\1", b"\3" * 8, b"\0" * 9)]
        server = await self.hostile(*answer(1, 1, None, values))
        self.assertEqual(await self.open(server.address).anything(), values)

    async def test_a_reference_to_nothing_is_no_function(self):
        server = await self.hostile(*answer(1, 1, None, msgpack.ExtType(0x59, b"\2" + bytes(7))))
        gone = await self.open(server.address).anything()
        with self.assertRaises(yue_client.NoMethodError):
            gone()

    async def test_a_large_release_takes_only_what_was_given(self):
        server = await self.hostile(GRANT, b"", b"")
        c = self.open(server.address)
        c.notify_keep(print)
        await self.until("the function", lambda: connection(c).functions_held == 1)
        link = connection(c)._link
        [id] = link._exports
        for release in ([id, 0], [id, -5], [id, True], ["x", 1], [id + 1, 9]):
            link._handle_release([[release]])
        self.assertEqual(link.functions_held, 1)
        link._handle_release([[[id, 2**63]]])
        self.assertEqual(link.functions_held, 0)

    async def test_functions_in_answers_that_come_too_late_are_released(self):
        function = msgpack.ExtType(0x59, b"\1" + bytes(6) + b"\5")
        server = await self.hostile(GRANT, b"", msgpack.packb([1, 1, None, [function, function]]))
        c = self.open(server.address)
        with self.assertRaises(yue_client.TimeoutError):
            await c.timed_anything(0.02)
        release = msgpack.packb([2, "$yue/release", [[[5, 2]]]])

        def released():
            c.notify_poke()
            gc.collect()
            return release in b"".join(server.received)

        await self.until("the release", released)

    async def test_a_legacy_server_gets_plain_messages(self):
        server = await self.hostile(LEGACY, msgpack.packb([1, 1, ["odd", "error"], None]))
        c = self.open(server.address)
        with self.assertRaises(yue_client.RPCError) as caught:
            await c.anything(1)
        self.assertEqual(caught.exception.value, ["odd", "error"])
        self.assertEqual(server.received[1], b"\x94\x00\xce\x00\x00\x00\x01\xa8anything\x91\x01")

    async def test_a_legacy_server_has_no_functions(self):
        value = msgpack.ExtType(0x59, b"\1" + bytes(7))
        server = await self.hostile(LEGACY, msgpack.packb([1, 1, None, value]))
        self.assertEqual(await self.open(server.address).anything(), value)

    async def test_a_yue_peer_gets_the_remaining_time(self):
        server = await self.hostile(*answer(1, 1, None, 1))
        await self.open(server.address).timed_anything(5)
        message = msgpack.unpackb(server.received[1])
        self.assertEqual(message[:4], [0, 1, "anything", []])
        self.assertTrue(0 < message[4]["t"] <= 5000)

    async def test_a_late_request_is_not_started(self):
        started = []
        server = await self.hostile(GRANT, msgpack.packb([0, 7, "f", [], {"t": 0}]) + msgpack.packb([1, 1, None, 1]))
        c = self.open(server.address, symbols={"f": lambda: started.append(1)})
        await c.anything()
        await self.until("the answer", lambda: any(b"TimeoutError" in data for data in server.received))
        self.assertEqual(started, [])

    async def test_a_peer_that_reads_nothing_is_bounded(self):
        server = await self.hostile(GRANT, Hostile.STOP)
        c = self.open(server.address, output_high=10_000, output_max=100_000, held_max=10_000)
        c.notify_x()
        await self.until("the grant", lambda: connection(c).connected)
        text = "x" * 20_000

        async def is_full():
            # The system takes more for a while; then a call is not even written.
            while c.notify_x(text):
                self.assertLess(connection(c)._link.queued_bytes, 150_000)
            with self.assertRaises(yue_client.TimeoutError) as caught:
                await c.timed_x(0.05)
            return caught.exception.retryable

        await self.until("a full queue", is_full)

    async def test_no_request_starts_while_the_peer_reads_nothing(self):
        started = []

        def large(n):
            started.append(n)
            return "x" * 20_000

        requests = b"".join(msgpack.packb([0, n, "large", [n]]) for n in range(1000))
        cancel = msgpack.packb([2, "$yue/cancel", [999]])
        server = await self.hostile(GRANT, requests + cancel, Hostile.STOP)
        c = self.open(server.address, output_high=10_000, symbols={"large": large})
        c.notify_x()
        await self.until("the first requests", lambda: started)
        handlers = connection(c)._handlers
        await self.until("the cancellation", lambda: len(handlers.waiting) + len(started) == 999)
        await asyncio.sleep(0.05)
        self.assertLess(len(started), 900)
        self.assertEqual(started, list(range(len(started))))

    async def test_no_request_starts_once_the_connection_is_closed(self):
        started = []

        def closing():
            started.append("closing")
            connection(c).close()

        async def slow():
            started.append("slow")
            connection(c).close()

        for first in (closing, slow):
            started.clear()
            requests = b"".join(msgpack.packb([2, name, []]) for name in ("first", "second", "second"))
            server = await self.hostile(GRANT, requests)
            c = self.open(server.address, symbols={"first": first, "second": lambda: started.append("second")})
            c.notify_x()
            await self.until("the first request", lambda: started)
            await asyncio.sleep(0.05)
            self.assertEqual(len(started), 1, started)

    async def test_messages_in_pieces_are_put_together(self):
        whole = GRANT + msgpack.packb([1, 1, None, {"a": ["x" * 50, 1.5, None]}])
        server = await self.hostile([bytes([byte]) for byte in whole])
        # The first call gets msgid 1.
        self.assertEqual(await self.open(server.address).anything(), {"a": ["x" * 50, 1.5, None]})

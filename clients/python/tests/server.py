"""Servers for the tests: programs of yue, and hostile ones that send chosen bytes."""
import asyncio
import os
import random
import socket
import subprocess
import tempfile
import unittest

import yue_client

YUE = os.environ.get("YUE", "yue")
LONG = 30
"""Seconds that a test waits for what must come."""


class Server:
    """A program of yue that listens at an address that the program takes from `yue.args[1]`."""

    def __init__(self, code, address="tcp://127.0.0.1:0"):
        self.code = code
        self.folder = tempfile.TemporaryDirectory()
        path = os.path.join(self.folder.name, "server.lua")
        with open(path, "w") as file:
            file.write("local yue = require 'yue'\n" + code)
            file.write("\nio.stdout:write('at ' .. listener:addr() .. '\\n')\nio.stdout:flush()\n")
        self.errors = open(os.path.join(self.folder.name, "stderr"), "w+")
        command = [YUE, path, address]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("at "):
            self.stop()
            raise AssertionError(f"the server did not start: {line!r}")
        self.address = line.split()[1]

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()
        self.folder.cleanup()


class Hostile:
    """A server that sends what the test chooses: one reply for each piece of input.

    A reply is bytes, a list of bytes that are sent one after another, or `STOP`: it reads no more.
    """

    STOP = object()

    def __init__(self, *replies):
        self.replies = list(replies)
        self.received = []
        self.links = 0
        self._open = set()
        self._stopped = asyncio.Event()

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = "tcp://127.0.0.1:%d" % self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader, writer):
        self.links += 1
        self._open.add(writer)
        try:
            for reply in self.replies:
                data = await reader.read(65536)
                if not data:
                    return
                self.received.append(data)
                if reply is self.STOP:
                    await self._stopped.wait()
                    return
                for piece in reply if isinstance(reply, list) else [reply]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
            while data := await reader.read(65536):
                self.received.append(data)
        except ConnectionError:
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def stop(self):
        self._server.close()
        self._stopped.set()
        for writer in list(self._open):
            writer.close()
        await self._server.wait_closed()
        # The tasks that serve see the end.
        while self._open:
            await asyncio.sleep(0.001)


class Case(unittest.IsolatedAsyncioTestCase):
    """A test whose servers and connections end with it."""

    def setUp(self):
        self._servers = []
        self._connections = []

    def serve(self, code, *args, **named):
        server = Server(code, *args, **named)
        self._servers.append(server)
        return server

    def open(self, address, **options):
        options.setdefault("timeout", LONG)
        procedures = yue_client.open(address, **options)
        self._connections.append(yue_client.connection(procedures))
        return procedures

    async def asyncSetUp(self):
        # The tests run in asyncio's debug mode, on machines that may be slow.
        asyncio.get_running_loop().slow_callback_duration = LONG

    async def hostile(self, *replies):
        server = await Hostile(*replies).start()
        self.addAsyncCleanup(server.stop)
        return server

    async def asyncTearDown(self):
        for connection in self._connections:
            connection.close()
        await asyncio.sleep(0)

    def tearDown(self):
        for server in self._servers:
            server.stop()

    async def until(self, what, condition):
        """Waits until a condition holds."""
        for _ in range(LONG * 100):
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)
        self.fail(f"this did not come: {what}")


def free_port():
    """A port that nobody uses, below those that the system chooses for others meanwhile."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def shown_server(code):
    """Starts a server that a page shows, at a port of the system's choice."""
    code = code.replace("local yue = require 'yue'\n", "").replace("yue.listen(", "local listener = yue.listen(")
    return Server(code.replace("'tcp://127.0.0.1:8080'", "yue.args[1]"))

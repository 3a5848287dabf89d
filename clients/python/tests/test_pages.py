"""The programs of the book's page on other engines run, and print what they show.

A program whose language or library is missing is skipped, unless `YUE_CLIENTS_PYTHON` says that `ci/clients` has
installed everything.
"""
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

from server import LONG, shown_server
from test_readme import blocks

PAGE = os.path.join(os.path.dirname(__file__), "../../../docs/src/other-engines.md")


class Pages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(PAGE) as file:
            cls.text = file.read()
        [server] = blocks(cls.text, "lua,fragment")
        cls.server = shown_server(server)
        cls.port = int(cls.server.address.rpartition(":")[2])

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def needs(self, what, is_there):
        if not is_there:
            self.assertNotIn("YUE_CLIENTS_PYTHON", os.environ, f"{what} is missing")
            self.skipTest(f"{what} is missing")

    def prints(self, program, mark, command):
        shown = [line[len(mark) + 1 :] for line in program.splitlines() if line.startswith(mark)]
        self.assertTrue(shown)
        printed = subprocess.run(command, capture_output=True, text=True, timeout=LONG, env=self.environment())
        self.assertEqual((printed.stderr, printed.stdout.splitlines()), ("", shown))

    def environment(self):
        modules = os.environ.get("YUE_CLIENTS_NODE_MODULES", "")
        return {**os.environ, "NODE_PATH": modules, "PYTHONWARNINGS": "ignore"}

    def runs(self, *command):
        try:
            return subprocess.run(command, capture_output=True, env=self.environment()).returncode == 0
        except FileNotFoundError:
            return False

    def program(self, language, number=0):
        return re.sub(r"\b8080\b", str(self.port), blocks(self.text, language)[number])

    def test_python(self):
        for number, module in enumerate(("pynvim", "aio_msgpack_rpc")):
            with self.subTest(module):
                self.needs(module, self.runs(sys.executable, "-c", f"import {module}"))
                program = self.program("python", number)
                self.prints(program, "#>", [sys.executable, "-c", program])

    def test_node(self):
        self.needs("msgpack5rpc", self.runs("node", "-e", "require('msgpack5rpc')"))
        program = self.program("js")
        self.prints(program, "//>", ["node", "-e", program])

    def test_cpp(self):
        self.needs("g++", shutil.which("g++"))
        self.needs("nlohmann/json", os.path.exists("/usr/include/nlohmann/json.hpp"))
        program = self.program("cpp")
        with tempfile.TemporaryDirectory() as folder:
            source, built = os.path.join(folder, "client.cpp"), os.path.join(folder, "client")
            with open(source, "w") as file:
                file.write(program)
            subprocess.run(["g++", "-std=c++17", "-Wall", "-Werror", "-o", built, source], check=True)
            self.prints(program, "//>", [built])

    def test_bytes(self):
        lines = re.findall(r"^   ((?:[0-9a-f]{2} )+)  ", self.text, re.MULTILINE)
        sent, expected = (bytes.fromhex(line) for line in lines)
        with socket.create_connection(("127.0.0.1", self.port), LONG) as connection:
            connection.sendall(sent)
            received = b""
            while len(received) < len(expected):
                received += connection.recv(1000)
        self.assertEqual(received, expected)

"""The README's programs run, and print what they show after `#>`."""
import os
import subprocess
import sys
import unittest

from server import LONG, shown_server

README = os.path.join(os.path.dirname(__file__), "..", "README.md")


def blocks(text, language):
    parts = text.split(f"```{language}\n")[1:]
    return [part.split("```")[0] for part in parts]


class Readme(unittest.TestCase):
    def test_the_readmes_client_prints_what_it_shows(self):
        with open(README) as file:
            text = file.read()
        [code], [client] = blocks(text, "lua"), blocks(text, "python")
        shown = [line[3:] for line in client.splitlines() if line.startswith("#> ")]
        server = shown_server(code)
        try:
            client = client.replace("tcp://127.0.0.1:8080", server.address)
            printed = subprocess.run([sys.executable, "-c", client], capture_output=True, text=True, timeout=LONG)
        finally:
            server.stop()
        self.assertEqual(printed.stderr, "")
        self.assertEqual(printed.stdout.splitlines(), shown)

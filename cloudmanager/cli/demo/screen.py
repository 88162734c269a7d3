"""What the demo shows."""

import json
import os
import shlex
import shutil
import sys

from rich.console import Console
from rich.text import Text

from cloudmanager.cli.findings import print_line

NEXT = (
    ("configure it", "{program} config example > cloudmanager.toml"),
    ("check this machine", "{program} doctor"),
    ("run it", "{program} serve"),
    ("look at its interface", "http://127.0.0.1:8600/docs"),
)


class Screen:
    """Numbered steps, each with what is done and what comes of it."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._steps = 0
        self._print("Any disk, as one NBD address: the whole way, on this machine.", "bold")

    def step(self, title: str) -> None:
        self._steps += 1
        self._console.print()
        self._print(f"{self._steps}  {title}", "bold")

    def command(self, *words: str) -> None:
        self._print(f"$ {shlex.join(words)}", "cyan", indent=3)

    def request(self, method: str, path: str, body: object = None) -> None:
        self._print(f"> {method} {path} {json.dumps(body) if body else ''}".rstrip(), "cyan", indent=3)

    def fact(self, text: str) -> None:
        self._print(text, indent=3)

    def good(self, text: str) -> None:
        self._print(f"✓ {text}", "green", indent=3)

    def failed(self, text: str) -> None:
        self._console.print()
        self._print(f"✗ {text}", "red")

    def done(self, seconds: float) -> None:
        self._console.print()
        self._print(f"All of it worked, in {seconds:.1f} s. What to try next:", "bold")
        for aim, command in NEXT:
            self._print(f"{aim:<23}{command.format(program=_program())}", indent=3)

    def _print(self, text: str, style: str = "", indent: int = 0) -> None:
        print_line(self._console, Text(text, style, overflow="fold"), indent)


def _program() -> str:
    """How this command line is called here: by its name if that is on PATH, else as it was."""
    return "cloudmanager" if shutil.which("cloudmanager") else os.path.relpath(sys.argv[0])

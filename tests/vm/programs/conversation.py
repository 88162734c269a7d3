"""How a program in the test machine talks with the test that has started it."""

import json
import sys


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def receive() -> str:
    """Waits for a line. An empty one: go on."""
    return sys.stdin.readline().strip()

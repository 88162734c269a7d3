"""Commands in the test machine, through QEMU's guest agent: no network, no login."""

import base64
import time
from dataclasses import dataclass

from cloudmanager.testing.cloud.qmp import Channel

LOOK_SECONDS = 0.1
RUN_SECONDS = 180


@dataclass(frozen=True)
class Done:
    status: int
    output: str
    """Standard output and standard error."""


class GuestAgent(Channel):
    """`guest-exec` is asynchronous: a command is started, and asked for until it has ended."""

    def run(self, command: str, stdin: str = "", timeout: float = RUN_SECONDS) -> Done:
        """Runs a line of shell."""
        arguments = {
            "path": "/bin/sh",
            "arg": ["-c", f"exec 2>&1; {command}"],
            "input-data": base64.b64encode(stdin.encode()).decode(),
            "capture-output": True,
        }
        pid = self.execute("guest-exec", arguments)["pid"]
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            status = self.execute("guest-exec-status", {"pid": pid})
            if status["exited"]:
                return Done(status.get("exitcode", -1), base64.b64decode(status.get("out-data", "")).decode())
            time.sleep(LOOK_SECONDS)
        raise TimeoutError(f"{command!r} has not ended after {timeout:g} s")

    def read(self, command: str, timeout: float = RUN_SECONDS) -> str:
        """What a line of shell that succeeds prints, without the newline at its end."""
        done = self.run(command, timeout=timeout)
        assert done.status == 0, f"{command}: {done.status}\n{done.output}"
        return done.output.rstrip("\n")

"""The command line. Each command imports what it needs when it runs, so that --help is quick and the light
installation (client and command line) has no need of the server's packages.
"""

import sys
from pathlib import Path
from typing import NoReturn

from cloudmanager.cli import streams
from cloudmanager.cli.exits import Exit
from cloudmanager.client.errors import ClientError
from cloudmanager.core.errors import CloudManagerError


def main() -> None:
    """The console script `cloudmanager`. Exit codes: `cloudmanager.cli.exits`.

    A failure is one line on standard error. `python -X dev -m cloudmanager` shows the traceback of a defect.
    """
    streams.prepare()
    try:
        _run()
    except streams.OutputFailed as error:
        streams.give_up()
        _fail("" if error.is_unwanted else str(error), error)
    finally:
        _write_the_rest()


def _run() -> None:
    from cloudmanager.cli.app import app

    try:
        app(prog_name="cloudmanager")
    except CloudManagerError as error:
        _fail(f"{error.title}: {error.detail}", error)
    except ClientError as error:
        _fail(error.detail, error)
    except KeyboardInterrupt:  # before a command has begun
        sys.exit(Exit.INTERRUPTED)
    except streams.OutputFailed:
        raise
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        _fail(f"{named}{error.strerror or error}.", error)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        _fail(
            f"{type(error).__name__}: {error} ({_raised_at(error)}). This is a defect of cloudmanager: report it.",
            error,
        )


def _write_the_rest() -> None:
    try:
        streams.flush()
    except streams.OutputFailed as error:
        _fail("" if error.is_unwanted else str(error), error)


def _fail(why: str, error: BaseException) -> NoReturn:
    lines = [line.strip() for text in (why, *getattr(error, "__notes__", ())) for line in text.splitlines()]
    if message := "; ".join(filter(None, lines)).replace(":; ", ": "):
        print(f"cloudmanager: {streams.printable(message)}", file=sys.stderr)
    sys.exit(Exit.ERROR)


def _raised_at(error: BaseException) -> str:
    """Where it was raised, for whoever looks into it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "somewhere"

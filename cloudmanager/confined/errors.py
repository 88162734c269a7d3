"""Why a confined program could not be started. Each side maps these to errors of its own."""


class Unconfinable(Exception):
    """The program cannot be confined as it should be, and so it does not run.

    The text is for a person: what is missing, and what to do about it.
    """

    def __init__(self, reason: str, *, is_passing: bool = False) -> None:
        """`is_passing`: the next attempt may succeed."""
        super().__init__(reason)
        self.is_passing = is_passing


class Ended(Exception):
    """The program ended before it had done what it was started for."""

    def __init__(self, status: int | None = None) -> None:
        """`status` is its exit status, negative or above 128 for a signal, where that is known."""
        super().__init__(f"ended with status {status}")
        self.status = status


class NoAnswer(Exception):
    """The deadline passed."""

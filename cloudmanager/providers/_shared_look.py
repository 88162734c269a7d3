"""One look at something in the cloud that serves all who want to know it at the same time."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key")
Seen = TypeVar("Seen")


class SharedLook(Generic[Seen]):
    """Callers say how old an answer may be. Those that wait at the same time share one call. Thread-safe."""

    def __init__(self, call: Callable[[], Seen]) -> None:
        self._call = call
        self._seen: Seen | None = None
        self._began = float("-inf")
        """When the call began that `_seen` is the answer of, on the monotonic clock."""
        self._earliest = float("-inf")
        self._is_looking = False
        self._waiting = 0
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """How many wait for the look of another thread."""
        with self._changed:
            return self._waiting

    def look(self, max_age: float = 0.0) -> Seen:
        """What a call has answered that began at most `max_age` seconds ago. Raises what the call raises."""
        wanted = time.monotonic() - max_age
        with self._changed:
            while True:
                if self._seen is not None and self._began >= max(wanted, self._earliest):
                    return self._seen
                if not self._is_looking:
                    break
                self._waiting += 1
                self._changed.wait()
                self._waiting -= 1
            self._is_looking = True
        began = time.monotonic()
        seen = None
        try:
            seen = self._call()
            return seen
        finally:
            with self._changed:
                self._is_looking = False
                if seen is not None:
                    self._seen, self._began = seen, began
                self._changed.notify_all()

    def latest(self, max_age: float) -> Seen | None:
        """What was seen at most `max_age` seconds ago, if anything; makes no call."""
        with self._changed:
            is_new = self._began >= max(time.monotonic() - max_age, self._earliest)
            return self._seen if is_new else None

    def outdate(self) -> None:
        """Something has changed: what was seen before now is too old for anybody."""
        with self._changed:
            self._earliest = time.monotonic()


class SharedLooks(Generic[Key, Seen]):
    """One call that answers for all keys that are waited for at the same time. Thread-safe."""

    def __init__(self, call: Callable[[Collection[Key]], Mapping[Key, Seen | Exception]], most: int = 200) -> None:
        """`call` answers for each of at most `most` keys, with what is raised where that is an error."""
        self._call = call
        self._most = most
        self._wanted: dict[Key, _Answer[Seen]] = {}
        self._is_looking = False
        self._changed = threading.Condition()

    def look(self, key: Key) -> Seen:
        """What a call has answered that began after this one. Raises what it answers, or raises itself."""
        with self._changed:
            answer = self._wanted.setdefault(key, _Answer())
        while not self._is_answered(answer):
            self._look()
        return answer.given()

    def _is_answered(self, answer: "_Answer[Seen]") -> bool:
        """False: the caller has to make the next call, for itself and for the others."""
        with self._changed:
            while answer.result is None and self._is_looking:
                self._changed.wait()
            if answer.result is None:
                self._is_looking = True
            return answer.result is not None

    def _look(self) -> None:
        with self._changed:
            taken = dict(list(self._wanted.items())[: self._most])
            for key in taken:
                del self._wanted[key]
        try:
            seen: Mapping[Key, Seen | Exception] = self._call(taken)
        except Exception as error:
            seen = dict.fromkeys(taken, error)
        with self._changed:
            self._is_looking = False
            for key, answer in taken.items():
                answer.result = seen.get(key) or KeyError(key)
            self._changed.notify_all()


class _Answer(Generic[Seen]):
    """What those that wait for a key get."""

    def __init__(self) -> None:
        self.result: Seen | Exception | None = None

    def given(self) -> Seen:
        """Once there is a result."""
        if self.result is None or isinstance(self.result, Exception):
            raise self.result or LookupError
        return self.result

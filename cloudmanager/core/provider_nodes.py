"""This machine's identity and location, for each provider."""

import logging
import threading
import time
from dataclasses import dataclass

from cloudmanager.core.backoff import Backoff
from cloudmanager.core.errors import CloudManagerError, CloudUnavailable
from cloudmanager.core.model import Finding, Node, Problem, Severity
from cloudmanager.core.plugins import Plugins, Provider

START_TIMEOUT_SECONDS = 15.0
"""How long the start waits for answers. A machine's own cloud answers at once, unless there is an outage."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProviderNode:
    """What one provider answers: this machine, or the error."""

    node: Node | None = None
    error: CloudManagerError | None = None


class ProviderNodes:
    """Calls every provider at once, and those with a passing error again: outages do not affect other clouds."""

    def __init__(self, plugins: Plugins, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        self._plugins = plugins
        self._timeout_seconds = timeout_seconds
        self._known: dict[str, ProviderNode] = {}
        self._answered = threading.Condition()
        self._closing = threading.Event()

    def learn(self) -> None:
        """Returns when each provider has answered, or has had its time. Raises what is final: the setup is wrong."""
        for provider in self._plugins:
            threading.Thread(target=self._ask, args=(provider,), name=f"ask {provider.name}", daemon=True).start()
        deadline = time.monotonic() + self._timeout_seconds
        for provider in self._plugins:
            error = self._first_answer(provider.name, deadline).error
            if error is None:
                continue
            if not error.retriable:
                raise error
            log.warning("provider %s is asked again later who this machine is: %s", provider.name, error.detail)

    def of(self, provider: str) -> ProviderNode:
        """What is known now, without a call to the provider."""
        with self._answered:
            if known := self._known.get(provider):
                return known
        return ProviderNode(error=CloudUnavailable(f"Provider {provider} has not answered yet who this machine is."))

    def findings(self) -> list[Finding]:
        """One for each provider that cannot say."""
        known = [(provider.name, self.of(provider.name).error) for provider in self._plugins]
        return [
            Finding(f"provider {name}", Severity.WARNING, error.title.lower(), f"{error.detail} It is asked again.")
            for name, error in known
            if error
        ]

    def close(self) -> None:
        """Asks no provider again. A call that hangs is left alone."""
        self._closing.set()

    def _first_answer(self, provider: str, deadline: float) -> ProviderNode:
        with self._answered:
            self._answered.wait_for(lambda: provider in self._known, max(0.0, deadline - time.monotonic()))
        return self.of(provider)

    def _ask(self, provider: Provider) -> None:
        """Until it knows, or never will."""
        backoff = Backoff()
        while not self._closing.is_set():
            answer = _answer(provider)
            with self._answered:
                self._known[provider.name] = answer
                self._answered.notify_all()
            if answer.error is None or not answer.error.retriable:
                return
            now = time.monotonic()
            again = backoff.strike(provider.name, now, at_least=answer.error.retry_after)
            self._closing.wait(again - now)


def problem_of(answer: ProviderNode) -> Problem | None:
    return None if answer.error is None else Problem.of(answer.error)


def _answer(provider: Provider) -> ProviderNode:
    try:
        return ProviderNode(provider.node())
    except CloudManagerError as error:
        return ProviderNode(error=error)

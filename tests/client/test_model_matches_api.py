"""The client imports nothing of the server; here both are held against each other."""

import dataclasses
import pickle
import subprocess
import sys

import pytest
from pydantic import BaseModel

from cloudmanager.api import answers
from cloudmanager.api import errors as http_errors
from cloudmanager.api.problems import STATUS, by_code
from cloudmanager.client import errors, model
from cloudmanager.client.address import Credentials
from cloudmanager.client.exchange import read
from cloudmanager.core import errors as core_errors
from cloudmanager.core.errors import CloudManagerError

ANSWERS: dict[type[BaseModel], type] = {
    answers.Export: model.Export,
    answers.Disk: model.Disk,
    answers.Attachment: model.Attachment,
    answers.Provider: model.Provider,
    answers.ProviderNode: model.ProviderNode,
    answers.Node: model.Node,
    answers.AuditEvent: model.AuditEvent,
    answers.Finding: model.Finding,
    answers.Readiness: model.Health,
    answers.KeptError: model.Problem,
    answers.MaintenanceAction: model.MaintenanceAction,
    answers.Credentials: Credentials,
}
LISTS_AND_PROBLEMS = {answers.AnswerModel, answers.Items, answers.Health, answers.Problem, answers.Mistake}
OF_A_DEPLOYMENT = {answers.Written, answers.Digests}
"""Read where they are asked for."""
EVENT = {
    "id": 1,
    "at": "2026-01-31T12:00:00Z",
    "node": "n",
    "event": "export.ready",
    "disk": "local:a",
    "export_id": None,
    "holder": None,
    "detail": "",
}


@pytest.mark.parametrize("code", sorted(by_code()))
def test_every_code_of_the_service_has_its_error(code: str) -> None:
    theirs, ours = by_code()[code], errors.BY_CODE[code]
    assert ours.__name__ == theirs.__name__
    assert _ancestors(ours, errors.ServiceError) == _ancestors(theirs, CloudManagerError)


def _ancestors(kind: type, root: type) -> list[str]:
    return [each.__name__ for each in kind.__mro__ if issubclass(each, root) and each is not root]


def test_there_is_no_error_that_the_service_does_not_have() -> None:
    assert set(errors.BY_CODE) - {"error"} == set(by_code())


def test_the_table_of_statuses_has_every_error_of_the_service() -> None:
    defined = [
        kind for module in (core_errors, http_errors) for kind in vars(module).values() if isinstance(kind, type)
    ]
    assert {kind for kind in defined if issubclass(kind, CloudManagerError)} <= set(STATUS)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.__name__)
def test_every_field_of_an_answer_is_read(answer: type[answers.AnswerModel]) -> None:
    assert {field.name for field in dataclasses.fields(ANSWERS[answer])} == set(answer.model_fields)


def test_every_answer_is_known() -> None:
    found = {
        each for each in vars(answers).values() if isinstance(each, type) and issubclass(each, answers.AnswerModel)
    }
    lists = {each for each in found if issubclass(each, answers.Items)}
    assert found - lists - LISTS_AND_PROBLEMS - OF_A_DEPLOYMENT == set(ANSWERS)


def test_what_a_newer_service_adds_is_left_out() -> None:
    assert read(model.AuditEvent, {**EVENT, "colour": "red"}, "event").event == "export.ready"


@pytest.mark.parametrize("name", sorted(EVENT))
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(errors.UnexpectedAnswer, match=rf"lacks event\.{name}\."):
        read(model.AuditEvent, {key: value for key, value in EVENT.items() if key != name}, "event")


@pytest.mark.parametrize(
    "wrong", [{"id": "1"}, {"id": True}, {"at": "soon"}, {"at": 7}, {"node": None}, {"export_id": 1}, {"detail": []}]
)
def test_what_is_of_another_kind_is_named(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(errors.UnexpectedAnswer, match=rf"event\.{name}"):
        read(model.AuditEvent, {**EVENT, **wrong}, "event")


@pytest.mark.parametrize("kind", sorted({*errors.BY_CODE.values()}, key=str))
def test_an_error_survives_a_task_queue(kind: type[errors.ServiceError]) -> None:
    error = kind("What to do.", status=409, holder="alice", cloud_code="E7", retry_after=3.0, mistakes=("a: b",))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(copy), str(copy), vars(copy)) == (kind, "What to do.", vars(error))


def test_a_loss_survives_a_task_queue() -> None:
    lost = errors.ExportLost("Gone.", reason=errors.LostReason.FAILED, export_id="7", problem=errors.Throttled("Slow."))
    copy = pickle.loads(pickle.dumps(lost))  # noqa: S301 - our own
    assert (copy.reason, copy.export_id, str(copy.problem)) == (lost.reason, "7", "Slow.")


IMPORTED = """
import sys
before = set(sys.modules)
from cloudmanager.client import CloudManager, errors
CloudManager("http://localhost:1")
print(*sorted(set(sys.modules) - before), sep="\\n")
"""


def test_importing_it_is_light() -> None:
    """Neither the server, nor what is slow to import before it is needed."""
    command = [sys.executable, "-I", "-c", IMPORTED]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in imported if name.startswith("cloudmanager.")}
    assert {name for name in ours if not name.startswith("cloudmanager.client")} == set()
    assert not {"httpx", "asyncio", "ssl", "pydantic", "rich", "typer"} & set(imported)
    assert len(imported) < 120
